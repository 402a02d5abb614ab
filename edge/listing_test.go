package edge

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/shard"
)

// listNames asks for a page and returns its names and the answer.
func (s *site) listNames(path string, h header) (names []string, a listAnswer) {
	s.Helper()
	b := s.want(s.do("GET", path, "", h), 200)
	if err := json.Unmarshal([]byte(b), &a); err != nil {
		s.Fatalf("%v in %s", err, b)
	}
	for _, l := range a.Streams {
		names = append(names, l.Name)
	}
	return names, a
}

// A listing has every name of its project once, in order, whatever the size of its pages, and
// neither reserved names nor those of another project.
func TestListingPages(t *testing.T) {
	s := newSite(t, Config{})
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("room %02d/é", i)
		want = append(want, name)
		s.put("/v1/stream/acme/"+url.PathEscape(fmt.Sprintf("room %02d", i))+"/%C3%A9", "x", text)
	}
	s.put("/v1/stream/acme2/room", "", text)
	s.put("/v1/stream/acme/a", "", text)
	for _, reserved := range []string{"__ds/clock", "__ds/revocations", "__ds"} {
		if err := s.log.Create(t.Context(), shard.StreamID("acme/"+reserved)); err != nil {
			t.Fatal(err)
		}
	}
	want = append([]string{"a"}, want...)
	for _, limit := range []int{1, 2, 24, 25, 26, 27, 1000} {
		var got []string
		for after, done := "", false; !done; {
			names, a := s.listNames(fmt.Sprintf("/v1/stream/acme/__ds/streams?limit=%d&after=%s", limit, url.QueryEscape(after)), nil)
			if len(names) > limit || !a.NamesOnly || a.S2Calls.List == 0 || a.S2Calls.Read != 0 {
				t.Fatalf("%+v", a)
			}
			got, after, done = append(got, names...), a.Next, a.Next == ""
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %q", limit, got)
		}
	}
	if got, _ := s.listNames("/v1/stream/acme/__ds/streams?prefix=room+1", nil); !slices.Equal(got, want[11:21]) {
		t.Errorf("prefix: %q", got)
	}
	if got, _ := s.listNames("/v1/stream/__ds/streams", nil); got != nil {
		t.Errorf("the project default: %q", got)
	}
	for _, bad := range []string{"limit=0", "limit=x", "limit=1001", "detail=1&limit=101", "detail=yes", "limit=1&limit=2", "prefix=%ff", "prefix=" + strings.Repeat("x", 600), "a=%zz"} {
		if b := s.want(s.do("GET", "/v1/stream/acme/__ds/streams?"+bad, "", nil), 400); !strings.Contains(b, "bad-query") {
			t.Errorf("%s: %s", bad, b)
		}
	}
	s.want(s.do("POST", "/v1/stream/acme/__ds/streams", "x", text), 405)
	s.want(s.do("HEAD", "/v1/stream/acme/__ds/streams", "", nil), 200)
	s.want(s.do("GET", "/v1/stream/__ds/__ds/streams", "", nil), 501)
}

// With detail the answer describes each stream as HEAD does, whatever its length, leaves out what does
// not exist, and says what it read. No stream is loaded for it.
func TestListingDetail(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/acme/json", "[1,2]", header{"Content-Type": "application/json", "Stream-TTL": "3600"})
	s.put("/v1/stream/acme/closed", "x", header{"Content-Type": "text/plain", "Stream-Closed": "true"})
	s.put("/v1/stream/acme/deleted", "x", text)
	s.want(s.do("DELETE", "/v1/stream/acme/deleted", "", nil), 204)
	s.put("/v1/stream/acme/again", "x", text)
	s.want(s.do("DELETE", "/v1/stream/acme/again", "", nil), 204)
	s.put("/v1/stream/acme/again", "y", header{"Content-Type": "text/csv"})
	s.put("/v1/stream/acme/long", "", text)
	for range 1200 {
		s.want(s.do("POST", "/v1/stream/acme/long", "x", text), 204)
	}
	s.put("/v1/stream/acme/fork", "", header{"Stream-Forked-From": "/v1/stream/acme/json"})
	if err := s.log.Create(t.Context(), "acme/empty"); err != nil {
		t.Fatal(err)
	}
	other := shard.NewManager(s.log, shard.NewTailBuffers(0, 0), shard.Config{}) // a node that owns nothing
	defer func() { _ = other.Close() }()
	s.srv.cfg.Lister = other
	before := s.log.Ops()
	names, a := s.listNames("/v1/stream/acme/__ds/streams?detail=1", nil)
	if want := []string{"again", "closed", "fork", "json", "long"}; !slices.Equal(names, want) {
		t.Fatalf("%q, want %q", names, want)
	}
	if ops := s.log.Ops(); a.S2Calls.Read != ops.Reads-before.Reads || a.S2Calls.Read > 2*7 || ops.Replays != before.Replays || a.NamesOnly {
		t.Errorf("it says %+v, and made %+v after %+v", a.S2Calls, ops, before)
	}
	for _, l := range a.Streams {
		head := s.do("HEAD", "/v1/stream/acme/"+l.Name, "", nil)
		s.want(head, 200)
		h := head.Header
		got := []string{l.ContentType, l.NextOffset, fmt.Sprint(*l.Closed), fmt.Sprint(l.TTL)}
		want := []string{h.Get("Content-Type"), h.Get(hNextOffset), fmt.Sprint(h.Get(hClosed) == "true"), "0"}
		if ttl := h.Get(hTTL); ttl != "" {
			want[3] = ttl
		}
		if !slices.Equal(got, want) || l.Created == "" {
			t.Errorf("%s: %q, want %q", l.Name, got, want)
		}
	}
}

// A caller that may list sees the names, and the details of what it may read. Text prefixes are not paths.
func TestListingRights(t *testing.T) {
	file := rightsFile(t)
	replaceText(t, file, "      - { when: { role: [reader] }", `      - { when: { role: [lister] }, actions: [list], streams: ["rooms/**"] }
      - { when: { role: [reader] }`)
	s := newSite(t, Config{Judge: newJudge(t, file, access.Config{})})
	owner := bearer(tokenOf(t, map[string]any{"role": "owner"}))
	for _, name := range []string{"rooms/a", "rooms2/b", "secret"} {
		s.put("/v1/stream/acme/"+name, "x", header{"Authorization": owner["Authorization"], "Content-Type": "text/plain"})
	}
	const path = "/v1/stream/acme/__ds/streams"
	if got, _ := s.listNames(path, owner); len(got) != 3 {
		t.Errorf("the owner sees %q", got)
	}
	lister := bearer(tokenOf(t, map[string]any{"role": "lister"}))
	for query, status := range map[string]int{"": 403, "?prefix=rooms": 403, "?prefix=rooms/": 200, "?prefix=rooms/a": 200, "?prefix=rooms2/": 403} {
		s.want(s.do("GET", path+query, "", lister), status)
	}
	_, a := s.listNames(path+"?prefix=rooms/&detail=1", lister)
	if len(a.Streams) != 1 || a.Streams[0].ContentType != "text/plain" {
		t.Errorf("%+v", a)
	}
	s.want(s.do("GET", path, "", nil), 401)
	s.want(s.do("GET", path, "", bearer("abc")), 401)
	s.want(s.do("GET", path, "", bearer(tokenOf(t, map[string]any{"role": "reader"}))), 403)
	s.want(s.do("GET", "/v1/stream/beta/__ds/streams", "", owner), 403)
}

// replaceText replaces a text in a file.
func replaceText(t *testing.T, path, old, with string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s does not have %q", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), old, with, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}
