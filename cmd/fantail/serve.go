package main

import (
	"context"
	"log/slog"
)

// Run serves until a signal.
func (c *serveCmd) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := c.node(log)
	if err != nil {
		return err
	}
	n, err := startNode(ctx, cfg)
	if err != nil {
		return err
	}
	n.cfg.log.Info("serving", "http", n.http.Addr().String(), "admin", n.adminAt.Addr().String())
	return n.wait(ctx)
}
