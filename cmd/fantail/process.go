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

// adopt makes the process's log the libraries' as well, and has the process outlive whatever reads
// its output: without that Go ends it when it writes to a pipe that nobody reads any more.
func adopt(log *slog.Logger) {
	signal.Ignore(syscall.SIGPIPE)
	slog.SetDefault(log)
	cluster.AdoptLog(log)
}

// oneStop is how long after a signal to stop others count as the same: wrappers (npm, timeout, a
// terminal's process group) send several.
const oneStop = time.Second

// stopAgain brings the signals that come after the first one, and after oneStop.
type stopAgain <-chan os.Signal

// stopping returns a context that ends with the first signal to stop. Another one comes from
// again; with exits it ends the process. done gives the signals back.
func stopping(parent context.Context, exits bool) (ctx context.Context, again stopAgain, done func()) {
	ctx, cancel := context.WithCancel(parent)
	all := make(chan os.Signal, 4)
	signal.Notify(all, stopSignals()...)
	more := make(chan os.Signal, 1)
	over := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		relayStops(all, over, cancel, func(s os.Signal) {
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

// relayStops calls stop for the first signal, and again for those that come after oneStop, until
// over.
func relayStops(signals <-chan os.Signal, over <-chan struct{}, stop func(), again func(os.Signal)) {
	var first time.Time
	for {
		select {
		case s := <-signals:
			switch {
			case first.IsZero():
				first = time.Now()
				stop()
			case time.Since(first) >= oneStop:
				again(s)
			}
		case <-over:
			return
		}
	}
}
