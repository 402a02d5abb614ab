package main

import (
	"context"
	"log/slog"
	"os"
)

// Run serves until a signal.
func (c *serveCmd) Run(ctx context.Context, log *slog.Logger, format logFormat, again stopAgain) error {
	cfg, err := c.node(log)
	if err != nil {
		return err
	}
	cfg.memory = findMemory(c.Memory, os.Getenv, "/")
	cfg.memory.apply(&cfg, cfg.log, os.Getenv)
	cfg.edge.MaxReaders = lowerReaders(cfg.edge.MaxReaders, filesLimit(), cfg.log)
	if c.AccessLog {
		cfg.edge.AccessLog = newAccessLog(string(format), c.Name)
	}
	cfg.logStart()
	n, err := startNode(ctx, cfg)
	if err != nil {
		return err
	}
	at := []any{"http", n.http.Addr().String(), "admin", n.adminAt.Addr().String()}
	if n.relay != nil {
		gossip, relay := n.relay.Addrs()
		at = append(at, "gossip", gossip, "relay", relay)
	}
	n.cfg.log.Info("serving", at...)
	return n.wait(ctx, again)
}
