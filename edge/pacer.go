package edge

import (
	"errors"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// pacer writes to a client and cuts one that takes nothing for a while. It writes in pieces,
// and a slow client has as long for each, so that it is not cut in the middle of a large
// message that it takes all the time; but see stint.
type pacer struct {
	w     http.ResponseWriter
	below *wire // of a stream of HTTPAddr/2, if it is known
	rc    *http.ResponseController
	stall time.Duration
	stint *stint       // nil: pieces
	left  int          // of the piece that the deadline is for
	began atomic.Int64 // when the write under way began, or was last seen to go on, ns; 0: none

	mu    sync.Mutex  // is held while others than the writer may move the deadline, and of its stint
	isCut atomic.Bool // for room; see pins

	holding uint64 // of an event stream: what its cursor holds for which the timer is set
}

const stallPiece = 16 << 10

func (s *Server) pacer(w http.ResponseWriter, r *http.Request) *pacer {
	p := &pacer{w: w, rc: http.NewResponseController(w), stall: s.cfg.Stall}
	if r.ProtoMajor > 1 {
		p.below = wireBelow(r)
	}
	return p
}

// stuckFor and cut implement pinner.
func (p *pacer) stuckFor(now time.Time) time.Duration {
	if at := p.began.Load(); at != 0 && !p.isCut.Load() {
		return now.Sub(time.Unix(0, at))
	}
	return 0
}

func (p *pacer) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut.Store(true)
	_ = p.until(time.Now()) // its request has not ended: it is among the pinners
	if p.below != nil {
		// A connection that takes nothing takes no word either of a stream that ends, and the
		// stream stays. Each write of net/http's HTTPAddr/2 sets a deadline; this is for one under way.
		taken := acknowledged(p.below)
		time.AfterFunc(stuckAfter, func() {
			if p.began.Load() != 0 && acknowledged(p.below) == taken {
				_ = p.below.tcp.SetWriteDeadline(time.Now())
			}
		})
	}
}

// Write implements io.Writer.
func (p *pacer) Write(b []byte) (int, error) {
	if err := p.write(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (p *pacer) write(b []byte) error {
	if p.stint != nil {
		_, err := p.w.Write(b)
		return err
	}
	p.began.Store(time.Now().UnixNano()) // also in the middle of a piece: it may block anywhere
	defer p.began.Store(0)
	for len(b) > 0 {
		if p.left == 0 {
			now := time.Now()
			p.began.Store(now.UnixNano())
			if p.isCut.Load() {
				return os.ErrDeadlineExceeded
			}
			if err := p.until(now.Add(p.stall)); err != nil {
				return err
			}
			p.left = stallPiece
		}
		n := min(len(b), p.left)
		if _, err := p.w.Write(b[:n]); err != nil {
			if time.Since(time.Unix(0, p.began.Load())) >= p.stall { // HTTPAddr/2 says only that the stream is over
				err = errors.Join(os.ErrDeadlineExceeded, err)
			}
			return err
		}
		p.left -= n
		if b = b[n:]; p.left == 0 {
			// Over HTTPAddr/2 a writer and those who write for it wake each other, and none of them
			// waits behind the others that are ready, for 10 ms: thousands would take seconds.
			runtime.Gosched()
		}
	}
	return nil
}

// flush ends the deadline with what it was for: HTTPAddr/2 would end the response when
// it passes, in silence too.
func (p *pacer) flush() error {
	p.left = 0
	p.began.Store(time.Now().UnixNano())
	defer p.began.Store(0)
	return errors.Join(p.rc.Flush(), p.until(time.Time{}))
}

func (p *pacer) until(t time.Time) error {
	if err := p.rc.SetWriteDeadline(t); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
