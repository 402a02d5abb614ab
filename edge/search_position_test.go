package edge

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// logClock is the clock of a Log, in milliseconds since 1970. Each append moves it by step.
type logClock struct {
	atomic.Int64
	step atomic.Int64
}

// timedLog returns a Log whose clock shows what a test says.
func timedLog() (*logtest.Memory, *logClock) {
	log, clock := logtest.NewMemory(1), new(logClock)
	log.Now = func() time.Time { return time.UnixMilli(clock.Add(clock.step.Load())) }
	return log, clock
}

// A read from a time gets the messages since then, as a chunk, by long-poll and as events, over each
// version of HTTP, from memory and from storage; it is never kept, and it names ordinary offsets.
func TestReadsFromATime(t *testing.T) {
	log, clock := timedLog()
	s := newSiteOn(t, Config{LongPoll: 50 * time.Millisecond}, overTLS, log)
	clock.Store(1000)
	s.put("/v1/stream/x", `[1,2]`, jsonType)
	for i, at := range []int64{2000, 2000, 3000} {
		clock.Store(at)
		s.want(s.do("POST", "/v1/stream/x", fmt.Sprintf("[%d,%d]", 3+2*i, 4+2*i), jsonType), 204)
	}
	end := s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	all, from3, from7 := "[1,2,3,4,5,6,7,8]", "[3,4,5,6,7,8]", "[7,8]"
	for name, site := range map[string]*site{"in memory": s, "from storage": newSiteOn(t, Config{LongPoll: 50 * time.Millisecond}, overTLS, log)} {
		for since, want := range map[string]string{
			"0": all, "1000": all, "1001": from3, "1999": from3, "2000": from3, "2001": from7, "3000": from7, "3001": "[]", "253402300799999": "[]",
			"1970-01-01T00:00:02Z": from3, "1970-01-01T00:00:02.000000001Z": from7, "1970-01-01t00:00:01.001z": from3,
			"1970-01-01T02:00:02+02:00": from3, "1969-12-31T23:00:03-01:00": from7, "1969-01-01T00:00:00Z": all, "9999-12-31T23:59:59.999Z": "[]",
		} {
			t.Run(name+" "+since, func(t *testing.T) {
				s := site.in(t)
				resp := s.do("GET", "/v1/stream/x?offset=at:"+url.QueryEscape(since), "", nil)
				if got := s.want(resp, 200); got != want || resp.Header.Get(hNextOffset) != end || resp.Header.Get(hUpToDate) != "true" ||
					resp.Header.Get("Cache-Control") != cacheNoStore {
					t.Errorf("%s, want %s; %v", got, want, resp.Header)
				}
				resp = s.do("GET", "/v1/stream/x?live=long-poll&offset=at:"+since, "", nil) // a plus sign is a space then
				status := 200
				if want == "[]" {
					status, want = 204, ""
				}
				if got := s.want(resp, status); got != want || resp.Header.Get(hNextOffset) != end || resp.Header.Get("Cache-Control") != cacheNoStore {
					t.Errorf("long-poll: %s, want %s; %v", got, want, resp.Header)
				}
			})
		}
	}
	for i, major := range []int{1, 2} {
		if major == 2 && overTLS {
			continue // the site offers HTTP/2 by prior knowledge only
		}
		past := s.openEvents(major, fmt.Sprint("/v1/stream/x?live=sse&offset=at:", clock.Load()))
		future := s.openEvents(major, "/v1/stream/x?live=sse&offset=at:9999-12-31T23:59:59Z")
		if es := s.events(past, 2); es[0].Data != from7 || es[0].ID != end {
			t.Errorf("HTTP/%d: %+v", major, es)
		}
		if es := s.events(future, 1); es[0].Name != "control" || es[0].ID != end {
			t.Errorf("HTTP/%d: %+v", major, es)
		}
		clock.Add(1000)
		from7 = fmt.Sprintf("[%d]", 9+i)
		s.want(s.do("POST", "/v1/stream/x", from7, jsonType), 204)
		for _, resp := range []*http.Response{past, future} {
			if es := s.events(resp, 2); es[0].Data != from7 {
				t.Errorf("HTTP/%d: %+v", major, es)
			}
		}
		end = s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	}
	// A reader that comes back continues behind the event that it had.
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=at:0", "", header{"Last-Event-ID": end})
	if es := s.events(resp, 1); es[0].Name != "control" || es[0].ID != end {
		t.Errorf("%+v", es)
	}
}

// openEvents opens an event stream over a version of HTTP.
func (s *site) openEvents(major int, path string) *http.Response {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := s.client(major).Do(req)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// Only reads begin at a time.
func TestMalformedTimes(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	for _, offset := range []string{
		"at", "at:", "at:x", "at:-1", "at:01", "at:1.5", "at:1e3", "at:now", "AT:1", "at:%201", "at:1%20", "at:1769860800000000", "at:18446744073709551616",
		"at:2026-01-31", "at:2026-01-31T12:00:00", "at:2026-01-31%2012:00:00Z", "at:2026-02-30T12:00:00Z", "at:2026-01-31T12:00Z", "at:2026-01-31T12:00:00+01", "at:Sat,%2031%20Jan%202026",
	} {
		refused(t, ask(t, s.srv, "GET", "/v1/stream/x?offset="+offset, nil, nil), 400, "bad-offset")
	}
	refused(t, ask(t, s.srv, "PUT", "/v1/stream/f", nil, header{hForkedFrom: "/v1/stream/x", hForkOffset: "at:0"}), 400, "bad-header")
	refused(t, ask(t, s.srv, "GET", "/v1/stream/x?live=sse&offset=-1&lastEventId=at:0", nil, nil), 400, "bad-query")
	refused(t, ask(t, s.srv, "GET", "/v1/stream/none?offset=at:0", nil, nil), 404, "stream-not-found")
	s.want(s.do("HEAD", "/v1/stream/x?offset=at:0", "", nil), 200)
	s.want(s.do("POST", "/v1/stream/x?offset=at:x", "two", text), 204)
}

// Whatever else is in the log: an earlier life, records of others, an append in parts, whose messages
// all have the time of its last part, and a beginning that storage has deleted.
func TestReadsFromATimeBesideOtherRecords(t *testing.T) {
	log, clock := timedLog()
	s := newSiteOn(t, Config{}, overTLS, log)
	clock.Store(1000)
	s.put("/v1/stream/x", "an earlier life;", text)
	s.want(s.do("DELETE", "/v1/stream/x", "", nil), 204)
	clock.Store(2000)
	s.put("/v1/stream/x", "a;", text)
	clock.Store(3000)
	log.AppendForeign("default/x", "foreign;")
	clock.Store(4000)
	s.want(s.do("POST", "/v1/stream/x", "b;", text), 204)
	s.put("/v1/stream/parts", `["first"]`, jsonType)
	clock.step.Store(100) // each part has a time of its own
	s.want(s.do("POST", "/v1/stream/parts", "["+strings.Repeat("1,", 2999)+"1]", jsonType), 204)
	clock.step.Store(0)
	recs := log.Records("default/parts")
	commit := recs[len(recs)-1].Time
	if begun := recs[3].Time; begun > commit-200 {
		t.Fatalf("the append took from %d to %d", begun, commit)
	}
	parts := "[" + strings.Repeat("1,", 2999) + "1]"
	for name, site := range map[string]*site{"in memory": s, "from storage": newSiteOn(t, Config{}, overTLS, log)} {
		for query, want := range map[string]string{
			"x?offset=at:0": "a;foreign;b;", "x?offset=at:1000": "a;foreign;b;", "x?offset=at:2000": "a;foreign;b;", "x?offset=at:2001": "foreign;b;",
			"x?offset=at:3001": "b;", "x?offset=at:4001": "",
			"parts?offset=at:4000": `["first",` + parts[1:], "parts?offset=at:4001": parts, fmt.Sprint("parts?offset=at:", commit-150): parts,
			fmt.Sprint("parts?offset=at:", commit): parts, fmt.Sprint("parts?offset=at:", commit+1): "[]",
		} {
			t.Run(name+" "+query, func(t *testing.T) {
				s := site.in(t)
				if got := s.want(s.do("GET", "/v1/stream/"+query, "", nil), 200); got != want {
					t.Errorf("%.100s, want %.100s", got, want)
				}
			})
		}
	}
	first := slices.IndexFunc(log.Records("default/x"), func(r shard.Record) bool { return string(r.Body) == "foreign;" })
	log.DropBelow("default/x", log.Records("default/x")[first].Pos)
	cut := newSiteOn(t, Config{}, overTLS, log)
	if got := cut.want(cut.do("GET", "/v1/stream/x?offset=at:0", "", nil), 200); got != "foreign;b;" {
		t.Errorf("%s", got)
	}
}

// In a fork, and in forks of it, a time is searched in what they inherited, too: in few reads, however
// long the chain is.
func TestTimesInWhatForksInherited(t *testing.T) {
	log, clock := timedLog()
	s := newSiteOn(t, Config{}, overTLS, log)
	clock.Store(1000)
	s.put("/v1/stream/0", `["m0"]`, jsonType)
	const forks = 30
	for i := 1; i <= forks; i++ {
		clock.Store(int64(1000 + 1000*i))
		s.put(fmt.Sprint("/v1/stream/", i), "", header{hForkedFrom: fmt.Sprint("/v1/stream/", i-1)})
		s.want(s.do("POST", fmt.Sprint("/v1/stream/", i-1), `["elsewhere"]`, jsonType), 204)
		if i%3 == 0 {
			continue // it has nothing of its own
		}
		clock.Add(500)
		s.want(s.do("POST", fmt.Sprint("/v1/stream/", i), fmt.Sprintf(`["m%d"]`, i), jsonType), 204)
	}
	from := func(i int) string {
		var all []string
		for ; i <= forks; i++ {
			if i%3 != 0 || i == 0 {
				all = append(all, fmt.Sprintf(`"m%d"`, i))
			}
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	cold := newSiteOn(t, Config{}, overTLS, log)
	cold.want(cold.do("GET", fmt.Sprint("/v1/stream/", forks), "", nil), 200)
	for i := range forks {
		for since, want := range map[int]string{1000 + 1000*i: from(i), 1500 + 1000*i: from(i), 1501 + 1000*i: from(i + 1)} {
			if i == 0 && since > 1000 {
				want = from(1)
			}
			before := log.Ops().TimeReads
			path := fmt.Sprintf("/v1/stream/%d?offset=at:%d", forks, since)
			if got := cold.want(cold.do("GET", path, "", nil), 200); got != want {
				t.Errorf("since %d: %s, want %s", since, got, want)
			}
			if n := log.Ops().TimeReads - before; n > 6 {
				t.Errorf("since %d: %d reads by timestamp", since, n)
			}
			if got := s.want(s.do("GET", path, "", nil), 200); got != want {
				t.Errorf("since %d, in memory: %s, want %s", since, got, want)
			}
		}
	}
}

// timedFamily is a tree of forks with the times of their messages.
type timedFamily struct {
	*family
	clock *logClock
	times map[string]int64 // of each message
	next  int
}

// add appends to a stream, or creates one, of JSON.
func (f *timedFamily) add(method string, m *member, h header) {
	n := rapid.IntRange(0, 3).Draw(f.T, "messages")
	if n == 0 && method == "POST" {
		n = 1
	}
	var bodies []string
	for range n {
		f.next++
		bodies = append(bodies, fmt.Sprint(f.next))
		f.times[bodies[len(bodies)-1]] = f.clock.Load()
	}
	body, status := "["+strings.Join(bodies, ",")+"]", 204
	if method == "PUT" {
		status = 201
		if n == 0 {
			body = ""
		}
	}
	w := f.ask(method, m.path, body, h, status)
	m.messages = append(m.messages, bodies...)
	m.offsets[w.Header().Get(hNextOffset)] = len(m.messages)
}

func (f *timedFamily) fork() {
	source := f.pick()
	offsets := make([]string, 0, len(source.offsets))
	for o := range source.offsets {
		offsets = append(offsets, o)
	}
	slices.Sort(offsets)
	at := rapid.SampledFrom(offsets).Draw(f.T, "at")
	m := &member{path: fmt.Sprint("/v1/stream/", len(f.streams)), offsets: map[string]int{}}
	m.messages = slices.Clone(source.messages[:source.offsets[at]])
	f.add("PUT", m, header{"Content-Type": "application/json", hForkedFrom: source.path, hForkOffset: at})
	f.streams = append(f.streams, m)
}

// check reads every stream from every time.
func (f *timedFamily) check(srv *Server) {
	for _, m := range f.streams {
		asked := []int64{0, f.clock.Load(), f.clock.Load() + 1}
		for _, body := range m.messages {
			asked = append(asked, f.times[body], f.times[body]+1)
		}
		slices.Sort(asked)
		for _, since := range slices.Compact(asked) {
			first := slices.IndexFunc(m.messages, func(body string) bool { return f.times[body] >= since })
			if first < 0 {
				first = len(m.messages)
			}
			if got, want := (&family{T: f.T, srv: srv}).ask("GET", fmt.Sprint(m.path, "?offset=at:", since), "", nil, 200).Body.String(), "["+strings.Join(m.messages[first:], ",")+"]"; got != want {
				f.Fatalf("%s since %d: %s, want %s", m.path, since, got, want)
			}
		}
	}
}

// Whatever forks what, where and when, each stream has exactly the messages since a time.
func TestTimesInForksOfForks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log, clock := timedLog()
		host := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
		defer host.Close()
		srv := New(Config{}, host)
		defer srv.Close()
		f := &timedFamily{family: &family{T: t, srv: srv}, clock: clock, times: map[string]int64{}}
		clock.Store(1000)
		f.streams = []*member{{path: "/v1/stream/0", offsets: map[string]int{}}}
		f.add("PUT", f.streams[0], jsonType)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			clock.Add(rapid.Int64Range(0, 2).Draw(t, "later"))
			if rapid.Bool().Draw(t, "fork") {
				f.fork()
			} else {
				f.add("POST", f.pick(), jsonType)
			}
		}
		f.check(srv)
		cold := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
		defer cold.Close()
		other := New(Config{}, cold)
		defer other.Close()
		f.check(other)
	})
}
