package reactor

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
)

func newLoop(r *Reactor) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(ep, true); err != nil { // so that os.File waits with the runtime's poller
		_ = unix.Close(ep)
		return nil, err
	}
	return &loop{
		Reactor: r, tickEvery: tickInterval(r.cfg.Rules), epollFD: ep, epoll: os.NewFile(uintptr(ep), "epoll"),
		wake: make(sse.WakeSignal, 1), events: make(chan []unix.EpollEvent), eventsHandled: make(chan struct{}),
		streams: map[sse.SetKey]*streamReaders{}, blocked: map[*conn]uint64{}, ending: map[*conn]sse.Instant{},
		now: time.Now(), nowInstant: r.cfg.Rules.At(time.Now()), lastTick: time.Now(),
	}, nil
}

// poll waits for the epoll descriptor with the runtime's poller, and passes the events to run, one
// batch at a time. Events are level-triggered, so none is lost between batches.
func (l *loop) poll() {
	raw, err := l.epoll.SyscallConn()
	if err != nil {
		return
	}
	batch := make([]unix.EpollEvent, maxEpollEvents)
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), batch, 0)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				return true
			case n == 0:
				return false
			}
			select {
			case l.events <- batch[:n]:
				<-l.eventsHandled
			case <-l.ctx.Done():
				return true
			}
		}
	})
}

// run runs as the loop's goroutine: it handles mail, news, events and timers, one turn after the
// other.
func (l *loop) run() {
	tick := time.NewTicker(l.tickEvery)
	defer tick.Stop()
	fine := time.NewTicker(fineTick)
	defer fine.Stop()
	fine.Stop()
	defer l.closeAll()
	for ticks := false; ; {
		l.receiveMail()
		if len(l.soon) > 0 != ticks {
			if ticks = !ticks; ticks {
				fine.Reset(fineTick)
			} else {
				fine.Stop()
			}
		}
		var idle chan struct{} // nil unless there is more to do
		if l.runTurn() {
			idle = closedChannel
		}
		select {
		case <-l.wake:
		case <-idle:
		case batch := <-l.events:
			l.setNow()
			for i := range batch {
				l.handleEvent(&batch[i])
			}
			l.eventsHandled <- struct{}{}
		case <-tick.C:
			l.setNow()
			l.tick()
		case <-fine.C:
			l.setNow()
			l.runTimers()
		case <-l.rebalanceSignal():
			l.disconnectForBalance()
		case <-l.ctx.Done():
			return
		}
	}
}

// closedChannel is always ready.
var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// receiveMail runs the mailed functions and queues the streams with news.
func (l *loop) receiveMail() {
	l.mu.Lock()
	mail, woken := l.mailbox, l.woken
	l.mailbox, l.woken = nil, nil
	l.mu.Unlock()
	l.setNow()
	l.cursor = position.CursorAt(l.cfg.Now())
	for _, do := range mail {
		do()
	}
	for _, group := range woken {
		l.queueStream(group)
	}
}

// closeAll closes every reader, those that are still in the mailbox too.
func (l *loop) closeAll() {
	l.mu.Lock()
	l.closed = true
	mail := l.mailbox
	l.mailbox = nil
	l.mu.Unlock()
	for _, do := range mail {
		do()
	}
	for c := range l.conns.all() {
		l.closeConn(c)
	}
	_ = l.epoll.Close()
}

// tickInterval returns how often a loop checks its timers.
func tickInterval(rules *sse.Rules) time.Duration {
	return min(max(min(rules.Heartbeat/32, rules.Stall/4), 10*time.Millisecond), time.Second)
}
