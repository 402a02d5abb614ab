package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/shard"
)

func (s *site) disconnected(why endReason) float64 {
	return testutil.ToFloat64(s.srv.metrics.disconnected.WithLabelValues(string(why)))
}

// large is more than the kernel accepts for a client that reads nothing.
var large = strings.Repeat("0123456789abcdef", 1<<20)

// A client that catches up slowly stays connected, though one write lasts longer than the
// time for which a reader may take nothing.
func TestSlowCatchUpStaysConnected(t *testing.T) {
	t.Parallel()
	const stall = 2 * time.Second
	s := newSite(t, Config{Stall: stall})
	s.put("/v1/stream/x", large, text)
	_, resp := s.openRaw("/v1/stream/x")
	var got strings.Builder
	tick := time.NewTicker(stall / 20)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < 2*stall; <-tick.C {
		if _, err := io.CopyN(&got, resp.Body, 64<<10); err != nil {
			t.Fatalf("cut after %v: %v", time.Since(began), err)
		}
	}
	if got.Len() > len(large)/2 || s.srv.catchUpBudget.Held() < int64(len(large)) {
		t.Errorf("%d bytes were read, %d held: nothing was slow", got.Len(), s.srv.catchUpBudget.Held())
	}
	if _, err := io.Copy(&got, resp.Body); err != nil || got.String() != large {
		t.Errorf("%d bytes, then %v", got.Len(), err)
	}
	s.eventually("nothing is held", s.nothingHeld)
	if n := s.disconnected(reasonStalled); n != 0 {
		t.Errorf("%v cut", n)
	}
}

// A client that takes nothing is disconnected and counted.
func TestCatchUpThatAcceptsNothingIsDisconnected(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{Stall: 300 * time.Millisecond})
	s.put("/v1/stream/x", large, text)
	s.openRaw("/v1/stream/x")
	s.eventually("it is cut", func() bool { return s.disconnected(reasonStalled) == 1 })
	s.eventually("nothing is held", s.nothingHeld)
}

// Clients that catch up and take nothing hold pages, each counted once. Of too many those
// go first that have been blocked for longest.
func TestStuckCatchUpsAreDisconnectedForMemory(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{ChunkBytes: 40 << 20})
	for i := range 4 {
		s.put(fmt.Sprintf("/v1/stream/x%d", i), large, text)
		if i == 0 {
			for range 9 {
				s.openRaw("/v1/stream/x0")
			}
			s.eventually("all are stuck", func() bool { return s.catchUpsInProgress() == 9 })
			if n := s.srv.catchUpBudget.Held(); n > 17<<20 {
				t.Errorf("%d bytes held", n)
			}
			continue
		}
		s.openRaw(fmt.Sprintf("/v1/stream/x%d", i))
	}
	// The nine hold as much as one: two of the four pages can stay.
	s.eventually("there is room", func() bool { return s.srv.catchUpBudget.Held() <= 40<<20 })
	if n := s.disconnected(reasonMemory); n < 2 {
		t.Errorf("%v cut", n)
	}
}

// An answer waits for its turn for as long as that takes, and is not blocked meanwhile; one
// whose connection takes no more has none.
func TestWaitingForAWriteSlotIsNoStall(t *testing.T) {
	t.Parallel()
	const stall = time.Second
	s := newSite(t, Config{Stall: stall, ChunkBytes: 17 << 20})
	s.put("/v1/stream/x", large, text)
	s.put("/v1/stream/small", "hello", text)
	turns := s.srv.writeSlots
	for range cap(turns) + 1 {
		s.openRaw("/v1/stream/x")
	}
	s.eventually("all are stuck", func() bool { return s.catchUpsInProgress() == cap(turns)+1 && len(turns) == 0 })
	if got := s.want(s.do("GET", "/v1/stream/small", "", nil), 200); got != "hello" {
		t.Errorf("%q beside those that are stuck", got)
	}
	s.eventually("all are cut", func() bool { return s.catchUpsInProgress() == 0 })

	cuts := s.disconnected(reasonMemory) + s.disconnected(reasonStalled)
	_, resp := s.openRaw("/v1/stream/x")
	s.eventually("it is stuck", func() bool { return s.catchUpsInProgress() == 1 && len(turns) == 0 })
	for range cap(turns) {
		turns <- struct{}{}
	}
	s.srv.catchUpBudget.Charge(16 << 20) // too much is held from now on
	defer s.srv.catchUpBudget.Charge(-16 << 20)
	got := make(chan string)
	go func() {
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		got <- string(b)
	}()
	s.eventually("it waits for a turn", func() bool {
		got := s.srv.catchUpBudget.Stats()
		return got.Readers > 0 && got.Blocked == 0
	})
	if n := testutil.ToFloat64(s.srv.metrics.waitingForSlot); n != 1 {
		t.Errorf("%v wait for a turn", n)
	}
	select {
	case <-got:
		t.Error("written out of turn")
	case <-time.After(2 * stall):
	}
	for range cap(turns) {
		<-turns
	}
	if <-got != large {
		t.Error("not all of it came")
	}
	if n := s.disconnected(reasonMemory) + s.disconnected(reasonStalled) - cuts; n != 0 {
		t.Errorf("%v cut for having waited", n)
	}
	s.eventually("nobody has a turn", func() bool { return len(turns) == 0 })
}

// While blocked clients hold more than the bound, others collect nothing until one of the
// blocked is disconnected. A client that leaves meanwhile waits no more.
func TestCatchUpWaitsForRoom(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{ChunkBytes: 8 << 20})
	s.put("/v1/stream/x", large, text)
	s.put("/v1/stream/small", "hello", text)
	s.openRaw("/v1/stream/x")
	s.eventually("it is stuck", func() bool { return s.catchUpsInProgress() == 1 && len(s.srv.writeSlots) == 0 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.srv.loadChunk(ctx, "default/small", shard.Info{}, position.Position{}, false); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := s.want(s.do("GET", "/v1/stream/small", "", nil), 200); got != "hello" || s.disconnected(reasonMemory) != 1 {
		t.Errorf("%q while %d bytes are held, %v cut", got, s.srv.catchUpBudget.Held(), s.disconnected(reasonMemory))
	}
	s.srv.catchUpBudget.Charge(16 << 20)
	got := make(chan string)
	go func() {
		resp, err := http.Get(s.url + "/v1/stream/small") //nolint:noctx // it ends with the test
		if err != nil {
			t.Error(err)
			close(got)
			return
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.Body.Close() != nil {
			t.Error(err)
		}
		got <- string(b)
	}()
	s.eventually("it waits", func() bool { return s.srv.catchUpBudget.Stats().Waiting == 1 })
	if n := testutil.ToFloat64(s.srv.metrics.waitingForRoom); n != 1 {
		t.Errorf("%v wait for room", n)
	}
	s.srv.catchUpBudget.Charge(-16 << 20)
	if b := <-got; b != "hello" {
		t.Errorf("%q", b)
	}
	s.eventually("nothing is held", s.nothingHeld)
}

// A client that finds no room, or no slot to collect in, is told so after a while.
func TestCatchUpWithoutRoomIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{ChunkBytes: 1}, nil)
		refused := func(why string) {
			t.Helper()
			began := time.Now()
			err := s.acquireLoadSlot(t.Context())
			if took := time.Since(began); !errors.Is(err, errCatchUpFull) || problemOf(err).status != 503 || took != maxBudgetWait {
				t.Errorf("%s: %v after %v", why, err, took)
			}
		}
		s.catchUpBudget.Charge(2)
		refused("no room")
		s.catchUpBudget.Charge(-2)
		for range maxChunkLoads {
			if err := s.acquireLoadSlot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		refused("no place")
		<-s.loadSlots
		if err := s.acquireLoadSlot(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The memory in which an array is laid out is held by each client that is sent one, and
// counted. In a crowd most hold little.
func TestArrayBuffersAreCharged(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{})
	s.put("/v1/stream/x", `["`+large[:shard.MaxBody-10]+`"]`, jsonType)
	for range 3 {
		s.openRaw("/v1/stream/x")
	}
	s.eventually("all are stuck", func() bool { return s.catchUpsInProgress() == 3 })
	held := func() int64 { return s.srv.catchUpBudget.Held() - int64(len(large)) }
	if n := held(); n < 3*arrayBufferSize-10 {
		t.Errorf("%d bytes held beside the page", n)
	}
	for range maxArrayBuffers - 3 {
		s.srv.arraySlots <- struct{}{}
	}
	before := held()
	s.openRaw("/v1/stream/x")
	s.eventually("one more is", func() bool { return s.catchUpsInProgress() == 4 })
	if n := held() - before; n != smallArrayBufferSize {
		t.Errorf("%d bytes for one more", n)
	}
}

// catchUpsInProgress returns the number of clients that are being sent a chunk.
func (s *site) catchUpsInProgress() int {
	return s.srv.catchUpBudget.Stats().Readers
}

func (s *site) nothingHeld() bool {
	got := s.srv.catchUpBudget.Stats()
	return got.Held == 0 && got.Payloads == 0
}

// budgetRecorder notes what the budget holds whenever something is written to it.
type budgetRecorder struct {
	*httptest.ResponseRecorder
	pins *sendbudget.Budget
	seen []int64
}

func (h *budgetRecorder) Write(b []byte) (int, error) {
	h.seen = append(h.seen, h.pins.Held())
	return h.ResponseRecorder.Write(b)
}

// A slow client holds the pages that are still to come, and not those it has got.
func TestWrittenPagesAreCreditedBack(t *testing.T) {
	t.Parallel()
	for _, typ := range []header{text, jsonType} {
		s := newSite(t, Config{})
		const one = 512 << 10 // two would not be a page
		body := `"` + large[:one-2] + `"`
		s.put("/v1/stream/x", body, typ)
		for range 2 {
			s.want(s.do("POST", "/v1/stream/x", body, typ), 204)
		}
		w := &budgetRecorder{httptest.NewRecorder(), s.srv.catchUpBudget, nil}
		s.srv.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/stream/x", nil))
		if w.Body.Len() < 3*one || w.seen[0] < 3*one || w.seen[len(w.seen)-1] >= 2*one {
			t.Errorf("%s: %d bytes, held at first and at last: %d, %d", typ, w.Body.Len(), w.seen[0], w.seen[len(w.seen)-1])
		}
		if !s.nothingHeld() {
			t.Error("something is held")
		}
	}
}

// An array is laid out in pieces, whatever its messages are like.
func TestArrayOfMessagesOfAnySize(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{})
	var want []string
	for i, size := range []int{1, arrayBufferSize, arrayBufferSize - 8, 1, arrayBufferSize - 4, 2, arrayBufferSize - 3, arrayBufferSize - 5, arrayBufferSize - 2, arrayBufferSize / 2, arrayBufferSize / 2, 3 * arrayBufferSize, 1} {
		path := fmt.Sprintf("/v1/stream/x%d", i)
		want = append(want, strings.Repeat("x", size))
		body, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		s.put(path, string(body), jsonType)
		resp := s.do("GET", path, "", header{"Accept-Encoding": "identity"})
		got := s.want(resp, 200)
		var list []string
		if err := json.Unmarshal([]byte(got), &list); err != nil || !slices.Equal(list, want) || resp.ContentLength != int64(len(got)) {
			t.Errorf("%d messages, the last of %d bytes: %v, %d of them came", i+1, size, err, len(list))
		}
	}
}
