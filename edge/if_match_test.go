package edge

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// HEAD, an append and a refused If-Match name the stream's end twice: as an offset, and as the entity
// tag that the next append may depend on. It holds over HTTP/1.1, HTTP/2 and append connections, with
// rights, and only for a client that may append.
func TestIfMatchOverEveryConnection(t *testing.T) {
	s, clients := siteWithRights(t, rightsFile(t))
	owner := bearer(tokenOf(t, map[string]any{"role": "owner"}))
	for over, client := range clients {
		t.Run(over, func(t *testing.T) {
			url := s.url + "/v1/stream/acme/rooms/a"
			send := func(method, tag string, status int, who header) string {
				t.Helper()
				q := refusedRequest{method: method, header: maps.Clone(text)}
				if method == "POST" {
					q.body, q.header[hIfMatch] = "m", tag
				}
				resp, b := q.send(t, client, url, refusedCredential{header: who})
				if resp.StatusCode != status {
					t.Fatalf("%s %s: %d %s, want %d", method, tag, resp.StatusCode, b, status)
				}
				end := resp.Header.Get("ETag")
				if status < 400 || status == 412 {
					if end != `"`+resp.Header.Get(hNextOffset)+`"` || end == `""` {
						t.Errorf("%s %s: ETag %s, the end is %s", method, tag, end, resp.Header.Get(hNextOffset))
					}
				}
				return end
			}
			first := send("HEAD", "", 200, owner)
			end := first
			for range 2 * appendsToTakeOver {
				end = send("POST", end, 204, owner)
				if again := send("POST", first, 412, owner); again != end {
					t.Errorf("a refusal names %s, the end is %s", again, end)
				}
			}
			if head := send("HEAD", "", 200, owner); head != end {
				t.Errorf("HEAD names %s, the end is %s", head, end)
			}
			url = s.url + "/v1/stream/acme/secret"
			if tag := send("POST", end, 403, bearer(tokenOf(t, map[string]any{"role": "reader"}))); tag != "" {
				t.Errorf("a refusal for want of rights has ETag %s", tag)
			}
		})
	}
}

// What may stand in the header, and what is said of the rest.
func TestIfMatchHeader(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "[1]", header{"Content-Type": "application/json"})
	end := s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	chunk := s.do("GET", "/v1/stream/x", "", nil).Header.Get("ETag")
	old := position.FormatOffset(1, 1)
	inside := end[:len(end)-1] + "1" // some clients add 1 to offsets
	many := strings.TrimSuffix(strings.Repeat(`"`+old+`", `, shard.MaxTailPlaces), ", ")
	const ok = "bad-body" // which is judged after the condition
	for i, c := range []struct {
		slug   string
		values []string
	}{
		{ok, []string{`"` + end + `"`}},
		{ok, []string{end}},
		{ok, []string{`"` + inside + `"`}},
		{ok, []string{`"` + old + `", "` + end + `"`}},
		{ok, []string{old + "," + end}},
		{ok, []string{"\t, " + old + " ,,\t\"" + end + "\" ,"}},
		{ok, []string{`"` + old + `"`, `"` + end + `"`}},
		{ok, []string{`W/"a,` + old + `", "` + end + `"`}},
		{"tail-moved", []string{`"` + old + `"`}},
		{"tail-moved", []string{`"-1"`}},
		{"tail-moved", []string{"-1"}},
		{"tail-moved", []string{`W/"` + end + `"`}},
		{"tail-moved", []string{`W/"a,` + end + `,b"`}},
		{"tail-moved", []string{`W/"whatever"`, `"` + old + `"`}},
		{"tail-moved", []string{many}},
		{"not-a-tail", []string{"*"}},
		{"not-a-tail", []string{`"*"`}},
		{"not-a-tail", []string{chunk}},
		{"not-a-tail", []string{`"` + end + `", ` + chunk}},
		{"not-a-tail", []string{strings.TrimSuffix(chunk, `"`) + `-gzip"`}},
		{"not-a-tail", []string{"now"}},
		{"not-a-tail", []string{"7"}},
		{"not-a-tail", []string{"tail-1"}},
		{"not-a-tail", []string{"tail-" + strings.Repeat("0", position.OffsetLen-6) + "1"}},
		{"not-a-tail", []string{"0"}},
		{"not-a-tail", []string{`""`}},
		{"not-a-tail", []string{`"` + end}},
		{"not-a-tail", []string{end + `"`}},
		{"not-a-tail", []string{`"` + end + `" "` + end + `"`}},
		{"not-a-tail", []string{`W/` + end}},
		{"not-a-tail", []string{`w/"` + end + `"`}},
		{"not-a-tail", []string{`"` + end + ` "`}},
		{"not-a-tail", []string{"\xff"}},
		{"bad-header", []string{""}},
		{"bad-header", []string{" , ,"}},
		{"bad-header", []string{many + `, "` + end + `"`}},
		{"bad-header", []string{strings.Repeat("0", 1025)}},
		{"bad-header", []string{"a\x01"}},
	} {
		t.Run(fmt.Sprint(i, c.slug), func(t *testing.T) {
			w := postIf(t, s.srv, "x", "[]", c.values, nil)
			p := recordedProblem(t, w)
			if p.Type != problemBase+c.slug || w.Code == 400 && c.slug != ok && !strings.Contains(p.Detail, hIfMatch) {
				t.Errorf("%q: %d %+v, want %s", c.values, w.Code, p, c.slug)
			}
			tag := w.Header().Get("ETag")
			if want := `"` + end + `"`; (tag == want) != (w.Code == 412) || w.Code != 412 && tag != "" {
				t.Errorf("%q: %d with ETag %q", c.values, w.Code, tag)
			}
			if w.Code == 412 && (w.Header().Get(hNextOffset) != end || !strings.Contains(p.Detail, end)) {
				t.Errorf("%q: %v, %s", c.values, w.Header(), p.Detail)
			}
		})
	}
}

// postIf appends under a condition.
func postIf(t *testing.T, s *Server, stream, body string, values []string, more header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/stream/"+stream, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for k, v := range more {
		r.Header.Set(k, v)
	}
	r.Header[hIfMatch] = values
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// The faults of an append under a condition are told in this order: a malformed header, that the
// stream is absent or closed, the type, the condition, the sequence, the body.
func TestIfMatchOrderOfProblems(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "[1]", header{"Content-Type": "application/json"})
	first := postIf(t, s.srv, "x", "2", []string{s.do("HEAD", "/v1/stream/x", "", nil).Header.Get("ETag")}, header{hSeq: "b"})
	end := first.Header().Get("ETag")
	if first.Code != 204 {
		t.Fatal(first.Code, first.Body)
	}
	s.put("/v1/stream/closed", "", header{"Content-Type": "application/json", hClosed: "true"})
	producer := header{hProducerID: "p", hProducerEpoch: "0", hProducerSeq: "0"}
	old := position.FormatOffset(1, 1)
	for i, c := range []struct {
		status             int
		slug, stream, body string
		tag                string
		more               header
	}{
		{404, "stream-not-found", "none", "[]", "*", nil},
		{404, "stream-not-found", "none", "[]", old, producer},
		{404, "stream-not-found", "none", "[]", old, header{hSeq: "a"}},
		{400, "not-a-tail", "closed", "[]", "*", nil},
		{400, "bad-header", "x", "[]", old, producer},
		{400, "bad-header", "x", "[]", end, header{hProducerSeq: "0"}},
		{400, "bad-header", "x", "[]", "*", producer},
		{409, "stream-closed", "closed", "[]", old, header{hSeq: "a"}},
		{409, "content-type-differs", "x", "[]", old, header{hSeq: "a", "Content-Type": "text/plain"}},
		{412, "tail-moved", "x", "[]", old, header{hSeq: "a"}},
		{409, "stream-seq-order", "x", "[]", end, header{hSeq: "a"}},
		{400, "bad-body", "x", "[]", end, header{hSeq: "c"}},
		{400, "empty-body", "x", "", old, nil},
		{412, "tail-moved", "x", "", old, header{hClosed: "true"}},
	} {
		t.Run(fmt.Sprint(i, c.slug), func(t *testing.T) {
			w := postIf(t, s.srv, c.stream, c.body, []string{c.tag}, c.more)
			if p := recordedProblem(t, w); w.Code != c.status || p.Type != problemBase+c.slug {
				t.Errorf("%d %+v, want %d %s", w.Code, p, c.status, c.slug)
			}
		})
	}
	if w := postIf(t, s.srv, "x", "", []string{end}, header{hClosed: "true"}); w.Code != 204 || w.Header().Get("ETag") != end {
		t.Errorf("closing: %d, %v", w.Code, w.Header())
	}
}

// The entity tag of HEAD is no tag of a chunk: If-None-Match has no effect on HEAD, and none on GET
// but with the tag of a chunk.
func TestTagOfTheEndIsNoTagOfAChunk(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "a", text)
	head, get := s.do("HEAD", "/v1/stream/x", "", nil), s.do("GET", "/v1/stream/x", "", nil)
	end, chunk := head.Header.Get("ETag"), get.Header.Get("ETag")
	if end != `"`+get.Header.Get(hNextOffset)+`"` || chunk == end || head.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v, %v", head.Header, get.Header)
	}
	for _, c := range []struct {
		method, tag string
		status      int
	}{{"HEAD", end, 200}, {"HEAD", "*", 200}, {"GET", end, 200}, {"GET", chunk, 304}, {"GET", "W/" + chunk, 304}} {
		if resp := s.do(c.method, "/v1/stream/x", "", header{"If-None-Match": c.tag}); resp.StatusCode != c.status {
			t.Errorf("%s with If-None-Match %s: %d, want %d", c.method, c.tag, resp.StatusCode, c.status)
		}
	}
	if resp := s.do("GET", "/v1/stream/x", "", header{hIfMatch: `"x"`}); resp.StatusCode != 200 {
		t.Errorf("GET with If-Match: %d", resp.StatusCode)
	}
}
