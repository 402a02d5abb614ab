package edge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// A read from the end gets the last messages, as a chunk, by long-poll and as events, over each
// version of HTTP; it is never kept, and it names ordinary offsets.
func TestReadsFromTheEnd(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", `[1,2,3,4,5]`, jsonType)
	end := s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	for offset, want := range map[string]string{
		"tail-0": "[]", "tail-1": "[5]", "tail-2": "[4,5]", "tail-5": "[1,2,3,4,5]", "tail-6": "[1,2,3,4,5]", "tail-18446744073709551615": "[1,2,3,4,5]",
	} {
		t.Run(offset, func(t *testing.T) {
			s := s.in(t)
			resp := s.do("GET", "/v1/stream/x?offset="+offset, "", nil)
			if got := s.want(resp, 200); got != want || resp.Header.Get(hNextOffset) != end || resp.Header.Get(hUpToDate) != "true" ||
				resp.Header.Get("Cache-Control") != cacheNoStore {
				t.Errorf("%s %v", got, resp.Header)
			}
			if offset == "tail-0" {
				return
			}
			resp = s.do("GET", "/v1/stream/x?live=long-poll&offset="+offset, "", nil)
			if got := s.want(resp, 200); got != want || resp.Header.Get(hNextOffset) != end || resp.Header.Get("Cache-Control") != cacheNoStore {
				t.Errorf("long-poll: %s %v", got, resp.Header)
			}
		})
	}
	for _, major := range []int{1, 2} {
		if major == 2 && overTLS {
			continue // the site offers HTTP/2 by prior knowledge only
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/stream/x?live=sse&offset=tail-2", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.client(major).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		if es := s.events(resp, 2); es[0].Data != "[4,5]" || es[0].ID != end {
			t.Errorf("HTTP/%d: %+v", major, es)
		}
		s.want(s.do("POST", "/v1/stream/x", "[6]", jsonType), 204)
		if es := s.events(resp, 2); es[0].Data != "[6]" {
			t.Errorf("HTTP/%d: %+v", major, es)
		}
		s.want(s.do("DELETE", "/v1/stream/x", "", nil), 204)
		s.put("/v1/stream/x", `[1,2,3,4,5]`, jsonType)
		end = s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	}
	// A reader that comes back continues behind the event that it had.
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=tail-1", "", header{"Last-Event-ID": s.do("GET", "/v1/stream/x?offset=tail-3", "", nil).Header.Get(hNextOffset)})
	if es := s.events(resp, 1); es[0].Name != "control" || es[0].ID != end {
		t.Errorf("%+v", es)
	}
}

// The last MiB is all that a read from the end gets, but never less than the newest message; a place
// that is too far back is not guessed.
func TestReadsFromTheEndAreBounded(t *testing.T) {
	log := logtest.NewMemory(1)
	s := newSiteOn(t, Config{}, overTLS, log)
	s.put("/v1/stream/large", "", text)
	for range 20 {
		s.want(s.do("POST", "/v1/stream/large", large[:100_000], text), 204)
	}
	s.put("/v1/stream/huge", "first;", text)
	s.want(s.do("POST", "/v1/stream/huge", large[:3<<20], text), 204)
	s.put("/v1/stream/small", "", jsonType)
	for range 6 {
		s.want(s.do("POST", "/v1/stream/small", "["+strings.Repeat("1,", 999)+"1]", jsonType), 204)
	}
	cold := newSiteOn(t, Config{}, overTLS, log)
	for name, site := range map[string]*site{"in memory": s, "from storage": cold} {
		t.Run(name, func(t *testing.T) {
			site := site.in(t)
			for path, want := range map[string]int{
				"large?offset=tail-3": 300_000, "large?offset=tail-15": 1_000_000, "huge?offset=tail-1": 3 << 20, "huge?offset=tail-9": 3 << 20,
				"small?offset=tail-3000": 2*3000 + 1,
			} {
				if got := site.want(site.do("GET", "/v1/stream/"+path, "", nil), 200); len(got) != want {
					t.Errorf("%s: %d bytes, want %d", path, len(got), want)
				}
			}
		})
	}
	for _, live := range []string{"", "&live=long-poll", "&live=sse"} {
		refused(t, ask(t, cold.srv, "GET", "/v1/stream/small?offset=tail-5000"+live, nil, header{"Accept": "text/event-stream"}), 400, "tail-too-far")
	}
}

// Only reads count from the end.
func TestMalformedOffsetsFromTheEnd(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	for _, offset := range []string{"tail", "tail-", "tail-x", "tail-01", "tail--1", "tail-1.5", "tail-18446744073709551616", "TAIL-1", "tail-1%20"} {
		refused(t, ask(t, s.srv, "GET", "/v1/stream/x?offset="+offset, nil, nil), 400, "bad-offset")
	}
	refused(t, ask(t, s.srv, "PUT", "/v1/stream/f", nil, header{hForkedFrom: "/v1/stream/x", hForkOffset: "tail-1"}), 400, "bad-header")
	refused(t, ask(t, s.srv, "GET", "/v1/stream/x?live=sse&offset=-1&lastEventId=tail-1", nil, nil), 400, "bad-query")
	refused(t, ask(t, s.srv, "GET", "/v1/stream/none?offset=tail-1", nil, nil), 404, "stream-not-found")
}

// In a fork, and in forks of it, counting goes on in what they inherited.
func TestForksCountIntoWhatTheyInherited(t *testing.T) {
	log := logtest.NewMemory(1)
	s := newSiteOn(t, Config{}, overTLS, log)
	s.put("/v1/stream/a", `["a1","a2","a3"]`, jsonType)
	s.put("/v1/stream/b", "", header{hForkedFrom: "/v1/stream/a"})
	s.want(s.do("POST", "/v1/stream/a", `["later"]`, jsonType), 204)
	s.put("/v1/stream/c", "", header{hForkedFrom: "/v1/stream/b"})
	s.want(s.do("POST", "/v1/stream/c", `["c1","c2"]`, jsonType), 204)
	for _, site := range []*site{s, newSiteOn(t, Config{}, overTLS, log)} {
		for path, want := range map[string]string{
			"b?offset=tail-2": `["a2","a3"]`, "c?offset=tail-1": `["c2"]`, "c?offset=tail-3": `["a3","c1","c2"]`, "c?offset=tail-9": `["a1","a2","a3","c1","c2"]`,
		} {
			if got := site.want(site.do("GET", "/v1/stream/"+path, "", nil), 200); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
}

// Whatever the messages' sizes, and however they came, the place is exactly that of the last ones that
// are wanted and fit, or it is too far, which only large messages between make it.
func TestPositionFromEndIsExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var appends [][]int
		total := 0
		for range rapid.IntRange(1, 8).Draw(rt, "appends") {
			size := rapid.SampledFrom([]int{1, 10, 1000, 60_000, 300_000, 3 << 19}).Draw(rt, "size")
			n := rapid.IntRange(1, min(400, 1+(1<<19)/size)).Draw(rt, "messages")
			appends = append(appends, slices.Repeat([]int{size}, n))
			total += n
		}
		checkFromEnd(rt, appends, rapid.Bool().Draw(rt, "cold"), rapid.IntRange(1, total+2).Draw(rt, "n"))
	})
}

// The page that was read first ends at its bytes, and so does the page near the end; a page between
// them overlaps one that is known.
func TestPositionFromEndCountsAMessageOnce(t *testing.T) {
	checkFromEnd(t, [][]int{{1}, {1}, {300_000}, {300_000, 300_000}, slices.Repeat([]int{60_000}, 6), {1}}, true, 14)
}

// checkFromEnd asks for the last n messages of a stream with messages of these sizes, append by append;
// cold: from a node that has nothing of it in memory.
func checkFromEnd(t rapid.TB, appends [][]int, cold bool, n int) {
	ctx := context.Background()
	log := logtest.NewMemory(1)
	host := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
	defer host.Close()
	id := shard.StreamID("p/x")
	do := func(req *shard.Request) {
		req.Stream, req.ID = id, shard.NewAppendID()
		if out, err := host.Do(ctx, req); err != nil || !out.Code.Accepted() {
			t.Fatalf("%v %v", out, err)
		}
	}
	do(&shard.Request{Op: shard.OpCreate, Type: "text/plain"})
	for _, sizes := range appends {
		var messages shard.Messages
		for _, size := range sizes {
			messages.Add([]byte(large[:size]))
		}
		do(&shard.Request{Op: shard.OpAppend, Type: "text/plain", Messages: messages})
	}
	sizes := slices.Concat(appends...)
	asked := host
	if cold {
		asked = shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
		defer asked.Close()
	}
	s := New(Config{}, asked)
	defer s.Close()
	info, err := asked.Info(ctx, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	want, bytes := 0, 0
	for i := len(sizes) - 1; i >= 0 && want < n && (want == 0 || bytes+sizes[i] <= maxFromEndBytes); i-- {
		want++
		bytes += sizes[i]
	}
	at, err := s.searchPosition(ctx, id, info, position.Offset{Kind: position.OffsetTail, Count: uint64(n)})
	if errors.Is(err, errTailTooFar) {
		if large := slices.Max(sizes) > 60_000; !large && n <= 1000 {
			t.Fatalf("%d of %v", n, sizes)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := countFrom(ctx, t, asked, id, info, at); got != want {
		t.Fatalf("tail-%d of %v: %d messages, want %d", n, sizes, got, want)
	}
}

// countFrom returns how many messages a stream has from a position on.
func countFrom(ctx context.Context, t rapid.TB, b Backend, id shard.StreamID, info shard.Info, at position.Position) (n int) {
	for at.Pos < info.Tail {
		page, err := b.ReadPage(ctx, id, info, at.Pos)
		if err != nil {
			t.Fatal(fmt.Errorf("at %d: %w", at.Pos, err))
		}
		n += page.Len() - page.Search(at.Pos)
		at.Pos = page.To()
	}
	return n
}
