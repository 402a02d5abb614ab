package edge

import (
	"cmp"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/shard"
)

// conn is one event stream.
type conn struct {
	d  driver
	ch *channel
	at int32 // in ch.readers
	fd int32
	ref
	seal *seal // nil: plain

	state  connState
	armed  bool          // it waits to be writable
	queued bool          // in again
	last   bool          // it ends once pre is written
	why    leaving       // it is to leave between two events, for this
	pre    []byte        // owed before what the cursor owes: the head, a heartbeat, the farewell
	began  time.Duration // when it came, since the reactor was made
	active time.Duration // when it took something, or was finished
	stuck  atomic.Int64  // since when it takes nothing; 0: it does
}

// leaving is why a reader is sent elsewhere; 0: it is not.
type leaving uint8

const (
	leavesDrain leaving = iota + 1
	leavesRebalance
)

func (l leaving) reason() reason {
	if l == leavesDrain {
		return movedDrain
	}
	return movedRebalance
}

type connState uint8

const (
	connIdle   connState = iota // nothing is owed, or it has to wait for its turn
	connStuck                   // its connection takes no more
	connBehind                  // waits for a page
	connEnding                  // all is said; waits for the client to hang up
	connGone
)

// enter takes a reader in, who is owed the head of its response first.
func (l *loop) enter(d *driver, fd int, seal *seal, head []byte) {
	r := l.seats.take()
	l.x.readers.Add(1)
	r.d, r.fd, r.seal, r.pre = *d, int32(fd), seal, head
	r.began, r.active = l.since(), l.since()
	if err := l.watch(unix.EPOLL_CTL_ADD, r, false); err != nil {
		l.s.cfg.Logger.Warn("watch a connection", "err", err)
		l.gone(r)
		return
	}
	key := frameKey{r.d.c.tail, r.d.c.form}
	ch := l.channels[key]
	if ch == nil {
		ch = &channel{l: l, key: key}
		l.channels[key] = ch
	}
	r.ch, r.at = ch, int32(len(ch.readers))
	ch.readers = append(ch.readers, r)
	if len(ch.readers) == 1 {
		l.list(ch) // to be armed
	}
	l.schedule(r)
	if l.s.drain.on.Load() {
		l.sendOff(r)
	}
	if l.pump(r); seal != nil && r.state != connGone {
		l.hear(r) // what net/http has read already
	}
}

// watch tells epoll what to look for: that the client hangs up, always; under TLS, that it
// says something; and that it takes more, if that is waited for.
func (l *loop) watch(op int, r *conn, writes bool) error {
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(r.slot), Pad: int32(r.gen)}
	if r.armed = writes; writes {
		ev.Events |= unix.EPOLLOUT
	}
	if r.seal != nil && !r.seal.deaf {
		ev.Events |= unix.EPOLLIN
	}
	return unix.EpollCtl(l.ep, op, int(r.fd), &ev)
}

// event is news of a connection.
func (l *loop) event(ev *unix.EpollEvent) {
	r := l.seats.lookup(ref{uint32(ev.Fd), uint32(ev.Pad)})
	if r == nil {
		return
	}
	defer l.guard(r)
	switch {
	case ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0:
		l.gone(r)
	case ev.Events&unix.EPOLLIN != 0:
		l.hear(r)
	}
	if ev.Events&unix.EPOLLOUT != 0 && r.state == connStuck {
		l.pump(r)
	}
}

// pump writes what the reader is owed, as far as its connection takes it and its turn
// goes, and does what the cursor says then. It returns how many bytes were taken.
func (l *loop) pump(r *conn) (sent int) {
	defer l.guard(r)
	c := &r.d.c
	if r.seal.owes() && !l.deliverSealed(r) {
		return 0
	}
	if c.room == nil {
		c.room, l.room = l.room, nil
	}
	defer func() {
		if !c.owes() {
			l.room, c.room = cmp.Or(l.room, c.room), nil
		}
	}()
	for r.state != connGone {
		c.interval = l.interval
		var owed net.Buffers
		var newest uint64
		if r.why == 0 || c.owes() { // it leaves between two events
			owed, newest = c.news(writeBudget)
		}
		if len(r.pre) == 0 && len(owed) == 0 {
			if r.why == 0 || r.last || c.state() == stateClosed {
				l.rest(r)
				break
			}
			l.s.m.moved.WithLabelValues(string(r.why.reason())).Inc()
			r.pre, r.last = comeBack(comeBackSoon, comeBackLate), true
		}
		n, all, err := l.write(r, owed)
		if err != nil {
			l.gone(r)
			break
		}
		if sent += n; n > 0 {
			r.active = l.since()
			l.s.m.count(&r.d.c)
		}
		if !all {
			l.stick(r, n > 0)
			break
		}
		l.newest = max(l.newest, newest)
		if l.unstick(r); r.state == connGone {
			break
		}
		if sent >= writeBudget {
			if !r.queued {
				r.queued = true
				l.again = append(l.again, r.ref)
			}
			break
		}
	}
	return sent
}

// write writes what the reader is owed in one call; all: everything was taken.
func (l *loop) write(r *conn, owed net.Buffers) (n int, all bool, err error) {
	if r.seal != nil {
		n, all, err = l.writeSealed(r, owed)
		l.wrote(r, n)
		return n, all, err
	}
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
	l.wrote(r, n)
	return n, n == size, nil
}

// wrote counts what was taken.
func (l *loop) wrote(r *conn, n int) {
	l.sent += n
	pre := min(n, len(r.pre))
	if r.pre = r.pre[pre:]; len(r.pre) == 0 {
		r.pre = nil
	}
	r.d.c.wrote(n - pre)
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
		l.blocked[r] = acked(int(r.fd))
		l.s.frames.pins.add(r)
		progress = true
	}
	if progress {
		r.stuck.Store(int64(l.since()) + 1)
	}
	if !r.armed {
		if err := l.watch(unix.EPOLL_CTL_MOD, r, true); err != nil {
			l.gone(r)
		}
	}
}

// takes reports whether the client has taken something since the last look: its connection
// takes more of us only once there is little left to send.
func (l *loop) takes(r *conn) bool {
	n := acked(int(r.fd))
	if n <= l.blocked[r] {
		return false
	}
	l.blocked[r] = n
	r.stuck.Store(int64(l.since()) + 1)
	return true
}

func (l *loop) unstick(r *conn) {
	if r.state != connStuck {
		return
	}
	r.state = connIdle
	r.stuck.Store(0)
	delete(l.blocked, r)
	l.s.frames.pins.remove(r)
	if r.armed {
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
	r.stuck.Store(0) // it is asked once, unless it moves on
	l, f := r.ch.l, r.ref
	l.post(func() {
		if r := l.seats.lookup(f); r != nil && r.state == connStuck && r.stuck.Load() == 0 && !l.takes(r) {
			l.s.m.cut.WithLabelValues(string(cutMemory)).Inc()
			l.gone(r)
		}
	}, nil)
}

// rest does what the cursor of a reader says that is owed nothing.
func (l *loop) rest(r *conn) {
	l.hold(r)
	switch st := r.d.c.state(); {
	case r.last, st == stateClosed, st == stateGone:
		l.finish(r)
	case st == stateBehind:
		r.state = connBehind
		l.pages = append(l.pages, r.ref)
		l.fetch()
	}
}

// hold notes since when a reader holds what it holds.
func (l *loop) hold(r *conn) {
	switch held := r.d.c.holds(); {
	case held == 0 && len(l.holding) == 0:
	case held == 0:
		delete(l.holding, r)
	case l.holding[r].what != held:
		l.holding[r] = heldSince{held, l.now}
	}
}

// letGo has readers let go of what they have held for long enough.
func (l *loop) letGo() {
	for r, h := range l.holding {
		switch {
		case r.d.c.holds() != h.what:
			l.hold(r)
		case r.state == connIdle && l.now.Sub(h.since) >= heldFor:
			delete(l.holding, r)
			r.d.c.late = true
			l.pump(r)
		}
	}
}

// fetch has pages read for readers below their Tail, outside the loop.
func (l *loop) fetch() {
	for l.fetching < pagesAtOnce && len(l.pages) > 0 {
		r := l.seats.lookup(l.pages[0])
		if l.pages = l.pages[1:]; len(l.pages) == 0 {
			l.pages = nil
		}
		if r == nil || r.state != connBehind {
			continue
		}
		l.fetching++
		f := r.ref
		leg, pos := r.d.c.wants()
		l.x.wg.Go(func() {
			page, err := l.s.readPage(l.x.ctx, leg, pos)
			l.post(func() {
				l.fetching--
				l.paged(f, page, err)
				l.fetch()
			}, nil)
		})
	}
}

// paged is the page that a reader waited for.
func (l *loop) paged(f ref, page shard.RecordBatch, err error) {
	r := l.seats.lookup(f)
	if r == nil || r.state != connBehind {
		return
	}
	defer l.guard(r)
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
	if !l.closeNotify(r) {
		r.last = true
		l.stick(r, true)
		return
	}
	if unix.Shutdown(int(r.fd), unix.SHUT_WR) != nil {
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
	delete(l.holding, r)
	l.unseal(r.seal)
	_ = unix.Close(int(r.fd)) // which takes it out of epoll
	if ch := r.ch; ch != nil {
		ch.remove(r)
		if len(ch.readers) == 0 {
			ch.key.tail.Unwatch(ch)
			delete(l.channels, ch.key)
		}
	}
	l.s.m.count(&r.d.c)
	r.d.close()
	l.seats.leave(r)
	l.x.readers.Add(-1)
}
