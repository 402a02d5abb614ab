package edge

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/shard"
)

// reactor drives the cursors of event streams on plain HTTP/1.1: a few loops, each the
// owner of its connections and of an epoll descriptor. A reader costs no goroutine, no
// timer, no channel and no buffer; news of a stream is one poke for each loop, which then
// writes to each of its readers all that it is owed in one call.
//
// A connection comes from net/http, which has read the request and kept its limits: its
// descriptor is duplicated and the net.Conn closed, so that the runtime's poller forgets
// it. Only the loop writes to it or closes it. What it is asked by others comes by its
// mailbox.
type reactor struct {
	s    *Server
	base time.Time       // what readers count time from
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	loops  []*loop // made with the first reader
	turn   int     // whose the next reader is
	closed bool
}

func newReactor(s *Server) *reactor {
	x := &reactor{s: s, base: time.Now()}
	x.ctx, x.stop = context.WithCancel(context.Background())
	return x
}

// connKey is where a request's context has its connection.
type connKey struct{}

// connContext is an http.Server's ConnContext.
func connContext(ctx context.Context, c net.Conn) context.Context {
	if tcp, ok := c.(*net.TCPConn); ok {
		return context.WithValue(ctx, connKey{}, tcp)
	}
	return ctx
}

// take makes a loop serve the event stream; false: it is for the handler to serve.
func (x *reactor) take(w http.ResponseWriter, r *http.Request, d *driver) bool {
	_, plain := r.Context().Value(connKey{}).(*net.TCPConn)
	if x.s.cfg.NoReactor || !plain || r.ProtoMajor != 1 || r.TLS != nil || r.ContentLength != 0 {
		return false
	}
	l := x.next()
	if l == nil {
		return false
	}
	head := head(w.Header())
	tcp, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	fd, err := detach(tcp, x.s.cfg.Stall)
	if err != nil {
		x.s.cfg.Logger.Warn("detach a connection", "err", err)
		d.close()
		return true
	}
	l.post(func() { l.enter(&conn{d: d, c: d.c, fd: fd, pre: head}) }, func() {
		_ = unix.Close(fd)
		d.close()
	})
	return true
}

// head is the head of a response that ends with its connection.
func head(h http.Header) []byte {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\n")
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Connection", "close")
	_ = h.Write(&b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// detach takes the descriptor out of a connection.
func detach(c net.Conn, stall time.Duration) (fd int, err error) {
	defer func() { _ = c.Close() }()
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0, http.ErrNotSupported
	}
	raw, err := tcp.SyscallConn() // File would make it blocking
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return 0, cerr
	}
	if err == nil {
		// A stuck reader would hold megabytes of kernel memory.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(2*stall.Milliseconds())) // the loop counts it, before
	}
	return fd, err
}

const notSent = 64 << 10

// next is the loop of the next reader; nil: there is none.
func (x *reactor) next() *loop {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil
	}
	if x.loops == nil {
		for range runtime.GOMAXPROCS(0) {
			l, err := newLoop(x)
			if err != nil {
				x.s.cfg.Logger.Error("no reactor: every event stream has a goroutine", "err", err)
				break
			}
			x.loops = append(x.loops, l)
		}
		for _, l := range x.loops {
			x.wg.Go(l.run)
			x.wg.Go(l.poll)
		}
	}
	if len(x.loops) == 0 {
		return nil
	}
	x.turn++
	return x.loops[x.turn%len(x.loops)]
}

// each has every loop do something.
func (x *reactor) each(fn func(*loop)) {
	x.mu.Lock()
	loops := x.loops
	x.mu.Unlock()
	for _, l := range loops {
		l.post(func() { fn(l) }, nil)
	}
}

// close ends every reader at once and waits.
func (x *reactor) close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.stop()
	x.wg.Wait()
}

// loop owns readers. Everything but the mailbox is its goroutine's.
type loop struct {
	x      *reactor
	s      *Server
	epoll  *os.File
	ep     int
	wake   chan struct{} // cap 1, never closed
	events chan []unix.EpollEvent
	done   chan struct{} // unbuffered: a batch of events was handled

	mu    sync.Mutex
	mail  []func()
	woken []*channel // each at most once
	over  bool       // no mail is taken any more

	readers  []*conn  // by slot; nil: free
	gens     []uint32 // of the slots
	free     []uint32
	channels map[frameKey]*channel
	dirty    []*channel // have news; each at most once
	again    []*conn    // have had their turn, and are owed more; each at most once
	blocked  map[*conn]struct{}
	ending   map[*conn]struct{}
	pages    []*conn // wait for a page
	fetching int
	later    []turn // ask for their page again
	leaving  []turn // leave in a drain
	wheel    [wheelSlots][]ref
	spoke    int // of the wheel, at the last tick
	ticked   time.Time

	now      time.Time
	interval uint64
	iov      []unix.Iovec
	lent     lent
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

// ref names a reader that may be gone.
type ref struct{ slot, gen uint32 }

// turn is when something is due for a reader.
type turn struct {
	at time.Time
	r  ref
}

// conn is one event stream.
type conn struct {
	d  *driver
	c  *cursor
	ch *channel
	at int // in ch.readers
	fd int
	ref

	state  connState
	writes bool          // it waits to be writable
	queued bool          // in again
	last   bool          // it ends once pre is written
	reason reason        // it is to leave between two events, for this
	pre    []byte        // owed before what the cursor owes: the head, a heartbeat, the farewell
	began  time.Duration // when it came, since the reactor was made
	active time.Duration // when it took something, or was finished
	stuck  atomic.Int64  // since when it takes nothing; 0: it does
}

type connState uint8

const (
	connIdle   connState = iota // nothing is owed, or it has to wait for its turn
	connStuck                   // its connection takes no more
	connBehind                  // waits for a page
	connEnding                  // all is said; waits for the client to hang up
	connGone
)

// channel is the readers of one Tail in one framing.
type channel struct {
	l       *loop
	key     frameKey
	readers []*conn
	listed  bool       // in dirty
	walked  int        // readers[:walked] were looked at in this walk
	before  shard.Info // at its beginning: what it brings at least
	ended   bool       // this life was over by then
}

// Wake implements shard.Waker.
func (ch *channel) Wake() {
	l := ch.l
	l.mu.Lock()
	l.woken = append(l.woken, ch)
	l.mu.Unlock()
	poke(l.wake)
}

func poke(c chan struct{}) { signal(c).Wake() }

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
		wake: make(chan struct{}, 1), events: make(chan []unix.EpollEvent), done: make(chan struct{}),
		channels: map[frameKey]*channel{}, blocked: map[*conn]struct{}{}, ending: map[*conn]struct{}{},
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
		poke(l.wake)
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

// enter takes a reader in.
func (l *loop) enter(r *conn) {
	if n := len(l.free); n > 0 {
		r.slot = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		r.slot = uint32(len(l.readers))
		l.readers, l.gens = append(l.readers, nil), append(l.gens, 0)
	}
	r.gen = l.gens[r.slot]
	r.began, r.active = l.since(), l.since()
	l.readers[r.slot] = r
	if err := l.watch(unix.EPOLL_CTL_ADD, r, false); err != nil {
		l.s.cfg.Logger.Warn("watch a connection", "err", err)
		l.gone(r)
		return
	}
	key := frameKey{r.c.tail, r.c.form}
	ch := l.channels[key]
	if ch == nil {
		ch = &channel{l: l, key: key}
		l.channels[key] = ch
	}
	r.ch, r.at = ch, len(ch.readers)
	ch.readers = append(ch.readers, r)
	if len(ch.readers) == 1 {
		l.list(ch) // to be armed
	}
	l.schedule(r)
	if l.s.drain.on.Load() {
		l.sendOff(r)
	}
	l.pump(r)
}

// watch tells epoll what to look for: that the client hangs up, always, and that it takes
// more, if that is waited for.
func (l *loop) watch(op int, r *conn, writes bool) error {
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(r.slot), Pad: int32(r.gen)}
	if r.writes = writes; writes {
		ev.Events |= unix.EPOLLOUT
	}
	return unix.EpollCtl(l.ep, op, r.fd, &ev)
}

// event is news of a connection.
func (l *loop) event(ev *unix.EpollEvent) {
	r := l.lookup(ref{uint32(ev.Fd), uint32(ev.Pad)})
	switch {
	case r == nil:
	case ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0:
		l.gone(r)
	case ev.Events&unix.EPOLLOUT != 0 && r.state == connStuck:
		l.pump(r)
	}
}

// lookup is the reader, if it is still there.
func (l *loop) lookup(f ref) *conn {
	if int(f.slot) < len(l.readers) && l.gens[f.slot] == f.gen {
		return l.readers[f.slot]
	}
	return nil
}

// work is one turn: some readers of the stream that has waited longest. more: there is
// more to do.
func (l *loop) work() (more bool) {
	if n := min(len(l.again), turnReaders); n > 0 {
		turn := l.again[:n]
		if l.again = l.again[n:]; len(l.again) == 0 {
			l.again = nil
		}
		for _, r := range turn {
			r.queued = false
			if r.state == connIdle {
				l.pump(r)
			}
		}
	}
	if len(l.dirty) > 0 {
		ch := l.dirty[0]
		if l.dirty = l.dirty[1:]; len(l.dirty) == 0 {
			l.dirty = nil
		}
		ch.listed = false
		if l.walk(ch) {
			l.list(ch)
		}
	}
	return len(l.again) > 0 || len(l.dirty) > 0
}

// walk looks at some readers of a stream with news; more: not at all of them yet.
func (l *loop) walk(ch *channel) (more bool) {
	if tail := ch.key.tail; ch.walked == 0 {
		ch.ended = tail.Ended() != nil
		ch.before = tail.Info()
	}
	for n, sent := 0, 0; ch.walked < len(ch.readers); n++ {
		if n == turnReaders || sent >= turnBytes {
			return true
		}
		r := ch.readers[ch.walked]
		ch.walked++
		if r.state == connIdle {
			sent += l.pump(r)
		}
	}
	ch.walked = 0
	return len(ch.readers) > 0 && !ch.key.tail.Watch(ch, ch.before.Tail) && ch.news()
}

// news reports whether there has been any since the walk began. Who is still here at the
// end of a stream is stuck, or behind, and finds it out in time.
func (ch *channel) news() bool {
	now := ch.key.tail.Info()
	return now.Tail > ch.before.Tail || now.Closed != ch.before.Closed || !ch.ended && ch.key.tail.Ended() != nil
}

// pump writes what the reader is owed, as far as its connection takes it and its turn
// goes, and does what the cursor says then. It returns how many bytes were taken.
func (l *loop) pump(r *conn) (sent int) {
	l.lent.give(r.c)
	defer l.lent.takeBack(r.c)
	for r.state != connGone {
		r.c.interval = l.interval
		var owed net.Buffers
		if r.reason == "" || r.c.owes() { // it leaves between two events
			owed = r.c.pending(writeBudget)
		}
		if len(r.pre) == 0 && len(owed) == 0 {
			if r.reason == "" || r.last {
				l.rest(r)
				break
			}
			l.s.m.moved.WithLabelValues(string(r.reason)).Inc()
			r.pre, r.last = comeBack(comeBackSoon, comeBackLate), true
		}
		n, all, err := l.write(r, owed)
		if err != nil {
			l.gone(r)
			break
		}
		if sent += n; n > 0 {
			r.active = l.since()
			l.count(r.c)
		}
		if !all {
			l.stick(r, n > 0)
			break
		}
		l.unstick(r)
		if sent >= writeBudget {
			if !r.queued {
				r.queued = true
				l.again = append(l.again, r)
			}
			break
		}
	}
	return sent
}

func (l *loop) count(c *cursor) {
	if c.messages > 0 || c.gaps > 0 {
		l.s.m.deliveries.Add(float64(c.messages))
		l.s.m.gaps.Add(float64(c.gaps))
		c.messages, c.gaps = 0, 0
	}
}

// write writes what the reader is owed in one call; all: everything was taken.
func (l *loop) write(r *conn, owed net.Buffers) (n int, all bool, err error) {
	size := l.vector(r.pre, 0)
	for i := 0; i < len(owed) && len(l.iov) < maxBuffers; i++ {
		size = l.vector(owed[i], size)
	}
	wrote, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(r.fd), uintptr(unsafe.Pointer(&l.iov[0])), uintptr(len(l.iov)))
	clear(l.iov)
	l.iov = l.iov[:0]
	switch errno {
	case 0:
		n = int(wrote)
	case unix.EAGAIN, unix.EINTR:
		return 0, false, nil
	default:
		return 0, false, errno
	}
	pre := min(n, len(r.pre))
	if r.pre = r.pre[pre:]; len(r.pre) == 0 {
		r.pre = nil
	}
	r.c.wrote(n - pre)
	return n, n == size, nil
}

// vector adds b to what the next call writes; unix.Writev would allocate.
func (l *loop) vector(b []byte, size int) int {
	if len(b) > 0 {
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		l.iov = append(l.iov, v)
	}
	return size + len(b)
}

// stick notes that the connection takes no more for now.
func (l *loop) stick(r *conn, progress bool) {
	if r.state != connStuck {
		r.state = connStuck
		l.blocked[r] = struct{}{}
		l.s.frames.pins.add(r)
		progress = true
	}
	if progress {
		r.stuck.Store(int64(l.since()) + 1)
	}
	if !r.writes {
		if err := l.watch(unix.EPOLL_CTL_MOD, r, true); err != nil {
			l.gone(r)
		}
	}
	l.s.frames.pins.relieve()
}

func (l *loop) unstick(r *conn) {
	if r.state != connStuck {
		return
	}
	r.state = connIdle
	r.stuck.Store(0)
	delete(l.blocked, r)
	l.s.frames.pins.remove(r)
	if r.writes {
		if err := l.watch(unix.EPOLL_CTL_MOD, r, false); err != nil {
			l.gone(r)
		}
	}
}

// stuckFor and cut implement pinner.
func (r *conn) stuckFor(now time.Time) time.Duration {
	if at := r.stuck.Load(); at != 0 {
		return now.Sub(r.ch.l.x.base) - time.Duration(at)
	}
	return 0
}

func (r *conn) cut() {
	r.stuck.Store(0) // it is asked once
	l := r.ch.l
	l.post(func() {
		if l.lookup(r.ref) == r {
			l.s.m.cut.WithLabelValues(string(cutMemory)).Inc()
			l.gone(r)
		}
	}, nil)
}

// rest does what the cursor of a reader says that is owed nothing.
func (l *loop) rest(r *conn) {
	switch st := r.c.state(); {
	case r.last, st == stateClosed, st == stateGone:
		l.finish(r)
	case st == stateBehind:
		r.state = connBehind
		l.pages = append(l.pages, r)
		l.fetch()
	}
}

// fetch has pages read for readers below their Tail, outside the loop.
func (l *loop) fetch() {
	for l.fetching < pagesAtOnce && len(l.pages) > 0 {
		r := l.pages[0]
		l.pages[0] = nil
		if l.pages = l.pages[1:]; len(l.pages) == 0 {
			l.pages = nil
		}
		if l.lookup(r.ref) != r || r.state != connBehind {
			continue
		}
		l.fetching++
		leg, pos := r.c.at.leg(r.d.id, r.c.tail.Info()), r.c.at.pos
		l.x.wg.Go(func() {
			page, err := l.s.streams.ReadPage(l.x.ctx, leg.id, leg.info, pos)
			l.post(func() {
				l.fetching--
				l.paged(r, page, err)
				l.fetch()
			}, nil)
		})
	}
}

// paged is the page that a reader waited for.
func (l *loop) paged(r *conn, page shard.Range, err error) {
	if l.lookup(r.ref) != r || r.state != connBehind {
		return
	}
	switch err := r.d.turned(page, err); {
	case err == nil:
		r.state = connIdle
		l.pump(r)
	case passes(err): // storage does not answer
		l.later = append(l.later, turn{l.now.Add(pageAgain/2 + rand.N(pageAgain)), r.ref})
	default:
		l.finish(r)
	}
}

// finish ends the response: the client is told by the end of what this side sends, and
// hangs up. To close at once would lose what is still on its way if the client had sent
// anything that nobody has read.
func (l *loop) finish(r *conn) {
	if unix.Shutdown(r.fd, unix.SHUT_WR) != nil {
		l.gone(r)
		return
	}
	r.state, r.active = connEnding, l.since()
	l.ending[r] = struct{}{}
}

// gone forgets a reader and closes its connection.
func (l *loop) gone(r *conn) {
	if r.state == connGone {
		return
	}
	if r.state == connStuck {
		delete(l.blocked, r)
		l.s.frames.pins.remove(r)
	}
	delete(l.ending, r)
	r.state = connGone
	_ = unix.Close(r.fd) // which takes it out of epoll
	l.readers[r.slot] = nil
	l.gens[r.slot]++
	l.free = append(l.free, r.slot)
	if ch := r.ch; ch != nil {
		ch.remove(r)
		if len(ch.readers) == 0 {
			ch.key.tail.Unwatch(ch)
			delete(l.channels, ch.key)
		}
	}
	l.count(r.c)
	r.d.close()
}

// remove keeps apart who was looked at in this walk, and who was not.
func (ch *channel) remove(r *conn) {
	i := r.at
	put := func(j int) { // moves the reader at j to i, which is free
		ch.readers[i] = ch.readers[j]
		ch.readers[i].at = i
		i = j
	}
	if i < ch.walked {
		ch.walked--
		put(ch.walked)
	}
	last := len(ch.readers) - 1
	put(last)
	ch.readers[last] = nil
	ch.readers = ch.readers[:last]
}

// tick is time passing: heartbeats, pages to be asked for again, readers that take
// nothing or do not hang up.
func (l *loop) tick() {
	l.interval = interval(l.s.cfg.Now())
	every := l.s.cfg.tick()
	for n := 0; n < wheelSlots && l.now.Sub(l.ticked) >= every; n++ {
		l.ticked = l.ticked.Add(every)
		l.spoke = (l.spoke + 1) % wheelSlots
		due := l.wheel[l.spoke]
		l.wheel[l.spoke] = nil
		for _, f := range due {
			if r := l.lookup(f); r != nil {
				l.beat(r)
			}
		}
	}
	l.later = l.due(l.later, func(r *conn) {
		if r.state == connBehind {
			l.pages = append(l.pages, r)
		}
	})
	l.fetch()
	for r := range l.blocked {
		if r.stuckFor(l.now) >= l.s.cfg.Stall {
			l.s.m.cut.WithLabelValues(string(cutStalled)).Inc()
			l.gone(r)
		}
	}
	for r := range l.ending {
		if l.since()-r.active >= endTime {
			l.gone(r)
		}
	}
}

// due does something for those whose turn has come; the others are left.
func (l *loop) due(turns []turn, do func(*conn)) (left []turn) {
	return slices.DeleteFunc(turns, func(t turn) bool {
		if t.at.After(l.now) {
			return false
		}
		if r := l.lookup(t.r); r != nil {
			do(r)
		}
		return true
	})
}

// beat sends a heartbeat if the reader has heard nothing for long.
func (l *loop) beat(r *conn) {
	quiet := l.since()-r.active >= l.s.cfg.Heartbeat
	if quiet && r.state == connIdle && r.reason == "" && len(r.pre) == 0 && !r.c.owes() {
		r.pre = heartbeat
		l.pump(r)
	}
	if r.state != connGone {
		l.schedule(r)
	}
}

// heartbeat is a comment.
var heartbeat = []byte(":\n\n")

// schedule puts a reader where the wheel comes by when it may be due for a heartbeat:
// a little later than the least silence, at random.
func (l *loop) schedule(r *conn) {
	h := l.s.cfg.Heartbeat
	due := r.active + h + rand.N(h/4+1) - l.since()
	n := int(due/l.s.cfg.tick()) + 1
	n = (l.spoke + min(max(n, 1), wheelSlots-1)) % wheelSlots
	l.wheel[n] = append(l.wheel[n], r.ref)
}

// sendOff gives a reader its turn in the drain that is under way.
func (l *loop) sendOff(r *conn) {
	l.leaving = append(l.leaving, turn{l.now.Add(l.s.drain.turn(l.since() - r.began)), r.ref})
}

// drained begins a drain, or ends it.
func (l *loop) drained(on bool) {
	l.leaving = nil
	if !on {
		return
	}
	for _, r := range l.readers {
		if r != nil {
			l.sendOff(r)
		}
	}
	l.farewells()
}

// farewells has those leave whose turn has come.
func (l *loop) farewells() {
	l.leaving = l.due(l.leaving, func(r *conn) { l.dismiss(r, movedDrain) })
}

// dismiss has a reader leave once the event is complete that it is being written.
func (l *loop) dismiss(r *conn, why reason) {
	if r.reason != "" || r.state == connEnding {
		return
	}
	r.reason = why
	switch r.state {
	case connBehind:
		r.state = connIdle
		fallthrough
	case connIdle:
		l.pump(r)
	}
}

// sheds is where the loop hears that one of its readers is to go elsewhere.
func (l *loop) sheds() <-chan struct{} {
	if len(l.readers) == len(l.free) {
		return nil
	}
	return l.s.shed
}

// shed sends one reader elsewhere that has been here for a while, if it finds one.
func (l *loop) shed() {
	for range 64 {
		r := l.readers[rand.IntN(len(l.readers))]
		if r != nil && r.state == connIdle && r.reason == "" && l.since()-r.began >= settledAfter {
			l.dismiss(r, movedRebalance)
			return
		}
	}
}

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
	for _, r := range l.readers {
		if r != nil {
			l.gone(r)
		}
	}
	_ = l.epoll.Close()
}

// lent is the room that a cursor needs while it is pumped: one for all of a loop. A
// reader that is stuck keeps it.
type lent struct {
	owed    net.Buffers
	holds   []*frame
	scratch []shard.Range
}

func (t *lent) give(c *cursor) {
	if c.owed == nil {
		c.owed, c.holds = t.owed[:0], t.holds[:0]
		t.owed, t.holds = nil, nil
	}
	c.scratch, t.scratch = t.scratch[:0], nil
}

func (t *lent) takeBack(c *cursor) {
	t.scratch, c.scratch = c.scratch, nil
	if !c.owes() && c.owed != nil {
		t.owed, t.holds = c.owed[:0], c.holds[:0]
		c.owed, c.holds = nil, nil
	}
}
