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
	c := l.conns.allocate()
	l.readers.Add(1)
	c.session, c.release, c.fd, c.tls = d.session, d.release, int32(fd), encrypted
	c.session.Begin(head)
	if err := l.setEpollEvents(unix.EPOLL_CTL_ADD, c, false); err != nil {
		l.cfg.Logger.Warn("watch a connection", "err", err)
		l.closeConn(c)
		return
	}
	key := c.session.Key()
	group := l.streams[key]
	if group == nil {
		group = &streamReaders{loop: l, key: key}
		l.streams[key] = group
	}
	c.group, c.groupIndex = group, int32(len(group.readers))
	group.readers = append(group.readers, c)
	if len(group.readers) == 1 {
		l.queueStream(group) // so that deliverToStream registers a Waker
	}
	if l.advance(c); encrypted != nil && c.state != connClosed {
		l.readTLS(c) // what net/http has read already
	}
}

// setEpollEvents tells epoll what to report: always when the client hangs up; under TLS, when it
// sends something; and if writes is set, when it accepts more.
func (l *loop) setEpollEvents(op int, c *conn, writes bool) error {
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(c.slot), Pad: int32(c.gen)}
	if c.wantsWritable = writes; writes {
		ev.Events |= unix.EPOLLOUT
	}
	if c.tls != nil && !c.tls.readClosed {
		ev.Events |= unix.EPOLLIN
	}
	return unix.EpollCtl(l.epollFD, op, int(c.fd), &ev)
}

// handleEvent handles an event of epoll.
func (l *loop) handleEvent(ev *unix.EpollEvent) {
	c := l.conns.lookup(connRef{uint32(ev.Fd), uint32(ev.Pad)})
	if c == nil {
		return
	}
	defer l.recoverConn(c)
	switch {
	case ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0:
		l.closeConn(c)
	case ev.Events&unix.EPOLLIN != 0:
		l.readTLS(c)
	}
	if ev.Events&unix.EPOLLOUT != 0 && c.state == connBlocked {
		l.advance(c)
	}
}

// advance does what the session of a reader says, as far as its connection accepts output and its
// turn goes. It returns how many bytes were accepted.
func (l *loop) advance(c *conn) (sent int) {
	defer l.recoverConn(c)
	s := &c.session
	if c.tls.hasOutput() && !l.flushBlockedTLS(c) {
		return 0
	}
	s.LendBuffer(&l.spareOut)
	defer s.ReclaimBuffer(&l.spareOut)
	for c.state != connClosed {
		switch a := s.Next(l.elapsed(), l.cursor, sse.TurnBytes); a.Do {
		case sse.Write:
			n, all := l.writeAction(c, a)
			if sent += n; !all {
				return sent
			}
			if sent >= sse.TurnBytes {
				if !c.queued {
					c.queued = true
					l.unfinished = append(l.unfinished, c.connRef)
				}
				return sent
			}
		case sse.Fetch:
			l.pageQueue = append(l.pageQueue, c.connRef)
			l.fetchPages()
		case sse.End:
			l.endResponse(c)
			return sent
		default:
			l.schedule(c, a)
			return sent
		}
	}
	return sent
}

// writeAction writes a reader's pending output once; all reports whether the connection has accepted
// everything, and the reader is still there.
func (l *loop) writeAction(c *conn, a sse.Action) (n int, all bool) {
	if a.Why != 0 {
		l.cfg.Metrics.CountMoved(a.Why)
	}
	n, all, err := l.writeOnce(c, c.session.Pending())
	if err != nil {
		l.closeConn(c)
		return n, false
	}
	if n > 0 {
		l.cfg.Metrics.CountSession(&c.session)
	}
	if !all {
		l.markBlocked(c, n > 0)
		return n, false
	}
	l.newestTime = max(l.newestTime, a.Newest)
	l.markUnblocked(c)
	return n, c.state != connClosed
}

// writeOnce writes a reader's output with one system call; all reports whether everything was accepted.
func (l *loop) writeOnce(c *conn, pending [][]byte) (n int, all bool, err error) {
	if c.tls != nil {
		n, all, err = l.writeTLS(c, pending)
		l.countWritten(c, n)
		return n, all, err
	}
	size := 0
	for i := 0; i < len(pending) && len(l.iov) < maxIovecs; i++ {
		size = l.addIovec(pending[i], size)
	}
	wrote, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(c.fd), uintptr(unsafe.Pointer(&l.iov[0])), uintptr(len(l.iov)))
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
	l.countWritten(c, n)
	return n, n == size, nil
}

// countWritten counts accepted bytes and removes them from the output.
func (l *loop) countWritten(c *conn, n int) {
	l.uncountedBytes += n
	c.session.MarkWritten(n, l.elapsed())
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
func (l *loop) markBlocked(c *conn, progress bool) {
	if c.state != connBlocked {
		c.state = connBlocked
		l.blocked[c] = netconn.BytesAcked(int(c.fd))
		l.cfg.Budget.AddReader(c)
		progress = true
	}
	if progress {
		c.blockedSince.Store(int64(l.elapsed()) + 1)
	}
	if !c.wantsWritable {
		if err := l.setEpollEvents(unix.EPOLL_CTL_MOD, c, true); err != nil {
			l.closeConn(c)
		}
	}
}

// hasProgress reports whether the client has acknowledged something since the last check. The
// connection itself accepts more only once little is left to send, so acceptance is too rare a sign.
func (l *loop) hasProgress(c *conn) bool {
	n := netconn.BytesAcked(int(c.fd))
	if n <= l.blocked[c] {
		return false
	}
	l.blocked[c] = n
	c.blockedSince.Store(int64(l.elapsed()) + 1)
	return true
}

func (l *loop) markUnblocked(c *conn) {
	if c.state != connBlocked {
		return
	}
	c.state = connIdle
	c.blockedSince.Store(0)
	delete(l.blocked, c)
	l.cfg.Budget.RemoveReader(c)
	if c.wantsWritable {
		if err := l.setEpollEvents(unix.EPOLL_CTL_MOD, c, false); err != nil {
			l.closeConn(c)
		}
	}
}

// BlockedFor and disconnect implement evictable.
func (c *conn) BlockedFor(now time.Time) time.Duration {
	if at := c.blockedSince.Load(); at != 0 {
		return c.group.loop.cfg.Rules.At(now).Sub(sse.Instant(at))
	}
	return 0
}

func (c *conn) Disconnect() {
	c.blockedSince.Store(0) // so that it is disconnected once only, unless it makes progress
	l, ref := c.group.loop, c.connRef
	l.post(func() {
		if c := l.conns.lookup(ref); c != nil && c.state == connBlocked && c.blockedSince.Load() == 0 && !l.hasProgress(c) {
			l.cfg.Metrics.CountDisconnected(sse.EndMemory)
			l.closeConn(c)
		}
	}, nil)
}

// fetchPages reads pages for readers below their TailBuffer, on goroutines of their own.
func (l *loop) fetchPages() {
	for l.pageReads < maxPageReads && len(l.pageQueue) > 0 {
		c := l.conns.lookup(l.pageQueue[0])
		if l.pageQueue = l.pageQueue[1:]; len(l.pageQueue) == 0 {
			l.pageQueue = nil
		}
		if c == nil || !c.session.IsFetching() {
			continue
		}
		l.pageReads++
		ref := c.connRef
		segment, pos := c.session.WantedPage()
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
	c := l.conns.lookup(ref)
	if c == nil || c.state == connEnding || !c.session.IsFetching() {
		return
	}
	defer l.recoverConn(c)
	switch err := c.session.AcceptPage(page, err, l.elapsed()); {
	case err != nil:
		l.endResponse(c)
	case c.state == connIdle:
		l.advance(c)
	}
}

// endResponse ends the response by shutting down the sending side, after which the client hangs up.
// Closing the connection immediately would lose bytes in transit if the client had sent anything
// that was not read.
func (l *loop) endResponse(c *conn) {
	c.session.EndNow()
	if !l.sendCloseNotify(c) {
		l.markBlocked(c, true)
		return
	}
	if unix.Shutdown(int(c.fd), unix.SHUT_WR) != nil {
		l.closeConn(c)
		return
	}
	c.state = connEnding
	l.ending[c] = l.elapsed()
}

// closeConn removes a reader and closes its connection.
func (l *loop) closeConn(c *conn) {
	if c.state == connClosed {
		return
	}
	if c.state == connBlocked {
		delete(l.blocked, c)
		l.cfg.Budget.RemoveReader(c)
	}
	delete(l.ending, c)
	l.releaseTLS(c.tls)
	_ = unix.Close(int(c.fd)) // this also removes it from epoll
	if group := c.group; group != nil {
		group.remove(c)
		if len(group.readers) == 0 {
			group.key.Tail.Unwatch(group)
			delete(l.streams, group.key)
		}
	}
	l.cfg.Metrics.CountSession(&c.session)
	l.closeReader(&c.session, c.release)
	l.conns.release(c)
	l.readers.Add(-1)
}
