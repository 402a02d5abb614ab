package edge

import (
	"context"
	"fmt"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// stalledLog is a Log that takes so many more appends of each stream, and then answers none.
type stalledLog struct {
	*logtest.Memory
	on         atomic.Bool
	takes      int
	unanswered chan struct{} // told of each append that is not answered
	free       chan struct{} // closed: they fail

	mu    sync.Mutex
	taken map[shard.StreamID]int
}

func (l *stalledLog) Append(ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	if l.on.Load() {
		l.mu.Lock()
		l.taken[id]++
		n := l.taken[id]
		l.mu.Unlock()
		if n > l.takes {
			l.unanswered <- struct{}{}
			<-l.free
			return shard.Ack{}, shard.ErrLogDenied
		}
		return shard.Ack{Start: at, End: at + shard.Pos(len(batch)), StartTime: 1, EndTime: 1}, nil
	}
	return l.Memory.Append(ctx, id, at, batch)
}

// heap returns the bytes in use. Stacks are not counted: they belong to connections, see doc.go.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Whatever the writes in flight are, they hold no more memory than is counted for them, and what is
// counted keeps to MaxBodies.
func TestWhatWritesHold(t *testing.T) {
	zeros := "[" + strings.Repeat("0,", shard.MaxMessages-1) + "0]"
	js := header{"Content-Type": "application/json"}
	for _, c := range []struct {
		name   string
		body   string
		head   header
		takes  int // parts that are written before storage is stuck
		counts int // in bytes for each byte sent, at most
	}{
		{"an array of zeros", zeros, js, 0, 45},
		{"an array of zeros, nearly written", zeros, js, 32, 45},
		{"an array that fits a batch", "[" + strings.Repeat("0,", 990) + "0]", js, 0, 270},
		{"small text", "abc", text, 0, 400},
		{"text", strings.Repeat("x", 64<<10), text, 0, 5},
		{"large text", strings.Repeat("x", 5<<20), text, 0, 2},
		{"large text, nearly written", strings.Repeat("x", 5<<20), text, 9, 2},
		{"long headers", "abc", header{"Content-Type": "text/plain", "X": strings.Repeat("x", 16<<10)}, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := &stalledLog{
				Memory: logtest.NewMemory(1), takes: c.takes, taken: map[shard.StreamID]int{},
				unanswered: make(chan struct{}), free: make(chan struct{}),
			}
			host := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
			s := New(Config{MaxBodies: 32 << 20}, host)
			defer s.Close()
			n := 2 + 24<<20/shard.RequestCost(len(c.body), strings.Count(c.body, ",")+1)
			n = min(n, 400)
			path := func(i int) string { return fmt.Sprint("/v1/stream/", i) }
			for i := range n {
				if w := ask(t, s, "PUT", path(i), nil, header{"Content-Type": c.head["Content-Type"]}); w.Code != 201 {
					t.Fatal(w.Code)
				}
			}
			log.on.Store(true)
			before := heap()
			var wg sync.WaitGroup
			refused := make(chan int)
			for i := range n {
				wg.Go(func() {
					r := httptest.NewRequestWithContext(t.Context(), "POST", path(i), strings.NewReader(c.body))
					for k, v := range c.head {
						r.Header.Set(k, strings.Clone(v)) // of its own, as one that was sent
					}
					w := httptest.NewRecorder()
					if s.ServeHTTP(w, r); w.Code != 503 {
						refused <- w.Code
					}
				})
			}
			flying := 0
			for range n {
				select {
				case <-log.unanswered:
					flying++
				case code := <-refused:
					if code != 429 {
						t.Fatal(code)
					}
				}
			}
			held, counted := heap()-before, s.writesBudget.held.Load()
			one := len(c.body)
			for k, v := range c.head {
				one += len(k) + len(v)
			}
			sent := int64(flying * one)
			t.Logf("%d in flight, %d refused: %d bytes sent, %d held, %d counted", flying, n-flying, sent, held, counted)
			if held > counted+counted/20 || counted > s.cfg.MaxBodies {
				t.Errorf("%d bytes are held, %d are counted", held, counted)
			}
			if counted > sent*int64(c.counts) {
				t.Errorf("%d bytes are counted for %d that were sent", counted, sent)
			}
			close(log.free)
			wg.Wait()
			_ = host.Close()
			if n := s.writesBudget.held.Load(); n != 0 {
				t.Errorf("%d bytes are counted in the end", n)
			}
		})
	}
}

// The map of an event stream's headers has eight entries at most, because a ninth doubles its memory.
func TestEventStreamHasFewHeaders(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	h := s.do("GET", "/v1/stream/x?offset=-1&live=sse", "", nil).Header
	delete(h, "Date") // net/http's
	if len(h) > 8 {
		t.Errorf("%d headers: %v", len(h), h)
	}
}
