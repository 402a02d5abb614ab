package edge

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// seal is the TLS of a reader. The cursor counts a message as written once it is
// encrypted, so nothing more is until the connection has taken that.
type seal struct {
	tls    *tls.Conn
	wire   *wire // beneath it; out is lent by the loop, or is the reader's own while it is stuck
	held   int   // bytes of out that pins counts
	closed bool  // close_notify was said
	deaf   bool  // nobody reads what the client says
}

// socket reads from a descriptor what is there.
type socket int32

func (fd socket) Read(b []byte) (int, error) {
	n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, os.ErrDeadlineExceeded // after which crypto/tls goes on where it was
	case err != nil:
		return 0, err
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// hear takes in what a client says after its request: that it closes, as a rule, which
// TLS says before the connection does; or that it has new keys. More requests are not read.
func (l *loop) hear(r *conn) {
	s := r.seal
	n, err := s.tls.Read(l.heard[:])
	switch {
	case n > 0:
		l.deafen(r)
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.answer(r)
	case errors.Is(err, io.EOF) && (r.state == connIdle || r.state == connBehind):
		if l.deafen(r) {
			l.finish(r)
		}
	default:
		l.gone(r)
	}
}

// deafen has nobody read what the client says; that it hangs up is noticed all the same.
// false: the reader is gone.
func (l *loop) deafen(r *conn) bool {
	r.seal.deaf = true
	if err := l.watch(unix.EPOLL_CTL_MOD, r, r.armed); err != nil {
		l.gone(r)
		return false
	}
	return true
}

// answer sends what crypto/tls has written of itself, such as its own new keys.
func (l *loop) answer(r *conn) {
	switch s := r.seal; {
	case !s.owes():
	case s.held > 0: // it has to wait
		l.s.frames.pins.hold(int64(len(s.wire.out) - s.held))
		s.held = len(s.wire.out)
	default:
		if n, err := l.flush(r); err != nil {
			l.gone(r)
		} else if s.owes() {
			l.stick(r, n > 0)
		}
	}
}

// sealMost is how much is encrypted before it is sent.
const sealMost = 64 << 10

// owes reports whether something is encrypted and not sent.
func (s *seal) owes() bool { return s != nil && len(s.wire.out) > 0 }

// put writes a reader that owes nothing what it is owed, and returns how much of that is
// taken, or is encrypted at least.
func (l *loop) put(r *conn, b []byte) (int, error) {
	if r.seal == nil {
		return send(r.fd, b)
	}
	if err := l.encrypt(r.seal, b); err != nil {
		return 0, err
	}
	_, err := l.flush(r)
	return len(b), err
}

// writeSealed is write under TLS.
func (l *loop) writeSealed(r *conn, owed net.Buffers) (n int, all bool, err error) {
	for i := -1; i < len(owed); i++ {
		b := r.pre
		if i >= 0 {
			b = owed[i]
		}
		for len(b) > 0 {
			piece := b[:min(len(b), sealMost)]
			if err := l.encrypt(r.seal, piece); err != nil {
				return n, false, err
			}
			n += len(piece)
			b = b[len(piece):]
			if len(r.seal.wire.out) < sealMost {
				continue
			}
			if _, err := l.flush(r); err != nil || r.seal.owes() {
				return n, false, err
			}
		}
	}
	_, err = l.flush(r)
	return n, !r.seal.owes(), err
}

func (l *loop) encrypt(s *seal, b []byte) error {
	l.lend(s)
	_, err := s.tls.Write(b)
	return err
}

func (l *loop) lend(s *seal) {
	if s.wire.out == nil {
		s.wire.out, l.sealed = l.sealed[:0], nil
	}
}

// flush sends what is encrypted, and returns how much of that was taken.
func (l *loop) flush(r *conn) (n int, err error) {
	s := r.seal
	if !s.owes() {
		return 0, nil
	}
	n, err = send(r.fd, s.wire.out)
	rest := s.wire.out[n:]
	if s.held == 0 {
		l.sealed = s.wire.out[:0]
		rest = append([]byte(nil), rest...)
	}
	if s.wire.out = rest; len(rest) == 0 {
		s.wire.out = nil
	}
	l.s.frames.pins.hold(int64(len(rest) - s.held))
	s.held = len(rest)
	return n, err
}

// deliverSealed sends a reader that was stuck what is encrypted for it; all: it owes
// nothing any more.
func (l *loop) deliverSealed(r *conn) (all bool) {
	n, err := l.flush(r)
	if n > 0 {
		r.active = l.since()
	}
	switch {
	case err != nil:
		l.gone(r)
	case r.seal.owes():
		l.stick(r, n > 0)
	default:
		l.unstick(r)
	}
	return r.state == connIdle
}

// closeNotify says that nothing follows; all: the connection has taken that.
func (l *loop) closeNotify(r *conn) (all bool) {
	s := r.seal
	if s == nil {
		return true
	}
	if !s.closed {
		s.closed = true
		l.lend(s)
		if s.tls.CloseWrite() != nil {
			return true
		}
	}
	_, err := l.flush(r)
	return err != nil || !s.owes()
}

// unseal gives back what a reader that leaves still holds.
func (l *loop) unseal(s *seal) {
	if s != nil {
		l.s.frames.pins.hold(int64(-s.held))
		s.held, s.wire.out = 0, nil
	}
}
