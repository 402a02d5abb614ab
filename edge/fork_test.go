package edge

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// family is a tree of forks, and what each of its streams holds.
type family struct {
	*rapid.T
	srv     *Server
	streams []*member
}

// member is a stream of a family: its messages, and every offset that some answer
// named, with the number of messages below it.
type member struct {
	path     string
	messages []string
	offsets  map[string]int
	closed   bool
}

func (f *family) ask(method, target, body string, h header, status int) *httptest.ResponseRecorder {
	f.Helper()
	r := httptest.NewRequestWithContext(f.Context(), method, target, strings.NewReader(body))
	for k, v := range h {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	f.srv.ServeHTTP(w, r)
	if w.Code != status {
		f.Fatalf("%s %s %v: %d %s, want %d", method, target, h, w.Code, w.Body, status)
	}
	return w
}

func (f *family) pick() *member { return rapid.SampledFrom(f.streams).Draw(f.T, "stream") }

// body is a message that tells where it ends.
func (f *family) body() string { return rapid.StringMatching(`[a-zé]{1,6};`).Draw(f.T, "body") }

func (m *member) add(body string, w *httptest.ResponseRecorder) {
	if body != "" {
		m.messages = append(m.messages, body)
	}
	m.offsets[w.Header().Get(hNextOffset)] = len(m.messages)
}

func (f *family) write() {
	m, body := f.pick(), f.body()
	if m.closed {
		f.ask("POST", m.path, body, text, 409)
		return
	}
	m.add(body, f.ask("POST", m.path, body, text, 204))
}

func (f *family) fork() {
	src := f.pick()
	m := &member{path: fmt.Sprintf("/v1/stream/s%d", len(f.streams)), offsets: map[string]int{}}
	h := header{hForkedFrom: src.path}
	n := len(src.messages)
	if at := rapid.IntRange(-1, len(src.offsets)-1).Draw(f.T, "at"); at >= 0 {
		keys := sorted(src.offsets)
		h[hForkOffset], n = keys[at], src.offsets[keys[at]]
	}
	for o, i := range src.offsets {
		if i <= n {
			m.offsets[o] = i
		}
	}
	m.messages = append(m.messages, src.messages[:n]...)
	if n < len(src.messages) && rapid.Bool().Draw(f.T, "sub") {
		whole := src.messages[n]
		sub := rapid.IntRange(1, len(whole)).Draw(f.T, "bytes")
		h[hForkSub] = fmt.Sprint(sub)
		m.messages = append(m.messages, whole[:sub])
	}
	body := ""
	if rapid.Bool().Draw(f.T, "with a body") {
		body = f.body()
	}
	w := f.ask("PUT", m.path, body, h, 201)
	m.add(body, w)
	f.ask("PUT", m.path, "", h, 200)
	f.streams = append(f.streams, m)
}

func sorted(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	// Offsets of one stream sort as strings in the order of its messages.
	for i := range keys {
		for j := i; j > 0 && keys[j] < keys[j-1]; j-- {
			keys[j], keys[j-1] = keys[j-1], keys[j]
		}
	}
	return keys
}

// read checks every offset of a stream: what follows it, by catch-up.
func (f *family) read(m *member) {
	all := strings.Join(m.messages, "")
	w := f.ask("GET", m.path, "", nil, 200)
	if w.Body.String() != all {
		f.Fatalf("%s: %q, want %q", m.path, w.Body, all)
	}
	head := f.ask("HEAD", m.path, "", nil, 200)
	if a, b := head.Header().Get(hNextOffset), w.Header().Get(hNextOffset); a != b {
		f.Fatalf("%s: HEAD says %s, GET %s", m.path, a, b)
	}
	last := -1
	for _, o := range sorted(m.offsets) {
		if m.offsets[o] < last {
			f.Fatalf("%s: offset %s does not sort", m.path, o)
		}
		last = m.offsets[o]
		w := f.ask("GET", m.path+"?offset="+o, "", nil, 200)
		if want := strings.Join(m.messages[last:], ""); w.Body.String() != want {
			f.Fatalf("%s at %s: %q, want %q", m.path, o, w.Body, want)
		}
		if w.Header().Get(hUpToDate) != "true" {
			f.Fatalf("%s at %s: not up to date", m.path, o)
		}
	}
}

// listen reads a closed stream by SSE from every offset, and from every event on.
func (f *family) listen(m *member) {
	for o, n := range m.offsets {
		f.events(m, o, strings.Join(m.messages[n:], ""), true)
	}
}

func (f *family) events(m *member, from, want string, again bool) {
	w := f.ask("GET", m.path+"?live=sse&offset="+from, "", nil, 200)
	events, rest, err := ssetest.Parse(w.Body.Bytes())
	if err != nil || len(rest) > 0 {
		f.Fatalf("%v, %q", err, rest)
	}
	got := ""
	for i, e := range events {
		if e.Name == "data" {
			got += e.Data
			if i+1 == len(events) || events[i+1].Name != "control" || events[i+1].ID != e.ID {
				f.Fatalf("%s from %s: data without its control event: %+v", m.path, from, events)
			}
		}
		if again {
			f.events(m, e.ID, want[min(len(got), len(want)):], false)
		}
	}
	if shown := ssetest.Shown(want); got != shown { // it may end inside a character
		f.Fatalf("%s from %s: %q, want %q", m.path, from, got, shown)
	}
	if last := events[len(events)-1]; !strings.Contains(last.Data, `"streamClosed":true`) ||
		last.ID != f.ask("HEAD", m.path, "", nil, 200).Header().Get(hNextOffset) {
		f.Fatalf("%s from %s: ends with %+v", m.path, from, last)
	}
}

// Forks of forks at every offset and sub-offset, and appends to all of them: each
// stream is what its past and its own writers made it, from any offset that
// was ever told, whichever way it is read.
func TestForksOfForksReadWhatTheyInherited(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := logtest.NewMemory(1)
		hosts := []*shard.Manager{}
		open := func() *shard.Manager {
			h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
			hosts = append(hosts, h)
			return h
		}
		defer func() {
			for _, h := range hosts {
				_ = h.Close()
			}
		}()
		f := &family{T: rt, srv: New(Config{}, open())}
		root := &member{path: "/v1/stream/s0", offsets: map[string]int{}}
		if rapid.Bool().Draw(rt, "adopted") { // another client wrote to S2 before the PUT
			for range rapid.IntRange(1, 3).Draw(rt, "foreign") {
				root.messages = append(root.messages, f.body())
			}
			log.AppendForeign("default/s0", root.messages...)
			root.add("", f.ask("HEAD", root.path, "", nil, 200))
		}
		root.add("", f.ask("PUT", root.path, "", text, 201))
		f.streams = append(f.streams, root)
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) { f.T = t; f.write() },
			"fork":  func(t *rapid.T) { f.T = t; f.fork() },
			"heir":  func(t *rapid.T) { f.T = t; f.srv = New(Config{}, open()) },
		})
		f.T = rt
		for _, m := range f.streams {
			f.read(m)
			f.ask("POST", m.path, "", header{hClosed: "true"}, 204)
			f.listen(m)
		}
	})
}

// A character that a fork completes is whole in one event, though its halves lie in
// two logs; a reader is never told an offset inside it.
func TestForkCompletesACharacter(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/src", "caf\xc3", text)
	end := s.put("/v1/stream/f", "\xa9!", header{hForkedFrom: "/v1/stream/src"}).Header.Get(hNextOffset)
	events := s.events(s.do("GET", "/v1/stream/f?live=sse&offset=-1", "", nil), 2)
	if events[0].Data != "café!" || events[0].ID != end {
		t.Errorf("%+v, want all of it up to %s", events, end)
	}
}

// A JSON array goes on across the fork's boundary.
func TestForkJSON(t *testing.T) {
	s := newSite(t, Config{})
	json := header{"Content-Type": "application/json"}
	s.put("/v1/stream/src", `[1,2,{"a":[3]}]`, json)
	h := header{hForkedFrom: "/v1/stream/src", hForkOffset: "-1", hForkSub: "2"}
	s.put("/v1/stream/f", `["own",5]`, h)
	if got := s.want(s.do("GET", "/v1/stream/f", "", nil), 200); got != `[1,2,"own",5]` {
		t.Error(got)
	}
	s.put("/v1/stream/g", `{"x":1}`, header{hForkedFrom: "/v1/stream/f"})
	if got := s.want(s.do("GET", "/v1/stream/g", "", nil), 200); got != `[1,2,"own",5,{"x":1}]` {
		t.Error(got)
	}
	events := s.events(s.do("GET", "/v1/stream/g?live=sse&offset=-1", "", nil), 6)
	if a, b, c := events[0].Data, events[2].Data, events[4].Data; a+b+c != `[1,2]["own",5][{"x":1}]` {
		t.Errorf("%+v", events)
	}
}

// A stream that others had written to before its PUT has offsets of its generation for
// what they wrote: they are good in its forks as well.
func TestForkOfAStreamThatOthersBegan(t *testing.T) {
	s := newSite(t, Config{})
	s.log.AppendForeign("default/src", "a", "b", "c")
	s.put("/v1/stream/src", "d", text)
	end := s.do("HEAD", "/v1/stream/src", "", nil).Header.Get(hNextOffset)
	o, err := position.ParseOffset(end)
	if err != nil {
		t.Fatal(end, err)
	}
	rest := []string{"bcd", "cd", "d", ""}
	ids := []string{position.FormatOffset(o.Generation, 1), position.FormatOffset(o.Generation, 2), position.FormatOffset(o.Generation, 3), end}
	s.put("/v1/stream/f", "own", header{hForkedFrom: "/v1/stream/src"})
	for i, id := range ids {
		for path, own := range map[string]string{"src": "", "f": "own"} {
			if got := s.want(s.do("GET", "/v1/stream/"+path+"?offset="+id, "", nil), 200); got != rest[i]+own {
				t.Errorf("%s at %s: %q, want %q", path, id, got, rest[i]+own)
			}
		}
	}
}

// What is refused, and that nothing is left of it.
func TestForkRefusals(t *testing.T) {
	s := newSite(t, Config{})
	first := s.put("/v1/stream/src", "one", text).Header.Get(hNextOffset)
	forked := s.put("/v1/stream/f", "", header{hForkedFrom: "/v1/stream/src"})
	if forked.Header.Get(hForkedFrom) != "" {
		t.Error("forks are transparent")
	}
	later := s.do("POST", "/v1/stream/src", "two", text)
	s.want(later, 204)
	for _, c := range []struct {
		h      header
		status int
		slug   string
	}{
		{header{hForkedFrom: "/v1/stream/none"}, 404, "source-not-found"},
		{header{hForkedFrom: "/v1/stream/default/src", hForkOffset: "9999999999999999_9999999999999999"}, 400, "fork-offset"},
		{header{hForkedFrom: "/v1/stream/src", "Content-Type": "text/html"}, 409, "source-content-type"},
		{header{hForkedFrom: "/v1/stream/src", hForkSub: "1"}, 400, "fork-offset"},
		{header{hForkedFrom: "/v1/stream/src", hForkOffset: first, hForkSub: "4"}, 400, "fork-offset"},
		{header{hForkedFrom: "/v1/stream/src", hForkOffset: "x"}, 400, "bad-header"},
		{header{hForkedFrom: "https://elsewhere/v1/stream/src"}, 400, "bad-header"},
		{header{hForkedFrom: "/v1/stream/src", hTTL: "5", hExpires: "2030-01-01T00:00:00Z"}, 400, "bad-header"},
	} {
		t.Run(fmt.Sprint(c.h), func(t *testing.T) {
			refused(t, ask(t, s.srv, "PUT", "/v1/stream/no", nil, c.h), c.status, c.slug)
		})
	}
	// The fork ends where it was forked: what came later is beyond it.
	refused(t, ask(t, s.srv, "GET", "/v1/stream/f?offset="+later.Header.Get(hNextOffset), nil, nil), 400, "offset-beyond")
	s.want(s.do("DELETE", "/v1/stream/f", "", nil), 204)
	s.want(s.do("DELETE", "/v1/stream/src", "", nil), 204)
	s.eventually("the fork's reference is given back, which follows its end", func() bool {
		return s.do("HEAD", "/v1/stream/src", "", nil).StatusCode == http.StatusNotFound
	})
	s.put("/v1/stream/src", "anew", text)
}

// A PUT is compared with the request that made the fork, whatever has become of
// its source.
func TestRepeatedForkIsIdempotent(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/src", "one", header{"Content-Type": "text/plain", hTTL: "60"})
	h := header{hForkedFrom: "/v1/stream/src"}
	s.put("/v1/stream/f", "", h)
	s.want(s.do("POST", "/v1/stream/src", "two", text), 204)
	s.want(s.do("PUT", "/v1/stream/f", "", h), 200)
	s.want(s.do("DELETE", "/v1/stream/src", "", nil), 204)
	s.want(s.do("PUT", "/v1/stream/f", "", h), 200)
	s.want(s.do("PUT", "/v1/stream/f", "", header{hForkedFrom: "/v1/stream/src", "Content-Type": "Text/Plain; charset=utf-8"}), 200)
	for _, other := range []header{
		{hForkedFrom: "/v1/stream/src", hForkOffset: "-1"},
		{hForkedFrom: "/v1/stream/other"},
		{hForkedFrom: "/v1/stream/src", hTTL: "61"},
		{hForkedFrom: "/v1/stream/src", hClosed: "true"},
		text,
	} {
		s.want(s.do("PUT", "/v1/stream/f", "", other), 409)
	}
	for _, m := range []string{"GET", "POST", "DELETE"} {
		refused(t, ask(t, s.srv, m, "/v1/stream/src", strings.NewReader("x"), text), 410, "stream-gone")
	}
	refused(t, ask(t, s.srv, "PUT", "/v1/stream/src", nil, text), 409, "name-held")
	refused(t, ask(t, s.srv, "PUT", "/v1/stream/g", nil, h), 409, "source-gone")
}

// What a fork gets of its source's lifetime, row by row (PROTOCOL 4.2).
func TestForkLifetimes(t *testing.T) {
	s := newSite(t, Config{})
	const soon, late = "2040-01-01T00:00:00Z", "2050-01-01T00:00:00+01:00"
	for i, c := range []struct{ source, fork, want header }{
		{header{}, header{}, header{}},
		{header{}, header{hTTL: "60"}, header{hTTL: "60"}},
		{header{}, header{hExpires: soon}, header{hExpires: soon}},
		{header{hTTL: "100"}, header{}, header{hTTL: "100"}},
		{header{hTTL: "100"}, header{hTTL: "60"}, header{hTTL: "60"}},
		{header{hTTL: "100"}, header{hExpires: soon}, header{hExpires: soon}},
		{header{hExpires: soon}, header{}, header{hExpires: soon}},
		{header{hExpires: soon}, header{hTTL: "60"}, header{hTTL: "60"}},
		{header{hExpires: soon}, header{hExpires: late}, header{hExpires: late}},
	} {
		t.Run(fmt.Sprint(c.fork, " of ", c.source), func(t *testing.T) {
			s := s.in(t)

			source, fork := fmt.Sprint("/v1/stream/source-", i), fmt.Sprint("/v1/stream/fork-", i)
			s.put(source, "one", c.source)
			c.fork[hForkedFrom] = source
			s.put(fork, "", c.fork)
			head := s.do("HEAD", fork, "", nil)
			for _, h := range []string{hTTL, hExpires} {
				if got := head.Header.Get(h); got != c.want[h] {
					t.Errorf("%v of %v: %s is %q, want %q", c.fork, c.source, h, got, c.want[h])
				}
			}
			s.want(s.do("PUT", fork, "", c.fork), 200)
		})
	}
}

// Reading what a fork inherited is no use of its source: that expires, and stays for
// its fork.
func TestReadingForkNeverTouchesSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := shard.NewManager(logtest.NewMemory(1), shard.NewTailBuffers(0, 0), shard.Config{})
		defer func() { _ = host.Close() }()
		srv := New(Config{LongPoll: time.Second}, host)
		want := func(method, path string, h header, status int) string {
			t.Helper()
			w := ask(t, srv, method, path, strings.NewReader("one"), h)
			if w.Code != status {
				t.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, status)
			}
			return w.Body.String()
		}
		want("PUT", "/v1/stream/source", header{"Content-Type": "text/plain", hTTL: "10"}, 201)
		want("PUT", "/v1/stream/fork", header{hForkedFrom: "/v1/stream/source", hTTL: "100"}, 201)
		for range 3 {
			<-time.After(4 * time.Second) // a bubble's
			for _, live := range []string{"", "&live=long-poll"} {
				if got := want("GET", "/v1/stream/fork?offset=-1"+live, nil, 200); got != "oneone" {
					t.Fatalf("%q", got)
				}
			}
		}
		want("HEAD", "/v1/stream/source", nil, 410)
		want("GET", "/v1/stream/fork", nil, 200)
	})
}

// countingPages counts the pages that are asked for.
type countingPages struct {
	Backend
	n atomic.Int64
}

func (c *countingPages) ReadPage(
	ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos,
) (shard.RecordBatch, error) {
	c.n.Add(1)
	return c.Backend.ReadPage(ctx, id, info, from)
}

// A sub-offset over many messages asks for each page once: it may be a peer's, and
// is up to 1 MiB.
func TestSubOffsetReadsPagesOnce(t *testing.T) {
	s := newSite(t, Config{})
	pages := &countingPages{Backend: s.srv.streams}
	s.srv.streams = pages
	json := header{"Content-Type": "application/json"}
	s.put("/v1/stream/src", "["+strings.Repeat("7,", 2999)+"7]", json)
	s.put("/v1/stream/f", "[8]", header{hForkedFrom: "/v1/stream/src", hForkOffset: "-1", hForkSub: "2500"})
	if n := pages.n.Load(); n > 4 {
		t.Errorf("%d pages for 3,000 messages", n)
	}
	got, next := "", "-1"
	for next != "" {
		resp := s.do("GET", "/v1/stream/f?offset="+next, "", nil)
		got += s.want(resp, 200)
		if next = resp.Header.Get(hNextOffset); resp.Header.Get(hUpToDate) != "" {
			next = ""
		}
	}
	if strings.Count(got, "7") != 2500 || strings.Count(got, "8") != 1 {
		t.Errorf("%d and %d", strings.Count(got, "7"), strings.Count(got, "8"))
	}
}

// What is being written to the source when it is forked never becomes the fork's.
func TestForkInsideWhatIsNotThereYet(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/src", "[0]", header{"Content-Type": "application/json"})
	s.log.Latency = 50 * time.Millisecond
	written := make(chan *http.Response, 1)
	go func() {
		written <- s.do("POST", "/v1/stream/src", "["+strings.Repeat("7,", 2999)+"7]", header{"Content-Type": "application/json"})
	}()
	var info shard.Info
	for info.LogTail < 500 {
		info, _ = s.srv.streams.Info(t.Context(), "default/src", shard.InfoAllowCached)
	}
	s.put("/v1/stream/f", "[8]", header{hForkedFrom: "/v1/stream/src", hForkOffset: position.FormatOffset(info.Generation, 500)})
	s.want(<-written, 204)
	if got := s.want(s.do("GET", "/v1/stream/f", "", nil), 200); got != "[0,8]" {
		t.Errorf("%.100s", got)
	}
}
