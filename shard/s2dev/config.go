package s2dev

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// SyncMode says when what is written to Dir is forced to the disk.
type SyncMode string

const (
	// SyncAlways acknowledges an append after an fsync that covers it. The default.
	SyncAlways SyncMode = "always"
	// SyncInterval acknowledges at once and fsyncs every SyncEvery: a crash of the machine loses
	// what was acknowledged since the last fsync began. So may a crash of the process alone: the
	// end of the log, up to 32 KiB, reaches the operating system only with the fsync.
	SyncInterval SyncMode = "interval"
	// SyncNever acknowledges at once and never fsyncs for an append: a crash of the machine loses
	// what the operating system had not written, a crash of the process alone the last up to
	// 32 KiB of the log, however long ago they were acknowledged. Close loses nothing.
	SyncNever SyncMode = "never"
)

const (
	defaultSyncEvery = 100 * time.Millisecond
	defaultMaxBytes  = 1 << 30
)

// Config is what a Server is opened with. The zero value is a server in memory on a free port.
type Config struct {
	// Listen is host:port; default 127.0.0.1:0. A host that is not loopback is refused unless
	// AllowRemote.
	Listen string
	// Dir keeps the data; empty keeps it in memory. One Server per Dir at a time.
	Dir string
	// Sync is when Dir is forced to disk; default SyncAlways.
	Sync SyncMode
	// SyncEvery is the interval of SyncInterval; default 100 ms.
	SyncEvery time.Duration
	// AllowRemote lets Listen be an address others can reach. There is no authentication:
	// anybody who reaches it can read and delete everything.
	AllowRemote bool
	// Basins are made at the start unless they exist.
	Basins []string
	// Prices turns Usage into money; the zero value is DefaultPrices.
	Prices Prices
	// Now is the clock of timestamps, retention and session minutes; default time.Now.
	Now func() time.Time
	// Logger; default discards.
	Logger *slog.Logger
	// Fatal is told, once, that the storage in Dir has failed: its process should end, since only
	// opening the folder again tells what is there. Until then nothing is acknowledged. Default: a
	// panic.
	Fatal func(error)
	// MaxBytes bounds the records kept in memory, in bytes with their overhead; default 1 GiB,
	// without meaning with Dir. When full, an append is refused with 403 quota_exhausted and
	// nothing is dropped. So that a trim can make room, a batch passes whose trim makes as much
	// as the batch takes; and up to a sixteenth beyond MaxBytes one of commands alone, or with a
	// trim.
	MaxBytes int64

	fs      vfs.FS // the tests' disk; nil is the operating system's
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
	if c.Prices == (Prices{}) {
		c.Prices = DefaultPrices
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
		"anybody who reaches it can read and delete everything (--allow-remote, or Config.AllowRemote, permits it)", c.Listen)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
