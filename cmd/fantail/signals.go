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

// adoptLog makes the process's log the libraries' as well, and has the process outlive whatever reads
// its output: without that Go ends it when it writes to a pipe that nobody reads any more.
func adoptLog(log *slog.Logger) {
	signal.Ignore(syscall.SIGPIPE)
	slog.SetDefault(log)
	cluster.AdoptLog(log)
}

// sameStopWithin is how long after a signal to stop others count as the same: wrappers (npm, timeout, a
// terminal's process group) send several.
const sameStopWithin = time.Second

// repeatedStop brings the signals that come after the first one, and after sameStopWithin.
type repeatedStop <-chan os.Signal

// stopOnSignal returns a context that ends with the first signal to stop. Another one comes from
// again; with exits it ends the process. done gives the signals back.
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

// stopSignals are the signals that end a command. What was started to outlive its terminal
// (nohup) does.
func stopSignals() []os.Signal {
	s := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		s = append(s, syscall.SIGHUP)
	}
	return s
}

// dispatchStops calls stop for the first signal, and again for those that come after sameStopWithin, until
// over.
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
