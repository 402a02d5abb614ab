package edge

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// step is what one reader of a stream was owed, and where it came to by that. Nearly all
// others stand where it did: each is sent the same bytes, in one piece, for a system call
// and nothing else. Who takes less than all gets a room of its own. A step is over with
// the turn in which it was made.
type step struct {
	from, to stand
	room     *room  // what is owed, in pieces, and its frames; nil: there is no step
	b        []byte // the same in one piece
	messages uint32
}

// deliver writes a reader that is idle what it is owed, and returns how much was taken.
func (l *loop) deliver(r *conn) (sent int) {
	c := &r.d.c
	from, plain := c.stand()
	if !plain || r.why != 0 || len(r.pre) > 0 || c.owes() ||
		(l.step.room == nil || l.step.from != from) && !l.lead(r, from) {
		return l.pump(r)
	}
	sent, err := l.put(r, l.step.b)
	if err != nil {
		l.gone(r)
		return 0
	}
	c.standAt(l.step.to)
	if sent > 0 {
		r.active = l.since()
		l.delivered += int(l.step.messages)
		l.sent += sent
	}
	switch {
	case r.seal.owes():
		l.stick(r, true)
	case sent < len(l.step.b):
		if sent == 0 {
			c.messages += l.step.messages
		}
		c.room = l.step.room.share(l.s.frames.pins)
		c.wrote(sent)
		l.stick(r, sent > 0)
	case !c.fresh || c.now != stateIdle: // there is more, or it was the end
		sent += l.pump(r)
	}
	return sent
}

// stepMost bounds what is copied to be sent in one piece, and how long send keeps a
// processor. Beyond that the call is what a delivery costs, and pieces are as good.
const stepMost = 64 << 10

// lead makes the step of those who stand as this reader does; false: there is nothing to
// share, and the reader goes on by itself, with what it owes and the loop's room.
func (l *loop) lead(r *conn, from stand) bool {
	defer l.guard(r)
	l.endStep()
	c := &r.d.c
	c.room, l.room = l.room, nil
	c.interval = l.interval
	owed, newest := c.news(writeBudget)
	l.newest = max(l.newest, newest)
	to, plain := c.stand()
	size := 0
	for _, b := range owed {
		size += len(b)
	}
	if size == 0 || size > stepMost || !plain {
		return false
	}
	l.step.from, l.step.to, l.step.room, c.room = from, to, c.room, nil
	l.step.messages, c.messages = c.messages, 0
	for _, b := range owed {
		l.step.b = append(l.step.b, b...)
	}
	return true
}

// endStep ends the step.
func (l *loop) endStep() {
	s := &l.step
	if s.room != nil && s.room.drop(l.s.frames.pins) {
		l.room = s.room
	}
	s.room, s.b = nil, s.b[:0]
}

// send writes a little to a socket that does not block. The runtime is not told of the
// call, which takes some microseconds: that would cost as much as all else here.
func send(fd int32, b []byte) (int, error) {
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
