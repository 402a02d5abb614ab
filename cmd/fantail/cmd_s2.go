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

// s2Cmd runs the embedded S2 as a server.
type s2Cmd struct {
	Listen      string         `help:"Address to listen on. Without --allow-remote it must be loopback." default:"127.0.0.1:4430"`
	Data        string         `help:"Folder for the data (default: data is kept in memory)."`
	Sync        s2dev.SyncMode `help:"When data is forced to disk. always: before each acknowledgement. interval: every --sync-every. never: when the operating system decides. With the last two a crash loses acknowledged data." default:"always"`
	SyncEvery   time.Duration  `help:"Interval of --sync=interval." default:"100ms"`
	Basin       []string       `help:"Basins to create at the start." default:"fantail-dev"`
	AllowRemote bool           `help:"Allow an address that other machines can reach. There is NO authentication: every client that reaches it can read and delete everything."`
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
	stopBackups := func() error { return nil }
	if c.Data != "" {
		backUp := func(to string) error {
			began := time.Now()
			if err := s.Backup(to); err != nil {
				log.Error("backup failed", "to", to, "err", err)
				return err
			}
			log.Info("backed up", "to", to, "after", time.Since(began).Round(time.Millisecond))
			return nil
		}
		if stopBackups, err = serveBackups(c.Data, backUp); err != nil {
			log.Warn("fantail backup works only while this process is stopped", "err", err)
			stopBackups = func() error { return nil }
		}
	}
	began := time.Now()
	log.Info("embedded S2", "url", s.URL(), "data", cmp.Or(c.Data, "memory"), "sync", c.Sync, "version", currentBuild().version)
	<-ctx.Done()
	err = errors.Join(stopBackups(), s.Close())
	log.Info("stopped", "after", time.Since(began).Round(time.Millisecond))
	return err
}

// exitOnStorageFailure returns a function that ends the process with a line that says why: only
// opening the folder again shows what is on disk.
func exitOnStorageFailure(log *slog.Logger, dir string) func(error) {
	return func(err error) {
		log.Error("storage has failed, the process ends: nothing that was acknowledged is lost; start it again when the disk is in order", "data", dir, "err", err)
		os.Exit(1)
	}
}

// addressInUse adds the setting's name to an error of an address that is in use.
func addressInUse(setting string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %w: another process has it", setting, err)
	}
	return err
}
