package edge

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/sse"
)

// bubbleWithRights is a bubble with a file of rights, and a stream in it.
func bubbleWithRights(t *testing.T, file string) (*bubble, *access.Judge) {
	t.Helper()
	j := newJudge(t, file, access.Config{})
	b := newBubble(t, Config{Judge: j}, nil)
	t.Cleanup(b.srv.Close)
	owner := bearer(tokenOf(t, map[string]any{"role": "owner", "exp": time.Now().Add(20 * time.Hour).Unix()}))
	owner["Content-Type"] = "text/plain"
	if w := ask(t, b.srv, "PUT", "/v1/stream/acme/rooms/a", strings.NewReader("one"), owner); w.Code != 201 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return b, j
}

// A long-poll ends, as at a timeout, when its token's leeway is over: no reader waits on by
// a right that has ended, and none is told that something failed.
func TestLongPollEndsWithItsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := bubbleWithRights(t, rightsFile(t))
		left := 5 * time.Second
		token := bearer(tokenOf(t, map[string]any{"exp": time.Now().Add(left - access.Leeway).Unix()}))
		began := time.Now()
		w := ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a?offset=now&live=long-poll", nil, token)
		if took := time.Since(began); w.Code != 204 || took < left-time.Second || took > left+6*time.Second {
			t.Errorf("%d after %v, want 204 after %v", w.Code, took, left)
		}
		if w := ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a?offset=now&live=long-poll", nil, token); w.Code != 401 {
			t.Errorf("%d: the token is good no longer", w.Code)
		}
	})
}

// A revocation wakes long-polls, and is not missed by one that is just being admitted.
func TestLongPollEndsWhenItsTokenIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, j := bubbleWithRights(t, rightsFile(t))
		token := bearer(tokenOf(t, nil))
		began, done := time.Now(), make(chan int)
		go func() {
			done <- ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a?offset=now&live=long-poll", nil, token).Code
		}()
		time.Sleep(3 * time.Second) //nolint:forbidigo // a bubble's time
		revoke(t, j, access.RevokeRequest{Issuer: "app", Subject: "ada"})
		if code, took := <-done, time.Since(began); code != 204 || took < 3*time.Second || took > 4*time.Second {
			t.Errorf("%d after %v, want 204 after 3 s and a part of a second", code, took)
		}
		if w := ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a", nil, token); w.Code != http.StatusUnauthorized {
			t.Errorf("%d: the token is revoked", w.Code)
		}
	})
}

// An event stream ends when its token's leeway is over, after a complete event and without an error;
// until then it gets everything.
func TestEventStreamEndsWithItsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := bubbleWithRights(t, rightsFile(t))
		left := 5 * time.Second
		token := bearer(tokenOf(t, map[string]any{"exp": time.Now().Add(left - access.Leeway).Unix()}))
		writer := bearer(tokenOf(t, nil))
		writer["Content-Type"] = "text/plain"
		began := time.Now()
		go func() {
			for time.Since(began) < left-time.Second {
				time.Sleep(100 * time.Millisecond) //nolint:forbidigo // a bubble's time
				ask(t, b.srv, "POST", "/v1/stream/acme/rooms/a", strings.NewReader("x"), writer)
			}
		}()
		body := ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a?offset=-1&live=sse", nil, token).Body.String()
		if took := time.Since(began); took < left-time.Second || took > left+6*time.Second {
			t.Errorf("it ended after %v, want %v", took, left)
		}
		if n := strings.Count(body, "data:x\n"); n < 39 || !strings.HasSuffix(body, "\n\n") || strings.Contains(body, "retry:") {
			t.Errorf("%d messages; it ends with %q", n, body[max(0, len(body)-200):])
		}
		if got := endedReaders(t, b, "expired"); got != 1 {
			t.Errorf("%v readers ended because of their token", got)
		}
	})
}

func endedReaders(t *testing.T, b *bubble, why string) float64 {
	t.Helper()
	return testutil.ToFloat64(b.srv.metrics.ended.WithLabelValues(why))
}

// An append whose right ends while its body comes is refused, and changes nothing; one of another right
// is written.
func TestRightOfAnAppendEndsWithItsBody(t *testing.T) {
	j := newJudge(t, rightsFile(t), access.Config{})
	s := newSite(t, Config{Judge: j})
	owner := bearer(tokenOf(t, map[string]any{"role": "owner", "sub": "owner"}))
	owner["Content-Type"] = "text/plain"
	const stream = "/v1/stream/acme/rooms/a"
	s.put(stream, "one", owner)
	begin := func(subject string) (finish func() string) {
		c := s.dial()
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
			stream, tokenOf(t, map[string]any{"sub": subject}))
		in := bufio.NewReader(c)
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100 ") { // the request may, and its body is waited for
			t.Fatalf("%q (%v)", line, err)
		}
		_, _ = in.ReadString('\n')
		return func() string {
			_, _ = io.WriteString(c, "two")
			line, err := in.ReadString('\n')
			if err != nil {
				t.Error(err)
			}
			return strings.TrimSpace(line)
		}
	}
	ada, bob := begin("ada"), begin("bob")
	revoke(t, j, access.RevokeRequest{Issuer: "app", Subject: "ada"})
	if got := ada(); got != "HTTP/1.1 401 Unauthorized" {
		t.Errorf("the revoked one: %q", got)
	}
	if got := s.want(s.do("GET", stream, "", owner), 200); got != "one" {
		t.Errorf("the stream has %q", got)
	}
	if got := bob(); got != "HTTP/1.1 204 No Content" {
		t.Errorf("the other: %q", got)
	}
}

// The clock by which credentials are judged may step: a reader stays while its token is good by the clock of
// now, whichever way it went in between, and ends within two seconds of a step that ends its token.
func TestClockSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var step atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(step.Load())) }
		j := newJudge(t, rightsFile(t), access.Config{Now: now})
		b := newBubble(t, Config{Judge: j, Now: now}, nil)
		t.Cleanup(b.srv.Close)
		token := bearer(tokenOf(t, map[string]any{"role": "owner", "exp": time.Now().Add(2 * time.Hour).Unix()}))
		token["Content-Type"] = "text/plain"
		const stream = "/v1/stream/acme/rooms/a"
		if w := ask(t, b.srv, "PUT", stream, strings.NewReader("one"), token); w.Code != 201 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		done := make(chan string)
		go func() { done <- ask(t, b.srv, "GET", stream+"?offset=-1&live=sse", nil, token).Body.String() }()
		for _, to := range []time.Duration{time.Hour, -time.Hour, 90 * time.Minute, -24 * time.Hour, 0} {
			step.Store(int64(to))
			select {
			case body := <-done:
				t.Fatalf("a step to %v ended a reader whose token is good: %q", to, body)
			case <-time.After(10 * time.Second):
			}
			if w := ask(t, b.srv, "POST", stream, strings.NewReader("x"), token); w.Code != 204 {
				t.Errorf("after a step to %v: %d %s", to, w.Code, w.Body)
			}
			// The append was answered; the reader's goroutine may still have to write its record.
			synctest.Wait()
		}
		began := time.Now()
		step.Store(int64(3 * time.Hour))
		body := <-done
		if took := time.Since(began); took > 2*time.Second || strings.Count(body, "data:x\n") != 5 || !strings.HasSuffix(body, "\n\n") {
			t.Errorf("it ended %v after the step, with %q", took, body)
		}
		if w := ask(t, b.srv, "GET", stream, nil, token); w.Code != 401 {
			t.Errorf("%d: the token is good no longer", w.Code)
		}
	})
}

// Every executor ends its readers within a second when their token is revoked, and no others.
func TestRevocationEndsEventStreams(t *testing.T) {
	j := newJudge(t, rightsFile(t), access.Config{})
	s := newSite(t, Config{Judge: j})
	ada, bob := bearer(tokenOf(t, nil)), bearer(tokenOf(t, map[string]any{"sub": "bob"}))
	ada["Content-Type"] = "text/plain"
	s.put("/v1/stream/acme/rooms/a", "one", ada)
	const live = "/v1/stream/acme/rooms/a?offset=-1&live=sse"
	gone, stays := s.do("GET", live, "", ada), s.do("GET", live, "", bob)
	s.events(gone, 2)
	s.events(stays, 2)
	began := time.Now()
	revoke(t, j, access.RevokeRequest{Issuer: "app", Subject: "ada"})
	if rest, err := io.ReadAll(gone.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q (%v)", rest, err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it ended after %v", took)
	}
	bob["Content-Type"] = "text/plain"
	s.want(s.do("POST", "/v1/stream/acme/rooms/a", "two", bob), 204)
	s.events(stays, 2)
}

// Readers whose tokens end in the same second end in several: at most so many in each.
func TestLeasesThatEndTogetherAreSpread(t *testing.T) {
	var e leaseEnds
	e.giveBack(e.reserveSecond(0, 0)) // of a public reader, the first of the node
	seconds := map[uint32]int{}
	for range 5000 {
		seconds[e.reserveSecond(1000, 0)]++
	}
	if seconds[1000] != 2000 || seconds[1001] != 2000 || seconds[1002] != 1000 {
		t.Errorf("%v", seconds)
	}
	for second, n := range seconds {
		for range n {
			e.giveBack(second)
		}
	}
	if len(e.count) > 0 || e.reserveSecond(0, 0) != 0 {
		t.Errorf("%v", e.count)
	}
	for range 5000 {
		seconds[e.reserveSecond(2000, 600_000)]++
	}
	if seconds[2000] != 5000 {
		t.Errorf("a sixtieth of 600,000 readers is 10,000: %v", seconds)
	}
}

// 200,000 readers whose leeway is over in the same second end over as many seconds as the pacing says and
// no later, and none of them is admitted again. (Their sessions have no connection here: the time is a
// bubble's.)
func TestReadersOfAFleetWhoseTokensEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const readers = 200_000
		j := newJudge(t, rightsFile(t), access.Config{})
		s := New(Config{Judge: j}, nil)
		t.Cleanup(s.Close)
		ends := time.Now().Add(time.Minute).Truncate(time.Second)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+tokenOf(t, map[string]any{"exp": ends.Add(-access.Leeway).Unix()}))
		type reader struct {
			stay      *stay
			departure sse.Departure
		}
		live := make([]reader, 0, readers)
		for range readers {
			v, denial := j.Decide(r, "acme", "rooms/a", access.Read)
			if err := s.admitReader(modeSSE, false); err != nil || denial != nil {
				t.Fatal(err, denial)
			}
			stay, denial := s.beginStay(r, decision{Verdict: v, judged: true})
			if denial != nil {
				t.Fatal(denial)
			}
			live = append(live, reader{stay, sse.NewDeparture(s.rules, stay.permit(), s.rules.At(time.Now()))})
		}
		const most = readers/60 + 1
		for len(live) > 0 {
			time.Sleep(time.Second) //nolint:forbidigo // a bubble's time
			if late := time.Since(ends); late > (5+1+60+1)*time.Second {
				t.Fatalf("%d readers are there %v after the leeway", len(live), late)
			}
			before, kept := len(live), live[:0]
			for _, d := range live {
				if why, _ := d.departure.Next(s.rules.At(time.Now())); why == 0 {
					kept = append(kept, d)
					continue
				}
				d.stay.finish()
				s.releaseReader(modeSSE, false)
			}
			live = kept
			if ended := before - len(live); ended > most || ended > 0 && time.Now().Before(ends) {
				t.Fatalf("%d readers end in a second, %v after the leeway; at most %d may", ended, time.Since(ends), most)
			}
		}
		if _, denial := j.Decide(r, "acme", "rooms/a", access.Read); denial == nil || denial.Reason != access.ReasonExpired {
			t.Errorf("a reader is admitted again with its token: %v", denial)
		}
		if ended := testutil.ToFloat64(s.metrics.ended.WithLabelValues("expired")); ended != readers || len(s.leaseEnds.count) > 0 {
			t.Errorf("%v are counted; %d seconds are kept", ended, len(s.leaseEnds.count))
		}
	})
}

// revoke does what a message of the stream of revocations does.
func revoke(t *testing.T, j *access.Judge, q access.RevokeRequest) {
	t.Helper()
	entry, err := j.Revocations().Entry(q)
	if err == nil {
		err = j.Revocations().Apply(entry, "1")
	}
	if err != nil {
		t.Fatal(err)
	}
}
