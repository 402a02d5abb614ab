package s2dev

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// SyncMode chooses when data in Dir is forced to disk.
type SyncMode string

const (
	// SyncAlways acknowledges an append after an fsync that covers it. It is the default.
	SyncAlways SyncMode = "always"
	// SyncInterval acknowledges immediately and fsyncs every SyncEvery. A crash of the machine
	// loses what was acknowledged since the last fsync began. A crash of the process alone may lose
	// as much: the end of the log, up to 32 KiB, reaches the operating system only with the fsync.
	SyncInterval SyncMode = "interval"
	// SyncNever acknowledges immediately and never fsyncs for an append. A crash of the machine
	// loses what the operating system had not written. A crash of the process alone loses up to the
	// last 32 KiB of the log, however long ago they were acknowledged. Close loses nothing.
	SyncNever SyncMode = "never"
)

const (
	defaultSyncEvery = 100 * time.Millisecond
	defaultMaxBytes  = 1 << 30
)

// Config holds the settings of a Server. The zero value is a server in memory on a free port.
type Config struct {
	// Listen is host:port; default 127.0.0.1:0. A host that is not loopback is refused unless
	// AllowRemote.
	Listen string
	// Dir is the folder with the data. Empty: data is kept in memory. Only one Server at a time can
	// open a Dir.
	Dir string
	// Sync chooses when data in Dir is forced to disk; default SyncAlways.
	Sync SyncMode
	// SyncEvery is the interval of SyncInterval; default 100 ms.
	SyncEvery time.Duration
	// AllowRemote allows Listen to be an address that other machines can reach. There is no
	// authentication: every client that reaches it can read and delete everything.
	AllowRemote bool
	// Basins are created at the start if they do not exist.
	Basins []string
	// Now returns the time for timestamps, retention and session minutes; default time.Now.
	Now func() time.Time
	// Logger receives log lines; default: they are discarded.
	Logger *slog.Logger
	// Fatal is called once when the storage in Dir has failed. The process should end then: only
	// opening the folder again shows what is on disk. Until then nothing is acknowledged. Default:
	// a panic.
	Fatal func(error)
	// MaxBytes bounds the records kept in memory, in bytes with their overhead; default 1 GiB,
	// without effect with Dir. When it is full, appends are refused with 403 quota_exhausted, and
	// nothing is dropped. So that a trim can make room, two kinds of batches pass: a batch with a
	// trim that frees as much as the batch takes; and, up to a sixteenth beyond MaxBytes, a batch
	// with a trim, or with commands only.
	MaxBytes int64

	fs      vfs.FS // replaced by tests; nil: the operating system's
	failure *storageFailure
}

func (c Config) withDefaults() (Config, error) {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Sync == "" {
		c.Sync = SyncAlways
	}
	switch c.Sync {
	case SyncAlways, SyncInterval, SyncNever:
	default:
		return c, fmt.Errorf("s2dev: unknown sync mode %q", c.Sync)
	}
	if c.SyncEvery <= 0 {
		c.SyncEvery = defaultSyncEvery
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = defaultMaxBytes
	}
	return c, c.checkListen()
}

func (c Config) checkListen() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("s2dev: listen address %q: %w", c.Listen, err)
	}
	if c.AllowRemote || isLoopback(host) {
		return nil
	}
	return fmt.Errorf("s2dev: %q is not loopback, and this server has no authentication: "+
		"every client that reaches it can read and delete everything (--allow-remote, or Config.AllowRemote, permits it)", c.Listen)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
