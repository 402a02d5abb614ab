package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/fantail-dev/fantail/shard/s2dev"
)

// s2Cmd is the embedded S2 as a server of its own.
type s2Cmd struct {
	Listen      string         `help:"Address; loopback unless --allow-remote." default:"127.0.0.1:4430"`
	Data        string         `help:"Folder that keeps the data; none is memory."`
	Sync        s2dev.SyncMode `help:"When data is forced to disk: always, interval or never." default:"always"`
	SyncEvery   time.Duration  `help:"Interval of --sync=interval." default:"100ms"`
	Basin       []string       `help:"Basins made at the start." default:"fantail-dev"`
	AllowRemote bool           `help:"Listen beyond loopback. There is NO authentication: anybody who reaches the address can read and delete everything."`
}

// Run serves until a signal.
func (c *s2Cmd) Run(ctx context.Context, log *slog.Logger) error {
	s, err := s2dev.Open(s2dev.Config{
		Listen: c.Listen, Dir: c.Data, Sync: c.Sync, SyncEvery: c.SyncEvery,
		Basins: c.Basin, AllowRemote: c.AllowRemote, Logger: log,
	})
	if err != nil {
		return err
	}
	log.Info("embedded S2", "url", s.URL())
	<-ctx.Done()
	return s.Close()
}
