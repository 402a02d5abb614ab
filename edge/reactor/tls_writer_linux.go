package reactor

import (
	"crypto/tls"

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
func (w *tlsWriter) transport() *netconn.TLSBuffers {
	if w == nil {
		return nil
	}
	return &w.buffers
}

// maxEncrypted bounds the bytes that are encrypted before they are sent.
const maxEncrypted = 64 << 10

// hasOutput reports whether something is encrypted and not sent.
func (w *tlsWriter) hasOutput() bool { return w != nil && len(w.buffers.Out) > 0 }

// sendTo sends b to a reader with no pending output and returns how many bytes were sent or, under
// TLS, encrypted.
func (l *loop) sendTo(c *conn, b []byte) (int, error) {
	if c.tls == nil {
		return netconn.Send(c.fd, b)
	}
	if err := l.encrypt(c.tls, b); err != nil {
		return 0, err
	}
	_, err := l.flushTLS(c)
	return len(b), err
}

// writeTLS does what writeOnce does, under TLS.
func (l *loop) writeTLS(c *conn, pending [][]byte) (n int, all bool, err error) {
	for _, b := range pending {
		for len(b) > 0 {
			piece := b[:min(len(b), maxEncrypted)]
			if err := l.encrypt(c.tls, piece); err != nil {
				return n, false, err
			}
			n += len(piece)
			b = b[len(piece):]
			if len(c.tls.buffers.Out) < maxEncrypted {
				continue
			}
			if _, err := l.flushTLS(c); err != nil || c.tls.hasOutput() {
				return n, false, err
			}
		}
	}
	_, err = l.flushTLS(c)
	return n, !c.tls.hasOutput(), err
}

func (l *loop) encrypt(w *tlsWriter, b []byte) error {
	l.lendTLSBuf(w)
	_, err := w.tls.Write(b)
	return err
}

func (l *loop) lendTLSBuf(w *tlsWriter) {
	if w.buffers.Out == nil {
		w.buffers.Out, l.tlsBuf = l.tlsBuf[:0], nil
	}
}

// flushTLS sends encrypted bytes, and returns how many were accepted.
func (l *loop) flushTLS(c *conn) (n int, err error) {
	w := c.tls
	if !w.hasOutput() {
		return 0, nil
	}
	n, err = netconn.Send(c.fd, w.buffers.Out)
	rest := w.buffers.Out[n:]
	if w.charged == 0 {
		l.tlsBuf = w.buffers.Out[:0]
		rest = append([]byte(nil), rest...)
	}
	if w.buffers.Out = rest; len(rest) == 0 {
		w.buffers.Out = nil
	}
	l.cfg.Budget.Charge(int64(len(rest) - w.charged))
	w.charged = len(rest)
	return n, err
}

// sendCloseNotify tells the client that nothing follows; all reports whether the connection has accepted that.
func (l *loop) sendCloseNotify(c *conn) (all bool) {
	w := c.tls
	if w == nil {
		return true
	}
	if !w.closeNotified {
		w.closeNotified = true
		l.lendTLSBuf(w)
		if w.tls.CloseWrite() != nil {
			return true
		}
	}
	_, err := l.flushTLS(c)
	return err != nil || !w.hasOutput()
}

// releaseTLS releases the encrypted bytes of a reader that is being closed.
func (l *loop) releaseTLS(w *tlsWriter) {
	if w != nil {
		l.cfg.Budget.Charge(int64(-w.charged))
		w.charged, w.buffers.Out = 0, nil
	}
}
