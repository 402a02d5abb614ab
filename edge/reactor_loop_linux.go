package edge

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// loop owns readers. Everything but the mailbox is its goroutine's.
type loop struct {
	reactor       *reactor
	server        *Server
	epoll         *os.File
	epollFD       int
	wake          wakeSignal
	events        chan []unix.EpollEvent
	eventsHandled chan struct{} // unbuffered: a batch of events was handled

	mu      sync.Mutex
	mailbox []func()
	woken   []*streamReaders // each at most once
	closed  bool             // no mail is taken any more

	conns        connTable
	streams      map[frameKey]*streamReaders
	withNews     []*streamReaders // have news; each at most once
	unfinished   []connRef        // have had their turn, and are owed more; each at most once
	blocked      map[*conn]uint64 // what the client had taken at the last look
	ending       map[*conn]struct{}
	holdingSince map[*conn]heldSince
	pageQueue    []connRef // wait for a page
	pageReads    int
	pageRetries  []scheduledConn // ask for their page again
	drainTurns   []scheduledConn // leave in a drain
	wheel        [wheelSlots][]connRef
	wheelSlot    int // of the wheel, at the last tick
	lastTick     time.Time

	now               time.Time
	interval          uint64
	iov               []unix.Iovec
	tlsBuf            []byte // lent to the TLS of the reader that is written to
	readBuf           [512]byte
	shared            sharedWrite
	uncountedMessages int     // messages, not counted yet
	uncountedBytes    int     // bytes, not counted yet
	newestTime        uint64  // S2's time (ms) of the newest message written in this turn to a reader that was up to date; 0: none
	spareOut          *outBuf // lent to the cursor that is pumped, or to the step; nil: one that is stuck has it
}

const (
	wheelSlots     = 64
	maxTurnReaders = 256     // of one stream, in one turn
	maxTurnBytes   = 1 << 20 // and bytes
	maxPageReads   = 32      // reads of history under way for one loop
	maxEndingTime  = time.Second
	maxEpollEvents = 256
	maxIovecs      = 1024 // of one call
)

// heldSince holds a session's held-back bytes and the time since which they are held.
type heldSince struct {
	upTo  uint64
	since time.Time
}

// scheduledConn names a reader and the time at which something is due for it.
type scheduledConn struct {
	at  time.Time
	ref connRef
}

func newLoop(x *reactor) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(ep, true); err != nil { // so that os.File waits by the runtime's poller
		_ = unix.Close(ep)
		return nil, err
	}
	return &loop{
		reactor: x, server: x.server, epollFD: ep, epoll: os.NewFile(uintptr(ep), "epoll"),
		wake: make(wakeSignal, 1), events: make(chan []unix.EpollEvent), eventsHandled: make(chan struct{}),
		streams: map[frameKey]*streamReaders{}, blocked: map[*conn]uint64{}, ending: map[*conn]struct{}{}, holdingSince: map[*conn]heldSince{},
		now: time.Now(), lastTick: time.Now(),
	}, nil
}

// post has the loop do something soon; refused, if not nil, is called instead if the loop
// has ended.
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

// poll waits for the epoll descriptor by the runtime's poller, and hands its events over
// one batch at a time: they are level-triggered.
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
			case <-l.reactor.ctx.Done():
				return true
			}
		}
	})
}

// run is the loop.
func (l *loop) run() {
	tick := time.NewTicker(l.server.cfg.tickInterval())
	defer tick.Stop()
	fine := time.NewTicker(drainTick)
	defer fine.Stop()
	fine.Stop()
	defer l.closeAll()
	for drains := false; ; {
		l.receiveMail()
		if len(l.drainTurns) > 0 != drains {
			if drains = !drains; drains {
				fine.Reset(drainTick)
			} else {
				fine.Stop()
			}
		}
		var idle chan struct{} // never ready
		if l.runTurn() {
			idle = closedChannel
		}
		select {
		case <-l.wake:
		case <-idle:
		case batch := <-l.events:
			l.now = time.Now()
			for i := range batch {
				l.handleEvent(&batch[i])
			}
			l.eventsHandled <- struct{}{}
		case <-tick.C:
			l.now = time.Now()
			l.tick()
		case <-fine.C:
			l.now = time.Now()
			l.runDrainTurns()
		case <-l.rebalanceSignal():
			l.disconnectForBalance()
		case <-l.reactor.ctx.Done():
			return
		}
	}
}

// drainTick is the precision of the turns of a drain.
const drainTick = 50 * time.Millisecond

// closedChannel is always so.
var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// receiveMail takes the mail.
func (l *loop) receiveMail() {
	l.mu.Lock()
	mail, woken := l.mailbox, l.woken
	l.mailbox, l.woken = nil, nil
	l.mu.Unlock()
	l.now = time.Now()
	l.interval = cursorAt(l.server.cfg.Now())
	for _, do := range mail {
		do()
	}
	for _, ch := range woken {
		l.queueStream(ch)
	}
}

func (l *loop) queueStream(ch *streamReaders) {
	if !ch.queued && len(ch.readers) > 0 {
		ch.queued = true
		l.withNews = append(l.withNews, ch)
	}
}

// elapsed is now, since the reactor was made.
func (l *loop) elapsed() time.Duration { return l.now.Sub(l.reactor.startedAt) }

// closeAll ends every reader, those that are only just coming as well.
func (l *loop) closeAll() {
	l.mu.Lock()
	l.closed = true
	mail := l.mailbox
	l.mailbox = nil
	l.mu.Unlock()
	for _, do := range mail {
		do()
	}
	for r := range l.conns.all() {
		l.closeConn(r)
	}
	_ = l.epoll.Close()
}
