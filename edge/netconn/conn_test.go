package netconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// connPair returns a Conn and its other end.
func connPair(t *testing.T) (w, peer net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if peer, err = net.Dial("tcp", l.Addr().String()); err != nil { //nolint:noctx // it does not wait
		t.Fatal(err)
	}
	if w, err = Listen(l).Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = w.Close(), peer.Close() })
	return w, peer
}

// What is written comes, whatever its size and though the other end takes it late.
func TestConnTransfersEverything(t *testing.T) {
	t.Parallel()
	w, peer := connPair(t)
	sent := make([]byte, 0, 4<<20)
	for i := range cap(sent) / 4 {
		sent = binary.BigEndian.AppendUint32(sent, uint32(i))
	}
	for name, ends := range map[string][2]net.Conn{"written": {w, peer}, "read": {peer, w}} {
		t.Run(name, func(t *testing.T) {
			var g errgroup.Group
			g.Go(func() error {
				for rest, size := sent, 1; len(rest) > 0; size = min(3*size+1, 200_000) {
					n, err := ends[0].Write(rest[:min(size, len(rest))])
					if err != nil {
						return err
					}
					rest = rest[n:]
				}
				return nil
			})
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(ends[1], got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%s: not what was sent (%v)", name, err)
			}
			if err := g.Wait(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// Its errors are those of net.Conn, which net/http and crypto/tls look at.
func TestConnErrorsAreThoseOfNet(t *testing.T) {
	t.Parallel()
	w, peer := connPair(t)
	var b [16]byte
	if n, err := w.Read(b[:0]); n != 0 || err != nil {
		t.Errorf("nothing asked: %d, %v", n, err)
	}
	named := func(op string, is error, err error) {
		t.Helper()
		if own := (*net.OpError)(nil); !errors.As(err, &own) || own.Op != op || !errors.Is(err, is) {
			t.Errorf("%v (%T), want %s: %v", err, err, op, is)
		}
	}
	_ = w.SetReadDeadline(time.Unix(1, 0))
	_, err := w.Read(b[:])
	named("read", os.ErrDeadlineExceeded, err)
	if late := net.Error(nil); !errors.As(err, &late) || !late.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
	_ = w.SetReadDeadline(time.Time{})
	_ = peer.(*net.TCPConn).CloseWrite()
	if n, err := w.Read(b[:]); n != 0 || err != io.EOF { //nolint:errorlint // as net/http compares it
		t.Errorf("after the end: %d, %v", n, err)
	}
	_ = peer.(*net.TCPConn).SetLinger(0)
	_ = peer.Close()
	for err = nil; err == nil; {
		_, err = w.Write(b[:])
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("after a reset: %v", err)
	}
	_ = w.Close()
	_, err = w.Read(b[:])
	named("read", net.ErrClosed, err)
}

// A reader and a writer of a wire allocate nothing.
func TestConnAllocatesNothing(t *testing.T) {
	w, peer := connPair(t)
	var b [1]byte
	if n := testing.AllocsPerRun(100, func() {
		if _, err := w.Write(b[:]); err != nil {
			t.Error(err)
		}
		if _, err := peer.Read(b[:]); err != nil {
			t.Error(err)
		}
		if _, err := peer.Write(b[:]); err != nil {
			t.Error(err)
		}
		if _, err := w.Read(b[:]); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// After a write that failed nothing is written, though the connection would take it: closing
// a tls.Conn would, and wait for the client.
func TestConnWritesNothingAfterAFailure(t *testing.T) {
	t.Parallel()
	c, _ := connPair(t)
	for _, deadline := range []time.Time{time.Unix(1, 0), {}} {
		if err := c.SetWriteDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d written, %v", n, err)
		}
	}
}
