package netconn

import (
	"errors"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/edge/sendbudget"
)

// StallWriter writes to a client, and disconnects a client that accepts nothing for stall. It
// writes in pieces, each with a deadline of its own, so that a slow client is not disconnected in
// the middle of a large message. With a slotWriter the deadline follows the slotWriter's rule
// instead.
type StallWriter struct {
	w          http.ResponseWriter
	conn       *Conn // beneath a stream of HTTP/2; nil: not known, or HTTP/1
	controller *http.ResponseController
	stall      time.Duration
	inSlots    bool         // a slotWriter writes; else it is written in pieces
	pieceLeft  int          // of the piece for which the deadline is set
	writeBegan atomic.Int64 // when the current write began or last made progress, ns; 0: no write is in progress

	mu           sync.Mutex  // guards the deadline while goroutines other than the writing one may move it, and fields of its slotWriter
	disconnected atomic.Bool // to free memory; see Budget
}

// PieceSize is the size of the pieces in which a StallWriter writes.
const PieceSize = 16 << 10

// NewStallWriter returns a StallWriter for the response of a request.
func NewStallWriter(w http.ResponseWriter, r *http.Request, stall time.Duration) *StallWriter {
	s := &StallWriter{w: w, controller: http.NewResponseController(w), stall: stall}
	if r.ProtoMajor > 1 {
		s.conn = Of(r)
	}
	return s
}

// BlockedFor returns how long the current write has been blocked; 0: no write is, or the client is disconnected.
func (s *StallWriter) BlockedFor(now time.Time) time.Duration {
	if at := s.writeBegan.Load(); at != 0 && !s.disconnected.Load() {
		return now.Sub(time.Unix(0, at))
	}
	return 0
}

// Disconnect ends the current write, and all later ones.
func (s *StallWriter) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disconnected.Store(true)
	_ = s.setDeadline(time.Now()) // safe: s is registered with the budget, so its request has not ended
	if s.conn != nil {
		// A connection that accepts nothing does not accept the end of a stream either, so the
		// stream would stay. net/http sets a deadline for each HTTP/2 write; this one is for a
		// write in progress.
		taken := ackedByPeer(s.conn)
		time.AfterFunc(sendbudget.BlockedAfter, func() {
			if s.writeBegan.Load() != 0 && ackedByPeer(s.conn) == taken {
				_ = s.conn.tcp.SetWriteDeadline(time.Now())
			}
		})
	}
}

// Disconnected reports whether Disconnect was called.
func (s *StallWriter) Disconnected() bool { return s.disconnected.Load() }

// Write implements io.Writer: it writes all of b, or returns an error.
func (s *StallWriter) Write(b []byte) (int, error) {
	if s.inSlots {
		return s.w.Write(b)
	}
	if err := s.writePieces(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// writePieces writes b in pieces.
func (s *StallWriter) writePieces(b []byte) error {
	s.writeBegan.Store(time.Now().UnixNano()) // also in the middle of a piece, where a write may block as well
	defer s.writeBegan.Store(0)
	for len(b) > 0 {
		if s.pieceLeft == 0 {
			now := time.Now()
			s.writeBegan.Store(now.UnixNano())
			if s.disconnected.Load() {
				return os.ErrDeadlineExceeded
			}
			if err := s.setDeadline(now.Add(s.stall)); err != nil {
				return err
			}
			s.pieceLeft = PieceSize
		}
		n := min(len(b), s.pieceLeft)
		if _, err := s.w.Write(b[:n]); err != nil {
			if time.Since(time.Unix(0, s.writeBegan.Load())) >= s.stall { // HTTP/2 reports only that the stream is over
				err = errors.Join(os.ErrDeadlineExceeded, err)
			}
			return err
		}
		s.pieceLeft -= n
		if b = b[n:]; s.pieceLeft == 0 {
			// Over HTTP/2 this goroutine and the connection's wake each other, and the scheduler
			// runs such a pair for up to 10 ms before any other ready goroutine. With thousands of
			// pairs that takes seconds; yielding lets others run.
			runtime.Gosched()
		}
	}
	return nil
}

// Flush flushes and clears the deadline: HTTP/2 would end the response when the deadline
// passes, even while nothing is being written.
func (s *StallWriter) Flush() error {
	s.pieceLeft = 0
	s.writeBegan.Store(time.Now().UnixNano())
	defer s.writeBegan.Store(0)
	return errors.Join(s.controller.Flush(), s.setDeadline(time.Time{}))
}

// setDeadline sets the write deadline, where there can be one.
func (s *StallWriter) setDeadline(t time.Time) error {
	if err := s.controller.SetWriteDeadline(t); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
