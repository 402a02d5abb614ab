package reactor

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// loop serves its share of the readers. Its goroutine, run, owns all fields but those guarded by mu
// (which post and streamReaders.Wake fill); wake, events and eventsHandled are channels.
type loop struct {
	*Reactor
	epoll         *os.File
	epollFD       int
	wake          sse.WakeSignal
	events        chan []unix.EpollEvent
	eventsHandled chan struct{} // unbuffered: poll may reuse the batch of events

	mu      sync.Mutex
	mailbox []func()
	woken   []*streamReaders // each at most once
	closed  bool             // post refuses mail

	conns       connTable
	streams     map[sse.SetKey]*streamReaders
	withNews    []*streamReaders      // have news; each at most once
	unfinished  []connRef             // have had their turn, and have more output; each at most once
	blocked     map[*conn]uint64      // what the client had acknowledged at the last check
	ending      map[*conn]sse.Instant // since when
	pageQueue   []connRef             // wait for a page read
	pageReads   int
	wheel       [wheelSlots][]timer
	wheelSlot   int // the slot of wheel at lastTick
	lastTick    time.Time
	soon        []timer // less than two ticks away
	spareTimers []timer // the memory of soon, in turn

	now               time.Time
	nowInstant        sse.Instant // the same
	tickEvery         time.Duration
	cursor            uint64 // the Stream-Cursor of this moment
	iov               []unix.Iovec
	tlsBuf            []byte // lent to the tlsWriter of the reader that is being written to
	readBuf           [512]byte
	shared            sse.SharedWrite
	uncountedMessages int               // not added to the metrics yet
	uncountedBytes    int               // not added to the metrics yet
	newestTime        shard.Millis      // S2's time (ms) of the newest message written in this turn to an up-to-date reader; 0: none
	spareOut          *sse.OutputBuffer // lent to the session that is being written, or to shared; nil: a blocked session has it
}

const (
	maxTurnReaders = 256     // readers of one stream in one turn
	maxTurnBytes   = 1 << 20 // bytes written to them
	maxPageReads   = 32      // page reads in progress for one loop
	maxEndingTime  = time.Second
	maxEpollEvents = 256
	maxIovecs      = 1024 // in one call
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

// post mails the loop a function to run. If the loop has ended, it calls refused instead, if
// that is not nil.
func (l *loop) post(do, refused func()) {
	l.mu.Lock()
	over := l.closed
	if !over {
		l.mailbox = append(l.mailbox, do)
	}
	l.mu.Unlock()
	switch {
	case !over:
		l.wake.Wake()
	case refused != nil:
		refused()
	}
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

// run is the loop's goroutine: it handles mail, news, events and timers, one turn after the other.
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

func (l *loop) queueStream(group *streamReaders) {
	if !group.queued && len(group.readers) > 0 {
		group.queued = true
		l.withNews = append(l.withNews, group)
	}
}

// setNow sets the loop's present moment.
func (l *loop) setNow() {
	l.now = time.Now()
	l.nowInstant = l.cfg.Rules.At(l.now)
}

// elapsed returns the loop's present moment.
func (l *loop) elapsed() sse.Instant { return l.nowInstant }

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
