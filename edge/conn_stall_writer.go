package edge

import (
	"errors"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/shard"
)

// stallWriter writes to a client, and disconnects a client that accepts nothing for stall. It
// writes in pieces, each with a deadline of its own, so that a slow client is not disconnected
// in the middle of a large message. With a slotWriter the deadline follows that one's rule instead.
type stallWriter struct {
	w          http.ResponseWriter
	conn       *tcpConn // beneath a stream of HTTP/2; nil: not known, or HTTP/1
	controller *http.ResponseController
	stall      time.Duration
	slots      *slotWriter  // nil: written in pieces
	pieceLeft  int          // of the piece for which the deadline is set
	writeBegan atomic.Int64 // when the current write began or last made progress, ns; 0: no write is in progress

	mu           sync.Mutex  // guards the deadline while goroutines other than the writing one may move it, and fields of slots
	disconnected atomic.Bool // to free memory; see Budget

	heldUpTo shard.Pos // of an event stream: the held message for which its timer is set
}

const stallPieceSize = 16 << 10

// newStallWriter returns a stallWriter for the response of a request.
func (s *Server) newStallWriter(w http.ResponseWriter, r *http.Request) *stallWriter {
	p := &stallWriter{w: w, controller: http.NewResponseController(w), stall: s.cfg.Stall}
	if r.ProtoMajor > 1 {
		p.conn = connOf(r)
	}
	return p
}

// BlockedFor returns how long the current write has been blocked; 0: no write is, or the client is disconnected.
func (p *stallWriter) BlockedFor(now time.Time) time.Duration {
	if at := p.writeBegan.Load(); at != 0 && !p.disconnected.Load() {
		return now.Sub(time.Unix(0, at))
	}
	return 0
}

// Disconnect ends the current write, and all later ones.
func (p *stallWriter) Disconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disconnected.Store(true)
	_ = p.setDeadline(time.Now()) // safe: p is registered with the budget, so its request has not ended
	if p.conn != nil {
		// A connection that accepts nothing does not accept the end of a stream either, so the
		// stream would stay. net/http sets a deadline for each HTTP/2 write; this one is for a
		// write in progress.
		taken := ackedByPeer(p.conn)
		time.AfterFunc(sendbudget.BlockedAfter, func() {
			if p.writeBegan.Load() != 0 && ackedByPeer(p.conn) == taken {
				_ = p.conn.tcp.SetWriteDeadline(time.Now())
			}
		})
	}
}

// Write implements io.Writer.
func (p *stallWriter) Write(b []byte) (int, error) {
	if err := p.write(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// write writes all of b.
func (p *stallWriter) write(b []byte) error {
	if p.slots != nil {
		_, err := p.w.Write(b)
		return err
	}
	p.writeBegan.Store(time.Now().UnixNano()) // also in the middle of a piece, where a write may block as well
	defer p.writeBegan.Store(0)
	for len(b) > 0 {
		if p.pieceLeft == 0 {
			now := time.Now()
			p.writeBegan.Store(now.UnixNano())
			if p.disconnected.Load() {
				return os.ErrDeadlineExceeded
			}
			if err := p.setDeadline(now.Add(p.stall)); err != nil {
				return err
			}
			p.pieceLeft = stallPieceSize
		}
		n := min(len(b), p.pieceLeft)
		if _, err := p.w.Write(b[:n]); err != nil {
			if time.Since(time.Unix(0, p.writeBegan.Load())) >= p.stall { // HTTP/2 reports only that the stream is over
				err = errors.Join(os.ErrDeadlineExceeded, err)
			}
			return err
		}
		p.pieceLeft -= n
		if b = b[n:]; p.pieceLeft == 0 {
			// Over HTTP/2 this goroutine and the connection's wake each other, and the scheduler
			// runs such a pair for up to 10 ms before any other ready goroutine. With thousands of
			// pairs that takes seconds; yielding lets others run.
			runtime.Gosched()
		}
	}
	return nil
}

// flush flushes and clears the deadline: HTTP/2 would end the response when the deadline
// passes, even while nothing is being written.
func (p *stallWriter) flush() error {
	p.pieceLeft = 0
	p.writeBegan.Store(time.Now().UnixNano())
	defer p.writeBegan.Store(0)
	return errors.Join(p.controller.Flush(), p.setDeadline(time.Time{}))
}

// setDeadline sets the write deadline, where there can be one.
func (p *stallWriter) setDeadline(t time.Time) error {
	if err := p.controller.SetWriteDeadline(t); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
