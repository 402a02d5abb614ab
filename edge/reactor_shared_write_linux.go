package edge

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sharedWrite holds the bytes that one reader of a stream got, and the state that it reached by
// them. Nearly all others are in the state in which it was: each is sent the same bytes, in one piece, for a system call
// and nothing else. A reader that takes less than all gets a buffer of its own. A step is over with
// the turn in which it was made.
type sharedWrite struct {
	from, to     readerState
	out          *outBuf // what is owed, in pieces, and its frames; nil: there is no step
	bytes        []byte  // the same in one piece
	messageCount uint32
}

// deliver writes a reader that is idle what it is owed, and returns how much was taken.
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
	case !c.announcedUpToDate || c.status != stateIdle: // there is more, or it was the end
		sent += l.writePending(r)
	}
	return sent
}

// maxSharedWrite bounds what is copied to be sent in one piece, and how long send keeps a
// processor. Beyond that the call is what a delivery costs, and pieces are as good.
const maxSharedWrite = 64 << 10

// renderShared renders what readers in this reader's state get; false: there is nothing to
// share, and the reader goes on by itself, with what it owes and the loop's room.
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

// endSharedWrite ends the step.
func (l *loop) endSharedWrite() {
	s := &l.shared
	if s.out != nil && s.out.release(l.server.frames.budget) {
		l.spareOut = s.out
	}
	s.out, s.bytes = nil, s.bytes[:0]
}

// sendBytes writes a little to a socket that does not block. The runtime is not told of the
// call, which takes some microseconds: that would cost as much as all else here.
func sendBytes(fd int32, b []byte) (int, error) {
	n, errno := sendto(fd, b)
	switch errno {
	case 0, unix.EAGAIN, unix.EINTR:
		return n, nil
	}
	return 0, errno
}

// sendto is the system call; n is 0 if it failed.
func sendto(fd int32, b []byte) (n int, errno unix.Errno) {
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), 0
}
