package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/sse"
)

// openReader opens an event stream and returns its connection, from which nothing is read that did not
// come with the head.
func (s *site) openReader(path string, h header, small bool) (net.Conn, *http.Response) {
	s.Helper()
	c := s.dial()
	if tcp, ok := c.(*net.TCPConn); ok && small {
		if err := tcp.SetReadBuffer(4 << 10); err != nil {
			s.Fatal(err)
		}
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n", path)
	for k, v := range h {
		fmt.Fprintf(c, "%s: %s\r\n", k, v)
	}
	if _, err := io.WriteString(c, "\r\n"); err != nil {
		s.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 1<<10), nil)
	if err != nil {
		s.Fatal(err)
	}
	return c, resp
}

// A reader whose right has ended and that does not take what was begun is cut off after five seconds,
// whether it takes nothing or a little at a time, and whichever executor serves it; others stay.
func TestReaderThatTakesNothingDoesNotOutstayItsRight(t *testing.T) {
	t.Parallel()
	const live = "/v1/stream/acme/rooms/big?offset=-1&live=sse"
	for name, open := range map[string]func(s *site, h header){
		"takes nothing": func(s *site, h header) { s.openReader(live, h, true) },
		"takes a little": func(s *site, h header) {
			_, resp := s.openReader(live, h, true)
			go func() {
				for b := make([]byte, 512); ; {
					if _, err := resp.Body.Read(b); err != nil {
						return
					}
					select {
					case <-time.After(20 * time.Millisecond):
					case <-s.Context().Done():
						return
					}
				}
			}()
		},
		"HTTP/2": func(s *site, h header) {
			var p http.Protocols
			p.SetUnencryptedHTTP2(true)
			tr := &http.Transport{Protocols: &p}
			s.Cleanup(tr.CloseIdleConnections)
			req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.url+live, nil)
			if err != nil {
				s.Fatal(err)
			}
			for k, v := range h {
				req.Header.Set(k, v)
			}
			resp, err := tr.RoundTrip(req) // its body is not read: the stream's window is full
			if err != nil || resp.ProtoMajor != 2 || resp.StatusCode != 200 {
				s.Fatal(resp, err)
			}
			s.Cleanup(func() { _ = resp.Body.Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJudge(t, rightsFile(t), access.Config{})
			s := newSiteOver(t, Config{Judge: j}, false)
			ada, bob := bearer(tokenOf(t, nil)), bearer(tokenOf(t, map[string]any{"sub": "bob"}))
			ada["Content-Type"] = "text/plain"
			s.put("/v1/stream/acme/rooms/big", "one", ada)
			for range 4 { // far more than the kernel takes for a client
				s.want(s.do("POST", "/v1/stream/acme/rooms/big", strings.Repeat("x", 4<<20), ada), 204)
			}
			open(s, ada)
			open(s, bob)
			s.eventually("both are there", func() bool { return s.srv.Readers() == 2 })
			began := time.Now()
			revoke(t, j, access.RevokeRequest{Issuer: "app", Subject: "ada"})
			for s.srv.Readers() == 2 && time.Since(began) < 20*time.Second {
				<-time.After(50 * time.Millisecond)
			}
			took := time.Since(began)
			if took < sse.MaxOverstay || took > sse.MaxOverstay+4*time.Second { // the spread, and ticks of a second
				t.Errorf("it was cut off after %v, want %v and little more", took, sse.MaxOverstay)
			}
			if cut := s.disconnected("permit"); cut != 1 || s.srv.Readers() != 1 {
				t.Errorf("%v are counted, %d readers stay", cut, s.srv.Readers())
			}
		})
	}
}

// A reader that was revoked ends within a second of it although further revocations keep coming.
func TestManyRevocationsDoNotPutOffTheFirst(t *testing.T) {
	j := newJudge(t, rightsFile(t), access.Config{})
	s := New(Config{Judge: j}, nil)
	defer s.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+tokenOf(t, nil))
	v, denial := j.Decide(r, "acme", "rooms/a", access.Read)
	if denial != nil {
		t.Fatal(denial)
	}
	stay, denial := s.beginStay(r, decision{Verdict: v, judged: true})
	if denial != nil {
		t.Fatal(denial)
	}
	defer stay.finish()
	revoke(t, j, access.RevokeRequest{Issuer: "app", Subject: "ada"})
	first := stay.EndsAt()
	if limit := s.rules.At(time.Now().Add(time.Second)); first > limit {
		t.Errorf("it ends %v too late", first.Sub(limit))
	}
	for i := range 3 {
		<-time.After(10 * time.Millisecond)
		revoke(t, j, access.RevokeRequest{Issuer: "app", Subject: fmt.Sprint("other-", i)})
		if again := stay.EndsAt(); again != first {
			t.Errorf("another revocation puts it off by %v", again.Sub(first))
		}
	}
}

// 5,000 readers whose tokens end in the same second all end within the time of leeway, spread and pacing,
// each after a complete event; none is admitted again with its token; and meanwhile a reader with
// another token gets each message without delay.
func TestReadersWhoseTokensEndTogether(t *testing.T) {
	if testing.Short() || overTLS || handlers {
		t.Skip("5,000 sockets")
	}
	t.Parallel()
	const readers, left, spread = 5000, 15 * time.Second, 5 * time.Second
	j := newJudge(t, rightsFile(t), access.Config{})
	s := newSite(t, Config{Judge: j})
	writer := bearer(tokenOf(t, map[string]any{"sub": "writer"}))
	writer["Content-Type"] = "text/plain"
	s.put("/v1/stream/acme/rooms/a", "one", writer)
	s.put("/v1/stream/acme/rooms/quiet", "one", writer)
	ends := time.Now().Add(left).Truncate(time.Second) // of the leeway
	token := func(i int) header {
		return bearer(tokenOf(t, map[string]any{"sub": fmt.Sprint("reader-", i), "exp": ends.Add(-access.Leeway).Unix()}))
	}
	last := make([]time.Time, readers)
	var broken atomic.Int32
	var wg sync.WaitGroup
	for i := range readers {
		c, resp := s.openReader("/v1/stream/acme/rooms/quiet?offset=now&live=sse", token(i), false)
		if resp.StatusCode != 200 {
			t.Fatalf("reader %d: %d; the machine is too slow for this test", i, resp.StatusCode)
		}
		wg.Go(func() {
			defer func() { _ = c.Close() }()
			b, err := io.ReadAll(resp.Body)
			last[i] = time.Now()
			if err != nil || !strings.HasSuffix(string(b), "\n\n") {
				broken.Add(1)
			}
		})
	}
	t.Logf("%d readers joined %v before the end", readers, time.Until(ends).Round(time.Millisecond))
	delays := s.deliveryDelays(writer, "/v1/stream/acme/rooms/a", ends.Add(spread+5*time.Second))
	wg.Wait()
	if n := broken.Load(); n > 0 {
		t.Errorf("%d readers ended in the middle", n)
	}
	slices.SortFunc(last, time.Time.Compare)
	const pacing = (readers + maxEndsPerSecond - 1) / maxEndsPerSecond * time.Second
	if early, late := ends.Sub(last[0]), last[readers-1].Sub(ends); early > 0 || late > spread+pacing+2*time.Second {
		t.Errorf("they ended from %v before to %v after the leeway", early, late)
	}
	for _, i := range []int{0, readers / 2, readers - 1} {
		s.want(s.do("GET", "/v1/stream/acme/rooms/quiet", "", token(i)), 401)
	}
	slices.Sort(delays)
	if worst := delays[len(delays)-1]; worst > time.Second {
		t.Errorf("a message to a reader with another token took %v", worst)
	}
	t.Logf("the others' messages: median %v, worst %v of %d", delays[len(delays)/2], delays[len(delays)-1], len(delays))
}

// deliveryDelays appends messages until a moment and returns how long each took to reach a reader.
func (s *site) deliveryDelays(h header, path string, until time.Time) (delays []time.Duration) {
	s.Helper()
	_, resp := s.openReader(path+"?offset=now&live=sse", h, false)
	in := bufio.NewReader(resp.Body)
	for n := 0; time.Now().Before(until); n++ {
		message := fmt.Sprint("message-", n)
		began := time.Now()
		s.want(s.do("POST", path, message, h), 204)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				s.Fatal(err)
			}
			if strings.TrimSpace(line) == "data:"+message {
				break
			}
		}
		delays = append(delays, time.Since(began))
		<-time.After(20 * time.Millisecond)
	}
	return delays
}
