package netconn

import (
	"cmp"
	"errors"
	"io"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawTransfer is one direction of a Conn. Its system calls do not block, so they are made by
// RawSyscall, without telling the runtime. On a node that is mostly idle, each announced call wakes the
// runtime's monitor thread, which then checks every thread each 20 µs and costs more than the call.
type rawTransfer struct {
	do  func(fd uintptr) (done bool) // made once, so that a call allocates nothing
	b   []byte
	n   int
	err error
}

// ownsDescriptors says that this package reads and writes descriptors itself. Elsewhere a request has
// no Conn, so net/http keeps each connection.
const ownsDescriptors = true

// maxRawTransfer bounds what one of those calls copies, and so for how long it keeps a processor.
const maxRawTransfer = 64 << 10

func newConn(tcp *net.TCPConn) (*Conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: tcp, tcp: tcp, raw: raw}
	c.reads.do, c.writes.do = c.reads.read, c.writes.write
	return c, nil
}

// rawRead does what Read does, and never blocks the thread.
func (c *Conn) rawRead(b []byte) (int, error) {
	t := &c.reads
	t.b, t.n, t.err = b[:min(len(b), maxRawTransfer)], 0, nil
	err := c.raw.Read(t.do)
	return t.result("read", err)
}

// rawWrite does what Write does, and never blocks the thread.
func (c *Conn) rawWrite(b []byte) (int, error) {
	if len(b) > maxRawTransfer {
		return c.Conn.Write(b)
	}
	t := &c.writes
	t.b, t.n, t.err = b, 0, nil
	err := c.raw.Write(t.do)
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

// asOpError returns err as package net would: net/http tells by that a client that hung up from a
// client that does not speak HTTP.
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

// maxUnsent bounds what the kernel holds of a detached connection without having sent it; otherwise
// a blocked reader would hold megabytes of kernel memory.
const maxUnsent = 64 << 10

// Detach ends the part of net/http in a connection that was hijacked from it: it returns a
// non-blocking duplicate of the descriptor, and closes the net.Conn, so that the runtime's poller
// forgets the connection. Under TLS, buffers are what the tls.Conn reads and writes from now on; nil:
// without TLS.
func (c *Conn) Detach(buffers *TLSBuffers) (fd int, err error) {
	defer func() { _ = c.tcp.Close() }()
	c.buffers = buffers
	// File would make it blocking.
	if cerr := c.raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return 0, cerr
	}
	if err == nil {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	}
	return fd, err
}

// setUserTimeout has the kernel end a connection whose peer acknowledges nothing for that long.
func (c *Conn) setUserTimeout(d time.Duration) {
	_ = c.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// Send writes to a socket without blocking, as much as it accepts. It does not tell the runtime of
// the call, which takes a few microseconds: telling it would cost as much as a delivery.
func Send(fd int32, b []byte) (int, error) {
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
