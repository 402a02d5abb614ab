package main

import (
	"context"
	"log/slog"
	"os"
)

// Run serves until a signal.
func (c *serveCmd) Run(ctx context.Context, log *slog.Logger, format logFormat, again repeatedStop) error {
	cfg, err := c.nodeConfig(log)
	if err != nil {
		return err
	}
	cfg.memory = findMemoryLimit(c.Memory, os.Getenv, "/")
	cfg.memory.applyTo(&cfg, cfg.log, os.Getenv)
	cfg.edge.MaxReaders = limitReaders(cfg.edge.MaxReaders, raiseFilesLimit(), cfg.log)
	if c.AccessLog {
		cfg.edge.AccessLog = newAccessLog(string(format), c.Name)
	}
	cfg.logSettings()
	manager, err := openServiceManager(os.Getenv, cfg.log)
	if err != nil {
		return err
	}
	n, err := startNode(ctx, cfg)
	if err != nil {
		return err
	}
	at := []any{"http", n.publicListener.Addr().String(), "admin", n.adminListener.Addr().String()}
	if n.relay != nil {
		gossip, relay := n.relay.ListenAddrs()
		at = append(at, "gossip", gossip, "relay", relay)
	}
	n.cfg.log.Info("serving", at...)
	return n.serveUnderManager(ctx, manager, again)
}
