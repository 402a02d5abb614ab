package edge

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// pacer writes to a client and cuts one that takes nothing for a while. What goes to a TCP
// connection by itself (HTTP/1.1 on Linux) is written in one call, and the deadline moves
// on as long as the client's kernel takes something. Others are written to in pieces, and
// a slow one has as long for each, so that it is not cut in the middle of a large message
// that it takes all the time.
type pacer struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	stall time.Duration
	tcp   *net.TCPConn // that alone is written to; nil: it is another
	pins  *pins        // has it looked at who is stuck
	left  int          // of the piece that the deadline is for
	began atomic.Int64 // when the write under way began, or was last seen to go on, ns; 0: none

	mu    sync.Mutex  // is held while others than the writer move the deadline
	isCut atomic.Bool // for room; see pins
}

const (
	stallPiece = 16 << 10
	// lookAfter is how often a large write is looked at.
	lookAfter = time.Second
)

func (s *Server) pacer(w http.ResponseWriter, r *http.Request, p *pins) *pacer {
	return &pacer{w: w, rc: http.NewResponseController(w), stall: s.cfg.Stall, tcp: connOf(r), pins: p}
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
}

// Write implements io.Writer.
func (p *pacer) Write(b []byte) (int, error) {
	if err := p.write(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (p *pacer) write(b []byte) error {
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
		if p.tcp != nil && len(b) > stallPiece {
			p.left = 0
			defer p.watch()()
			_, err := p.w.Write(b)
			return err
		}
		n := min(len(b), p.left)
		if _, err := p.w.Write(b[:n]); err != nil {
			return err
		}
		p.left -= n
		b = b[n:]
	}
	return nil
}

// watch moves the deadline of a write on, as long as the client takes something.
func (p *pacer) watch() (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	every, had, over := min(lookAfter, p.stall/4), acknowledged(p.tcp), false
	var t *time.Timer
	t = time.AfterFunc(every, func() {
		p.pins.relieve()
		p.mu.Lock()
		defer p.mu.Unlock()
		if over || p.isCut.Load() {
			return
		}
		if has := acknowledged(p.tcp); has > had {
			now := time.Now()
			p.began.Store(now.UnixNano())
			_ = p.until(now.Add(p.stall))
			had = has
		}
		t.Reset(every)
	})
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		over = true
		t.Stop()
	}
}

// flush ends the deadline with what it was for: HTTP/2 would end the response when
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
