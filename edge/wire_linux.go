package edge

import (
	"cmp"
	"errors"
	"io"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// transfer is one direction of a wire. Its calls do not block, so the runtime is not told of
// them: where most of the time nothing happens, being told wakes its monitor, which then looks
// after every thread each 20 µs, and costs more than the call.
type transfer struct {
	do  func(fd uintptr) (done bool) // made once: a call allocates nothing
	b   []byte
	n   int
	err error
}

func newWire(c *net.TCPConn) (*wire, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: c, tcp: c, raw: raw}
	w.reads.do, w.writes.do = w.reads.read, w.writes.write
	return w, nil
}

// receive is net.Conn's Read.
func (w *wire) receive(b []byte) (int, error) {
	t := &w.reads
	t.b, t.n, t.err = b[:min(len(b), stepMost)], 0, nil
	err := w.raw.Read(t.do)
	return t.end("read", err)
}

// send is net.Conn's Write.
func (w *wire) send(b []byte) (int, error) {
	if len(b) > stepMost {
		return w.Conn.Write(b)
	}
	t := &w.writes
	t.b, t.n, t.err = b, 0, nil
	err := w.raw.Write(t.do)
	return t.end("write", err)
}

// end is what a call comes to whose waiting said err.
func (t *transfer) end(op string, err error) (int, error) {
	t.b = nil
	if err == nil && (t.err == nil || errors.Is(t.err, io.EOF)) {
		return t.n, t.err
	}
	return t.n, named(op, cmp.Or(err, t.err))
}

// named is err as net has it, by which net/http knows who hung up from who speaks no HTTPAddr.
func named(op string, err error) error {
	var by *net.OpError
	if errors.As(err, &by) {
		by.Op = op
		return by
	}
	return &net.OpError{Op: op, Net: "tcp", Err: err}
}

func (t *transfer) read(fd uintptr) (done bool) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.b))), uintptr(len(t.b)))
	switch errno {
	case 0:
		received(fd)
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

func (t *transfer) write(fd uintptr) (done bool) {
	sending(fd)
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
