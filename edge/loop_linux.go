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
	x      *reactor
	s      *Server
	epoll  *os.File
	ep     int
	wake   signal
	events chan []unix.EpollEvent
	done   chan struct{} // unbuffered: a batch of events was handled

	mu    sync.Mutex
	mail  []func()
	woken []*channel // each at most once
	over  bool       // no mail is taken any more

	seats    seats
	channels map[frameKey]*channel
	dirty    []*channel       // have news; each at most once
	again    []ref            // have had their turn, and are owed more; each at most once
	blocked  map[*conn]uint64 // what the client had taken at the last look
	ending   map[*conn]struct{}
	holding  map[*conn]heldSince
	pages    []ref // wait for a page
	fetching int
	later    []turn // ask for their page again
	leaving  []turn // leave in a drain
	wheel    [wheelSlots][]ref
	spoke    int // of the wheel, at the last tick
	ticked   time.Time

	now       time.Time
	interval  uint64
	iov       []unix.Iovec
	sealed    []byte // lent to the TLS of the reader that is written to
	heard     [512]byte
	step      step
	delivered int    // messages, not counted yet
	sent      int    // bytes, not counted yet
	newest    uint64 // S2's time (ms) of the newest message written in this turn to who was up to date; 0: none
	room      *room  // lent to the cursor that is pumped, or to the step; nil: one that is stuck has it
}

const (
	wheelSlots  = 64
	turnReaders = 256     // of one stream, in one turn
	turnBytes   = 1 << 20 // and bytes
	pagesAtOnce = 32      // reads of history under way for one loop
	endTime     = time.Second
	eventsBatch = 256
	maxBuffers  = 1024 // of one call
)

// heldSince is what a cursor holds, and since when.
type heldSince struct {
	what  uint64
	since time.Time
}

// turn is when something is due for a reader.
type turn struct {
	at time.Time
	r  ref
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
		x: x, s: x.s, ep: ep, epoll: os.NewFile(uintptr(ep), "epoll"),
		wake: make(signal, 1), events: make(chan []unix.EpollEvent), done: make(chan struct{}),
		channels: map[frameKey]*channel{}, blocked: map[*conn]uint64{}, ending: map[*conn]struct{}{}, holding: map[*conn]heldSince{},
		now: time.Now(), ticked: time.Now(),
	}, nil
}

// post has the loop do something soon; refused, if not nil, is called instead if the loop
// has ended.
func (l *loop) post(do, refused func()) {
	l.mu.Lock()
	over := l.over
	if !over {
		l.mail = append(l.mail, do)
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
	batch := make([]unix.EpollEvent, eventsBatch)
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
				<-l.done
			case <-l.x.ctx.Done():
				return true
			}
		}
	})
}

// run is the loop.
func (l *loop) run() {
	tick := time.NewTicker(l.s.cfg.tick())
	defer tick.Stop()
	fine := time.NewTicker(drainGrain)
	defer fine.Stop()
	fine.Stop()
	defer l.end()
	for drains := false; ; {
		l.receive()
		if len(l.leaving) > 0 != drains {
			if drains = !drains; drains {
				fine.Reset(drainGrain)
			} else {
				fine.Stop()
			}
		}
		var idle chan struct{} // never ready
		if l.work() {
			idle = ready
		}
		select {
		case <-l.wake:
		case <-idle:
		case batch := <-l.events:
			l.now = time.Now()
			for i := range batch {
				l.event(&batch[i])
			}
			l.done <- struct{}{}
		case <-tick.C:
			l.now = time.Now()
			l.tick()
		case <-fine.C:
			l.now = time.Now()
			l.farewells()
		case <-l.sheds():
			l.shed()
		case <-l.x.ctx.Done():
			return
		}
	}
}

// drainGrain is how exactly turns of a drain are kept.
const drainGrain = 50 * time.Millisecond

// ready is always so.
var ready = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// receive takes the mail.
func (l *loop) receive() {
	l.mu.Lock()
	mail, woken := l.mail, l.woken
	l.mail, l.woken = nil, nil
	l.mu.Unlock()
	l.now = time.Now()
	l.interval = interval(l.s.cfg.Now())
	for _, do := range mail {
		do()
	}
	for _, ch := range woken {
		l.list(ch)
	}
}

func (l *loop) list(ch *channel) {
	if !ch.listed && len(ch.readers) > 0 {
		ch.listed = true
		l.dirty = append(l.dirty, ch)
	}
}

// since is now, since the reactor was made.
func (l *loop) since() time.Duration { return l.now.Sub(l.x.base) }

// end ends every reader, those that are only just coming as well.
func (l *loop) end() {
	l.mu.Lock()
	l.over = true
	mail := l.mail
	l.mail = nil
	l.mu.Unlock()
	for _, do := range mail {
		do()
	}
	for r := range l.seats.all() {
		l.gone(r)
	}
	_ = l.epoll.Close()
}
