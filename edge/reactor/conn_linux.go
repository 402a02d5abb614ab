package reactor

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// conn is one event stream of a loop. The goroutine of the loop owns it; only blockedSince, and the
// fields that BlockedFor and disconnect read (group, connRef), are used by the budget's
// goroutines, between budget.AddReader and budget.RemoveReader.
type conn struct {
	session    sse.Session
	release    func() // ends following the stream
	group      *streamReaders
	groupIndex int32 // in group.readers
	fd         int32
	connRef
	tls *tlsWriter // nil: without TLS

	state         connState
	wantsWritable bool         // epoll reports when it is writable
	queued        bool         // in loop.unfinished
	lookAt        sse.Instant  // when the loop's timers look at it next; 0: they do not
	blockedSince  atomic.Int64 // since when it accepts nothing; 0: it accepts, or is to be disconnected
}

type connState uint8

const (
	connIdle    connState = iota // it waits for news or a page, or for its turn
	connBlocked                  // its connection accepts no more
	connEnding                   // the response has ended; it waits for the client to hang up
	connClosed
)

// addConn adds a reader. The header of its response is sent first.
func (l *loop) addConn(d *reader, fd int, encrypted *tlsWriter, head []byte) {
	r := l.conns.allocate()
	l.readers.Add(1)
	r.session, r.release, r.fd, r.tls = d.session, d.release, int32(fd), encrypted
	r.session.Begin(head)
	if err := l.setEpollEvents(unix.EPOLL_CTL_ADD, r, false); err != nil {
		l.cfg.Logger.Warn("watch a connection", "err", err)
		l.closeConn(r)
		return
	}
	key := r.session.Key()
	ch := l.streams[key]
	if ch == nil {
		ch = &streamReaders{loop: l, key: key}
		l.streams[key] = ch
	}
	r.group, r.groupIndex = ch, int32(len(ch.readers))
	ch.readers = append(ch.readers, r)
	if len(ch.readers) == 1 {
		l.queueStream(ch) // so that deliverToStream registers a Waker
	}
	if l.advance(r); encrypted != nil && r.state != connClosed {
		l.readTLS(r) // what net/http has read already
	}
}

// setEpollEvents tells epoll what to report: always when the client hangs up; under TLS, when it
// sends something; and if writes is set, when it accepts more.
func (l *loop) setEpollEvents(op int, r *conn, writes bool) error {
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(r.slot), Pad: int32(r.gen)}
	if r.wantsWritable = writes; writes {
		ev.Events |= unix.EPOLLOUT
	}
	if r.tls != nil && !r.tls.readClosed {
		ev.Events |= unix.EPOLLIN
	}
	return unix.EpollCtl(l.epollFD, op, int(r.fd), &ev)
}

// handleEvent handles an event of epoll.
func (l *loop) handleEvent(ev *unix.EpollEvent) {
	r := l.conns.lookup(connRef{uint32(ev.Fd), uint32(ev.Pad)})
	if r == nil {
		return
	}
	defer l.recoverConn(r)
	switch {
	case ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0:
		l.closeConn(r)
	case ev.Events&unix.EPOLLIN != 0:
		l.readTLS(r)
	}
	if ev.Events&unix.EPOLLOUT != 0 && r.state == connBlocked {
		l.advance(r)
	}
}

// advance does what the session of a reader says, as far as its connection accepts output and its
// turn goes. It returns how many bytes were accepted.
func (l *loop) advance(r *conn) (sent int) {
	defer l.recoverConn(r)
	c := &r.session
	if r.tls.hasOutput() && !l.flushBlockedTLS(r) {
		return 0
	}
	c.LendBuffer(&l.spareOut)
	defer c.ReclaimBuffer(&l.spareOut)
	for r.state != connClosed {
		switch a := c.Next(l.elapsed(), l.cursor, sse.TurnBytes); a.Do {
		case sse.Write:
			n, all := l.writeAction(r, a)
			if sent += n; !all {
				return sent
			}
			if sent >= sse.TurnBytes {
				if !r.queued {
					r.queued = true
					l.unfinished = append(l.unfinished, r.connRef)
				}
				return sent
			}
		case sse.Fetch:
			l.pageQueue = append(l.pageQueue, r.connRef)
			l.fetchPages()
		case sse.End:
			l.endResponse(r)
			return sent
		default:
			l.schedule(r, a)
			return sent
		}
	}
	return sent
}

// writeAction writes a reader's pending output once; all reports whether the connection has accepted
// everything, and the reader is still there.
func (l *loop) writeAction(r *conn, a sse.Action) (n int, all bool) {
	if a.Why != 0 {
		l.cfg.Metrics.CountMoved(a.Why)
	}
	n, all, err := l.writeOnce(r, r.session.Pending())
	if err != nil {
		l.closeConn(r)
		return n, false
	}
	if n > 0 {
		l.cfg.Metrics.CountSession(&r.session)
	}
	if !all {
		l.markBlocked(r, n > 0)
		return n, false
	}
	l.newestTime = max(l.newestTime, a.Newest)
	l.markUnblocked(r)
	return n, r.state != connClosed
}

// writeOnce writes a reader's output with one system call; all reports whether everything was accepted.
func (l *loop) writeOnce(r *conn, pending [][]byte) (n int, all bool, err error) {
	if r.tls != nil {
		n, all, err = l.writeTLS(r, pending)
		l.countWritten(r, n)
		return n, all, err
	}
	size := 0
	for i := 0; i < len(pending) && len(l.iov) < maxIovecs; i++ {
		size = l.addIovec(pending[i], size)
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
	l.countWritten(r, n)
	return n, n == size, nil
}

// countWritten counts accepted bytes and removes them from the output.
func (l *loop) countWritten(r *conn, n int) {
	l.uncountedBytes += n
	r.session.MarkWritten(n, l.elapsed())
}

// addIovec adds b to the next writev; unix.Writev would allocate.
func (l *loop) addIovec(b []byte, size int) int {
	if len(b) > 0 {
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		l.iov = append(l.iov, v)
	}
	return size + len(b)
}

// markBlocked notes that the connection accepts no more for now. progress: it has just accepted something.
func (l *loop) markBlocked(r *conn, progress bool) {
	if r.state != connBlocked {
		r.state = connBlocked
		l.blocked[r] = netconn.BytesAcked(int(r.fd))
		l.cfg.Budget.AddReader(r)
		progress = true
	}
	if progress {
		r.blockedSince.Store(int64(l.elapsed()) + 1)
	}
	if !r.wantsWritable {
		if err := l.setEpollEvents(unix.EPOLL_CTL_MOD, r, true); err != nil {
			l.closeConn(r)
		}
	}
}

// hasProgress reports whether the client has acknowledged something since the last check. The
// connection itself accepts more only once little is left to send, so acceptance is too rare a sign.
func (l *loop) hasProgress(r *conn) bool {
	n := netconn.BytesAcked(int(r.fd))
	if n <= l.blocked[r] {
		return false
	}
	l.blocked[r] = n
	r.blockedSince.Store(int64(l.elapsed()) + 1)
	return true
}

func (l *loop) markUnblocked(r *conn) {
	if r.state != connBlocked {
		return
	}
	r.state = connIdle
	r.blockedSince.Store(0)
	delete(l.blocked, r)
	l.cfg.Budget.RemoveReader(r)
	if r.wantsWritable {
		if err := l.setEpollEvents(unix.EPOLL_CTL_MOD, r, false); err != nil {
			l.closeConn(r)
		}
	}
}

// BlockedFor and disconnect implement evictable.
func (r *conn) BlockedFor(now time.Time) time.Duration {
	if at := r.blockedSince.Load(); at != 0 {
		return r.group.loop.cfg.Rules.At(now).Sub(sse.Instant(at))
	}
	return 0
}

func (r *conn) Disconnect() {
	r.blockedSince.Store(0) // so that it is disconnected once only, unless it makes progress
	l, ref := r.group.loop, r.connRef
	l.post(func() {
		if r := l.conns.lookup(ref); r != nil && r.state == connBlocked && r.blockedSince.Load() == 0 && !l.hasProgress(r) {
			l.cfg.Metrics.CountDisconnected(sse.EndMemory)
			l.closeConn(r)
		}
	}, nil)
}

// fetchPages reads pages for readers below their TailBuffer, on goroutines of their own.
func (l *loop) fetchPages() {
	for l.pageReads < maxPageReads && len(l.pageQueue) > 0 {
		r := l.conns.lookup(l.pageQueue[0])
		if l.pageQueue = l.pageQueue[1:]; len(l.pageQueue) == 0 {
			l.pageQueue = nil
		}
		if r == nil || !r.session.IsFetching() {
			continue
		}
		l.pageReads++
		ref := r.connRef
		segment, pos := r.session.WantedPage()
		l.wg.Go(func() {
			page, err := l.cfg.ReadPage(l.ctx, segment, pos)
			l.post(func() {
				l.pageReads--
				l.acceptPage(ref, page, err)
				l.fetchPages()
			}, nil)
		})
	}
}

// acceptPage hands a page, or the error, to the reader that waited for it. A reader that is blocked
// meanwhile, by a heartbeat, goes on once it is not.
func (l *loop) acceptPage(ref connRef, page shard.RecordBatch, err error) {
	r := l.conns.lookup(ref)
	if r == nil || r.state == connEnding || !r.session.IsFetching() {
		return
	}
	defer l.recoverConn(r)
	switch err := r.session.AcceptPage(page, err, l.elapsed()); {
	case err != nil:
		l.endResponse(r)
	case r.state == connIdle:
		l.advance(r)
	}
}

// endResponse ends the response by shutting down the sending side, after which the client hangs up.
// Closing the connection immediately would lose bytes in transit if the client had sent anything
// that was not read.
func (l *loop) endResponse(r *conn) {
	r.session.EndNow()
	if !l.sendCloseNotify(r) {
		l.markBlocked(r, true)
		return
	}
	if unix.Shutdown(int(r.fd), unix.SHUT_WR) != nil {
		l.closeConn(r)
		return
	}
	r.state = connEnding
	l.ending[r] = l.elapsed()
}

// closeConn removes a reader and closes its connection.
func (l *loop) closeConn(r *conn) {
	if r.state == connClosed {
		return
	}
	if r.state == connBlocked {
		delete(l.blocked, r)
		l.cfg.Budget.RemoveReader(r)
	}
	delete(l.ending, r)
	l.releaseTLS(r.tls)
	_ = unix.Close(int(r.fd)) // this also removes it from epoll
	if ch := r.group; ch != nil {
		ch.remove(r)
		if len(ch.readers) == 0 {
			ch.key.Tail.Unwatch(ch)
			delete(l.streams, ch.key)
		}
	}
	l.cfg.Metrics.CountSession(&r.session)
	l.closeReader(&r.session, r.release)
	l.conns.release(r)
	l.readers.Add(-1)
}
