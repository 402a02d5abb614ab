package s2dev

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
)

// storageFailure is the end of a storage that can no longer tell what is on the disk (full, broken, gone).
// From then on nothing is acknowledged, health is not OK, and the process is told, once.
type storageFailure struct {
	failed    atomic.Bool
	closing   atomic.Bool // the storage closes: what fails now fails because of that
	onFailure func(error)
}

// errFailed is what a storage answers that has failed.
var errFailed = errors.New("s2dev: storage has failed")

// newStorageFailure returns one that calls tell, or ends the process: from a goroutine of its own, since a
// panic of a request's is the request's end only.
func newStorageFailure(tell func(error)) *storageFailure {
	if tell == nil {
		tell = func(err error) { go panic(err) }
	}
	return &storageFailure{onFailure: tell}
}

// report passes an error of writing on, after it has told of it.
func (f *storageFailure) report(err error) error {
	if err != nil && !f.closing.Load() && !f.failed.Swap(true) {
		f.onFailure(fmt.Errorf("%w: %w", errFailed, err))
	}
	return err
}

// err is what whoever wants to write is answered: nil as long as the storage has not failed.
func (f *storageFailure) err() error {
	if f.failed.Load() {
		return errFailed
	}
	return nil
}

// pebbleLog passes Pebble's log on. Pebble calls Fatalf where it cannot know what is on the disk;
// going on would acknowledge what may be lost.
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

// openError words why a folder could not be opened.
func openError(dir string, err error) error {
	if errors.Is(err, syscall.EAGAIN) || err.Error() == "lock held by current process" {
		return fmt.Errorf("s2dev: %s is in use by another process, and one at a time may have it", dir)
	}
	return fmt.Errorf("s2dev: open %s: %w", dir, err)
}
