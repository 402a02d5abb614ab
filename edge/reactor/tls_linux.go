package reactor

import (
	"crypto/tls"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/netconn"
)

// tlsWriter is the TLS of a reader. The session counts a message as written once it is encrypted, so
// nothing more is encrypted until the connection has accepted those bytes.
type tlsWriter struct {
	tls           *tls.Conn
	buffers       netconn.TLSBuffers // Out is lent by the loop, or the reader's own while that is blocked
	charged       int                // bytes of Out that are charged to the send budget
	closeNotified bool               // close_notify was encrypted
	readClosed    bool               // what the client sends is not read
}

// transport returns what Conn.Detach needs; nil: without TLS.
func (s *tlsWriter) transport() *netconn.TLSBuffers {
	if s == nil {
		return nil
	}
	return &s.buffers
}

// fdReader reads what a descriptor has received, without waiting.
type fdReader int32

func (fd fdReader) Read(b []byte) (int, error) {
	n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, os.ErrDeadlineExceeded // crypto/tls continues after a deadline
	case err != nil:
		return 0, err
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// readTLS reads what a client sends after its request: usually close_notify, which comes before the
// connection ends, or new keys. Further requests are not read.
func (l *loop) readTLS(r *conn) {
	s := r.tls
	n, err := s.tls.Read(l.readBuf[:])
	switch {
	case n > 0:
		l.stopReading(r)
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.flushTLSReplies(r)
	case errors.Is(err, io.EOF) && r.state == connIdle:
		if l.stopReading(r) {
			l.endResponse(r)
		}
	default:
		l.closeConn(r)
	}
}

// stopReading stops reading what the client sends; its hang-up is still noticed. It returns false if
// the reader is closed.
func (l *loop) stopReading(r *conn) bool {
	r.tls.readClosed = true
	if err := l.setEpollEvents(unix.EPOLL_CTL_MOD, r, r.wantsWritable); err != nil {
		l.closeConn(r)
		return false
	}
	return true
}

// flushTLSReplies sends what crypto/tls has written on its own account, such as its new keys.
func (l *loop) flushTLSReplies(r *conn) {
	switch s := r.tls; {
	case !s.hasOutput():
	case s.charged > 0: // earlier bytes are still waiting
		l.cfg.Budget.Charge(int64(len(s.buffers.Out) - s.charged))
		s.charged = len(s.buffers.Out)
	default:
		if n, err := l.flushTLS(r); err != nil {
			l.closeConn(r)
		} else if s.hasOutput() {
			l.markBlocked(r, n > 0)
		}
	}
}

// maxEncrypted bounds the bytes that are encrypted before they are sent.
const maxEncrypted = 64 << 10

// HasOutput reports whether something is encrypted and not sent.
func (s *tlsWriter) hasOutput() bool { return s != nil && len(s.buffers.Out) > 0 }

// sendTo sends b to a reader with no pending output and returns how many bytes were sent or, under
// TLS, encrypted.
func (l *loop) sendTo(r *conn, b []byte) (int, error) {
	if r.tls == nil {
		return netconn.Send(r.fd, b)
	}
	if err := l.encrypt(r.tls, b); err != nil {
		return 0, err
	}
	_, err := l.flushTLS(r)
	return len(b), err
}

// writeTLS is writeOnce under TLS.
func (l *loop) writeTLS(r *conn, pending [][]byte) (n int, all bool, err error) {
	for _, b := range pending {
		for len(b) > 0 {
			piece := b[:min(len(b), maxEncrypted)]
			if err := l.encrypt(r.tls, piece); err != nil {
				return n, false, err
			}
			n += len(piece)
			b = b[len(piece):]
			if len(r.tls.buffers.Out) < maxEncrypted {
				continue
			}
			if _, err := l.flushTLS(r); err != nil || r.tls.hasOutput() {
				return n, false, err
			}
		}
	}
	_, err = l.flushTLS(r)
	return n, !r.tls.hasOutput(), err
}

func (l *loop) encrypt(s *tlsWriter, b []byte) error {
	l.lendTLSBuf(s)
	_, err := s.tls.Write(b)
	return err
}

func (l *loop) lendTLSBuf(s *tlsWriter) {
	if s.buffers.Out == nil {
		s.buffers.Out, l.tlsBuf = l.tlsBuf[:0], nil
	}
}

// flushTLS sends encrypted bytes, and returns how many were accepted.
func (l *loop) flushTLS(r *conn) (n int, err error) {
	s := r.tls
	if !s.hasOutput() {
		return 0, nil
	}
	n, err = netconn.Send(r.fd, s.buffers.Out)
	rest := s.buffers.Out[n:]
	if s.charged == 0 {
		l.tlsBuf = s.buffers.Out[:0]
		rest = append([]byte(nil), rest...)
	}
	if s.buffers.Out = rest; len(rest) == 0 {
		s.buffers.Out = nil
	}
	l.cfg.Budget.Charge(int64(len(rest) - s.charged))
	s.charged = len(rest)
	return n, err
}

// flushBlockedTLS sends a blocked reader its encrypted bytes; all reports whether none are left and the
// reader is idle.
func (l *loop) flushBlockedTLS(r *conn) (all bool) {
	n, err := l.flushTLS(r)
	if n > 0 {
		r.session.MarkActive(l.elapsed())
	}
	switch {
	case err != nil:
		l.closeConn(r)
	case r.tls.hasOutput():
		l.markBlocked(r, n > 0)
	default:
		l.markUnblocked(r)
	}
	return r.state == connIdle
}

// sendCloseNotify tells the client that nothing follows; all reports whether the connection has accepted that.
func (l *loop) sendCloseNotify(r *conn) (all bool) {
	s := r.tls
	if s == nil {
		return true
	}
	if !s.closeNotified {
		s.closeNotified = true
		l.lendTLSBuf(s)
		if s.tls.CloseWrite() != nil {
			return true
		}
	}
	_, err := l.flushTLS(r)
	return err != nil || !s.hasOutput()
}

// releaseTLS releases the encrypted bytes of a reader that is being closed.
func (l *loop) releaseTLS(s *tlsWriter) {
	if s != nil {
		l.cfg.Budget.Charge(int64(-s.charged))
		s.charged, s.buffers.Out = 0, nil
	}
}
