package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
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
		Fatal: exitOnStorageFailure(log, c.Data),
	})
	if err != nil {
		return addressInUse("--listen", err)
	}
	began := time.Now()
	log.Info("embedded S2", "url", s.URL(), "data", cmp.Or(c.Data, "memory"), "sync", c.Sync, "version", currentBuild().version)
	<-ctx.Done()
	err = s.Close()
	log.Info("stopped", "after", time.Since(began).Round(time.Millisecond))
	return err
}

// exitOnStorageFailure ends the process, with a line that says why: what is on the disk can only be told by
// opening the folder again.
func exitOnStorageFailure(log *slog.Logger, dir string) func(error) {
	return func(err error) {
		log.Error("storage has failed, the process ends: nothing that was acknowledged is lost; start it again when the disk is in order", "data", dir, "err", err)
		os.Exit(1)
	}
}

// addressInUse names the setting whose address somebody else has.
func addressInUse(setting string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %w: another process has it", setting, err)
	}
	return err
}
