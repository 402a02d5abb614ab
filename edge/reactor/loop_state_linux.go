package reactor

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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

// wheelSlots is the number of slots of a loop's wheel of timers.
const wheelSlots = 64

// timer names a reader and the moment at which the loop is to look at it.
type timer struct {
	at  sse.Instant
	ref connRef
}
