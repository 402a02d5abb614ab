package edge

import (
	"cmp"
	"errors"
	"io"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawTransfer is one direction of a tcpConn. Its system calls do not block, so they are made by
// RawSyscall, without telling the runtime: on a node that is mostly idle, each announced call wakes
// the runtime's monitor thread, which then checks every thread each 20 µs and costs more than the call.
type rawTransfer struct {
	do  func(fd uintptr) (done bool) // made once, so that a call allocates nothing
	b   []byte
	n   int
	err error
}

// maxRawTransfer bounds what one of those calls copies, and so for how long it keeps a processor.
const maxRawTransfer = 64 << 10

func newTCPConn(c *net.TCPConn) (*tcpConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &tcpConn{Conn: c, tcp: c, raw: raw}
	w.reads.do, w.writes.do = w.reads.read, w.writes.write
	return w, nil
}

// rawRead is Read without blocking the thread.
func (w *tcpConn) rawRead(b []byte) (int, error) {
	t := &w.reads
	t.b, t.n, t.err = b[:min(len(b), maxRawTransfer)], 0, nil
	err := w.raw.Read(t.do)
	return t.result("read", err)
}

// rawWrite is Write without blocking the thread.
func (w *tcpConn) rawWrite(b []byte) (int, error) {
	if len(b) > maxRawTransfer {
		return w.Conn.Write(b)
	}
	t := &w.writes
	t.b, t.n, t.err = b, 0, nil
	err := w.raw.Write(t.do)
	return t.result("write", err)
}

// result returns the call's result; err is the error from waiting for the descriptor.
func (t *rawTransfer) result(op string, err error) (int, error) {
	t.b = nil
	if err == nil && (t.err == nil || errors.Is(t.err, io.EOF)) {
		return t.n, t.err
	}
	return t.n, asOpError(op, cmp.Or(err, t.err))
}

// asOpError returns err as package net would: net/http tells by that a client that hung up from
// one that does not speak HTTP.
func asOpError(op string, err error) error {
	var by *net.OpError
	if errors.As(err, &by) {
		by.Op = op
		return by
	}
	return &net.OpError{Op: op, Net: "tcp", Err: err}
}

func (t *rawTransfer) read(fd uintptr) (done bool) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.b))), uintptr(len(t.b)))
	switch errno {
	case 0:
		noteRead(fd)
		if t.n = int(n); n == 0 && len(t.b) > 0 {
			t.err = io.EOF
		}
	case unix.EAGAIN:
		return false
	case unix.EINTR:
		return t.read(fd)
	default:
		t.err = errno
	}
	return true
}

func (t *rawTransfer) write(fd uintptr) (done bool) {
	noteWrite(fd)
	for t.n < len(t.b) {
		n, errno := sendto(int32(fd), t.b[t.n:])
		switch t.n += n; errno {
		case 0, unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			t.err = errno
			return true
		}
	}
	return true
}
