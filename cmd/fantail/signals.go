package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/cluster"
)

// adoptLog makes the process's log that of the libraries, too, and ignores SIGPIPE: otherwise Go
// would end the process when it writes to a pipe without a reader.
func adoptLog(log *slog.Logger) {
	signal.Ignore(syscall.SIGPIPE)
	slog.SetDefault(log)
	cluster.UseLogForGRPC(log)
}

// sameStopWithin is the time after a stop signal during which further ones count as the same:
// wrappers (npm, timeout, a terminal's process group) send several.
const sameStopWithin = time.Second

// repeatedStop receives the stop signals that come later than sameStopWithin after the first.
type repeatedStop <-chan os.Signal

// stopOnSignal returns a context that ends with the first stop signal. Later signals are sent to
// again; with exits they end the process. done stops the handling of signals.
func stopOnSignal(parent context.Context, exits bool) (ctx context.Context, again repeatedStop, done func()) {
	ctx, cancel := context.WithCancel(parent)
	all := make(chan os.Signal, 4)
	signal.Notify(all, stopSignals()...)
	more := make(chan os.Signal, 1)
	over := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		dispatchStops(all, over, cancel, func(s os.Signal) {
			if exits {
				os.Exit(1)
			}
			select {
			case more <- s:
			default:
			}
		})
	}()
	return ctx, more, func() {
		signal.Stop(all)
		close(over)
		<-ended
		cancel()
	}
}

// stopSignals returns the signals that end a command. SIGHUP is not one if the command was started
// to outlive its terminal (nohup).
func stopSignals() []os.Signal {
	s := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		s = append(s, syscall.SIGHUP)
	}
	return s
}

// dispatchStops calls stop for the first signal, and again for each signal later than
// sameStopWithin, until over is closed.
func dispatchStops(signals <-chan os.Signal, over <-chan struct{}, stop func(), again func(os.Signal)) {
	var first time.Time
	for {
		select {
		case s := <-signals:
			switch {
			case first.IsZero():
				first = time.Now()
				stop()
			case time.Since(first) >= sameStopWithin:
				again(s)
			}
		case <-over:
			return
		}
	}
}
