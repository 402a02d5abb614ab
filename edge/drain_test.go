package edge

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/edge/sse/ssetest"
)

func (c *readerCounts) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all()
}

// A drain without a window ends readers immediately, refuses new event streams, and goes on
// to serve everything else.
func TestDrainEndsReadersImmediately(t *testing.T) {
	s := newSite(t, Config{LongPoll: time.Millisecond})
	s.put("/v1/stream/x", "one", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	s.events(resp, 2)
	if err := s.srv.Drain(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.HasPrefix(string(b), "retry: ") || strings.Count(string(b), "\n") != 2 {
		t.Errorf("%q %v", b, err)
	}
	refused(t, ask(t, s.srv, "GET", "/v1/stream/x?live=sse&offset=-1", nil, nil), 503, "draining")
	w := ask(t, s.srv, "GET", "/v1/stream/x?live=sse&offset=-1", nil, map[string]string{"Accept": "text/event-stream"})
	if b := w.Body.String(); w.Code != 200 || !strings.HasPrefix(b, "retry: ") || w.Header().Get("Connection") != "close" {
		t.Errorf("an EventSource got %d %q %v", w.Code, b, w.Header())
	}
	for _, c := range []struct {
		method, query string
		status        int
	}{
		{"GET", "", 200}, {"HEAD", "", 200}, {"POST", "", 204}, {"GET", "?live=long-poll&offset=-1", 200}, {"GET", "?live=long-poll&offset=now", 204},
	} {
		t.Run(c.method+c.query, func(t *testing.T) {
			w := ask(t, s.srv, c.method, "/v1/stream/x"+c.query, strings.NewReader("two"), text)
			if w.Code != c.status || w.Header().Get("Connection") != "close" {
				t.Errorf("%s %s: %d %v", c.method, c.query, w.Code, w.Header())
			}
		})
	}
}

// Before a drain answers only ask for their connection to be left; everything is served.
func TestLeaveOnlyClosesConnections(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	s.srv.Leave()
	s.events(s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil), 2)
	for method, status := range map[string]int{"GET": 200, "POST": 204, "OPTIONS": 204} {
		t.Run(method, func(t *testing.T) {
			w := ask(t, s.srv, method, "/v1/stream/x", strings.NewReader("two"), text)
			if w.Code != status || w.Header().Get("Connection") != "close" {
				t.Errorf("%s: %d %v", method, w.Code, w.Header())
			}
		})
	}
	s.srv.CancelDrain()
	if w := ask(t, s.srv, "GET", "/v1/stream/x", nil, nil); w.Header().Get("Connection") != "" {
		t.Errorf("taken back: %v", w.Header())
	}
}

// A drain with a window ends readers one by one, all over it, each between two events
// and none that has only just come; what is written meanwhile reaches the readers that are left.
func TestDrainIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		b.write("PUT", "/v1/stream/x", "first;", 201)
		const readers, window = 100, 20 * time.Second
		type end struct {
			i    int
			at   time.Time
			body []byte
			err  error
		}
		ends := make(chan end)
		for i := range readers {
			if i == readers/2 {
				<-time.After(time.Minute) // half of them are old
			}
			s := b.get("offset=-1", nil)
			go func() {
				body, err := io.ReadAll(s.resp.Body)
				ends <- end{i, time.Now(), append(s.buf, body...), err}
			}()
		}
		began := time.Now()
		drained := make(chan error, 1)
		go func() { drained <- b.srv.Drain(context.Background(), window) }()
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					b.write("POST", "/v1/stream/x", "m;", 204)
				}
			}
		}()
		early := 0
		for range readers {
			e := <-ends
			stayed := e.at.Sub(began)
			if stayed < window/2 {
				early++
			}
			if e.i >= readers/2 && stayed < minDrainAge {
				t.Errorf("a reader was ended at the age of %v", stayed)
			}
			if stayed > window+time.Second {
				t.Errorf("a reader was there after %v", stayed)
			}
			events, rest, err := ssetest.Parse(e.body)
			text := ""
			for _, e := range events {
				text += map[string]string{"data": e.Data}[e.Name]
			}
			messages, ok := strings.CutPrefix(text, "first;")
			if e.err != nil || err != nil || len(rest) > 0 || !ok || strings.ReplaceAll(messages, "m;", "") != "" {
				t.Errorf("%q, then %q, %v %v", text, rest, e.err, err)
			}
			if got := len(messages) / 2; got < int(stayed/(100*time.Millisecond))-2 {
				t.Errorf("%d messages in %v", got, stayed)
			}
		}
		close(stop)
		<-stopped
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if early < readers/4 || early > readers*3/4 {
			t.Errorf("%d of %d readers ended in the first half of the window", early, readers)
		}
	})
}

// A waiting long-poll is answered in its turn, and not refused.
func TestDrainAnswersLongPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{LongPoll: time.Minute}, nil)
		b.write("PUT", "/v1/stream/x", "one", 201)
		answers := make(chan int)
		for range 20 {
			go func() { answers <- ask(t, b.srv, "GET", "/v1/stream/x?live=long-poll&offset=now", nil, nil).Code }()
		}
		synctest.Wait()
		began := time.Now()
		if err := b.srv.Drain(context.Background(), 10*time.Second); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if code := <-answers; code != http.StatusNoContent {
				t.Errorf("answered %d", code)
			}
		}
		if d := time.Since(began); d < time.Second || d > 12*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}
