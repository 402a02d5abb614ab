package s2dev

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
)

// storageFailure records that a storage can no longer tell what is on disk (full, broken, gone).
// From then on nothing is acknowledged, health is not OK, and the process has been told once.
type storageFailure struct {
	failed    atomic.Bool
	closing   atomic.Bool // the storage is being closed: later errors come from that
	onFailure func(error)
}

// errFailed is the error of a storage that has failed.
var errFailed = errors.New("s2dev: storage has failed")

// newStorageFailure returns a storageFailure that calls tell. Without tell it ends the process by a
// panic in a goroutine of its own: a panic in a request would end only that request.
func newStorageFailure(tell func(error)) *storageFailure {
	if tell == nil {
		tell = func(err error) { go panic(err) }
	}
	return &storageFailure{onFailure: tell}
}

// report returns err. It first calls onFailure, if this is the first error of writing.
func (f *storageFailure) report(err error) error {
	if err != nil && !f.closing.Load() && !f.failed.Swap(true) {
		f.onFailure(fmt.Errorf("%w: %w", errFailed, err))
	}
	return err
}

// err returns errFailed once the storage has failed.
func (f *storageFailure) err() error {
	if f.failed.Load() {
		return errFailed
	}
	return nil
}

// pebbleLog passes on Pebble's log. Pebble calls Fatalf where it cannot know what is on disk. To
// continue would acknowledge records that may be lost.
type pebbleLog struct {
	*slog.Logger
	failure *storageFailure
}

func (l pebbleLog) Infof(string, ...any) {}
func (l pebbleLog) Errorf(format string, args ...any) {
	l.Error("storage", "err", fmt.Sprintf(format, args...))
}

// Fatalf does not return: Pebble relies on that.
func (l pebbleLog) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	_ = l.failure.report(err)
	panic(fmt.Errorf("%w: %w", errFailed, err))
}

// openError explains why a folder could not be opened.
func openError(dir string, err error) error {
	if errors.Is(err, syscall.EAGAIN) || err.Error() == "lock held by current process" {
		return fmt.Errorf("s2dev: %s is in use by another process, and one at a time may have it", dir)
	}
	return fmt.Errorf("s2dev: open %s: %w", dir, err)
}
