package edge

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sharedWrite holds the output of one reader of a stream, and the states before and after it. Nearly
// all other readers are in the same state before: each gets the same bytes, in one piece, for one
// system call and nothing else. A reader that accepts only a part gets an outBuf of its own. A
// sharedWrite ends with the turn in which it was made.
type sharedWrite struct {
	from, to     readerState
	out          *outBuf // the output, in pieces, and its frames; nil: there is no shared write
	bytes        []byte  // the same output in one piece
	messageCount uint32
}

// deliver sends an idle reader its pending bytes and returns how many the socket accepted.
func (l *loop) deliver(r *conn) (sent int) {
	c := &r.stream.session
	from, plain := c.sharedState()
	if !plain || r.leaveReason != 0 || len(r.preamble) > 0 || c.hasOutput() ||
		(l.shared.out == nil || l.shared.from != from) && !l.renderShared(r, from) {
		return l.writePending(r)
	}
	sent, err := l.sendTo(r, l.shared.bytes)
	if err != nil {
		l.closeConn(r)
		return 0
	}
	c.setSharedState(l.shared.to)
	if sent > 0 {
		r.activeAt = l.elapsed()
		l.uncountedMessages += int(l.shared.messageCount)
		l.uncountedBytes += sent
	}
	switch {
	case r.tls.hasOutput():
		l.markBlocked(r, true)
	case sent < len(l.shared.bytes):
		if sent == 0 {
			c.framedCount += l.shared.messageCount
		}
		c.out = l.shared.out.clone(l.server.frames.budget)
		c.markWritten(sent)
		l.markBlocked(r, sent > 0)
	case !c.announcedUpToDate || c.status != stateIdle: // there is more, or the stream has ended
		sent += l.writePending(r)
	}
	return sent
}

// maxSharedWrite bounds what is copied to be sent in one piece, and how long sendBytes keeps a
// processor. For more bytes the system call dominates the cost, and sending pieces is as good.
const maxSharedWrite = 64 << 10

// renderShared renders the shared write for this reader's state. It returns false if there is
// nothing to share; the reader then continues by itself, with its output and the loop's outBuf.
func (l *loop) renderShared(r *conn, from readerState) bool {
	defer l.recoverConn(r)
	l.endSharedWrite()
	c := &r.stream.session
	c.out, l.spareOut = l.spareOut, nil
	c.cursorNow = l.interval
	owed, newest := c.outputWithTime(turnWriteBytes)
	l.newestTime = max(l.newestTime, newest)
	to, plain := c.sharedState()
	size := 0
	for _, b := range owed {
		size += len(b)
	}
	if size == 0 || size > maxSharedWrite || !plain {
		return false
	}
	l.shared.from, l.shared.to, l.shared.out, c.out = from, to, c.out, nil
	l.shared.messageCount, c.framedCount = c.framedCount, 0
	for _, b := range owed {
		l.shared.bytes = append(l.shared.bytes, b...)
	}
	return true
}

// endSharedWrite releases the shared write.
func (l *loop) endSharedWrite() {
	s := &l.shared
	if s.out != nil && s.out.release(l.server.frames.budget) {
		l.spareOut = s.out
	}
	s.out, s.bytes = nil, s.bytes[:0]
}

// sendBytes writes to a socket without blocking. It does not tell the runtime of the call, which
// takes a few microseconds: telling it would cost as much as everything else here.
func sendBytes(fd int32, b []byte) (int, error) {
	n, errno := sendto(fd, b)
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR:
		return n, nil
	}
	return 0, errno
}

// sendto makes the system call; n is 0 if it failed.
func sendto(fd int32, b []byte) (n int, errno unix.Errno) {
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), 0
}
