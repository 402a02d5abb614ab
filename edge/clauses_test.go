package edge

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// What the protocol demands and its published suite does not look at, a test for each
// clause. In other servers each of these was once wrong.

var jsonType = header{"Content-Type": "application/json"}

// PROTOCOL 10.1: closing changes the ETag, or a 304 would hide the end.
func TestETagChangesOnClose(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	open := s.do("GET", "/v1/stream/x", "", nil).Header.Get("ETag")
	s.want(s.do("GET", "/v1/stream/x", "", header{"If-None-Match": open}), 304)
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204)
	resp := s.do("GET", "/v1/stream/x", "", header{"If-None-Match": open})
	s.want(resp, 200)
	if tag := resp.Header.Get("ETag"); tag == open || resp.Header.Get(hClosed) != "true" {
		t.Errorf("ETag %s, was %s; %v", tag, open, resp.Header)
	}
}

// PROTOCOL 4.1: the value counts in any case, and no other value does.
func TestStreamClosedInAnyCase(t *testing.T) {
	s := newSite(t, Config{})
	for i, v := range []string{"true", "TRUE", "True", "tRuE"} {
		path := fmt.Sprint("/v1/stream/", i)
		s.put(path, "one", text)
		s.want(s.do("POST", path, "two", header{"Content-Type": "text/plain", hClosed: v}), 204)
		s.want(s.do("POST", path, "three", text), 409)
	}
	s.put("/v1/stream/open", "one", text)
	for _, v := range []string{"1", "yes", "false", "truee", "ſ"} {
		resp := s.do("POST", "/v1/stream/open", "two", header{"Content-Type": "text/plain", hClosed: v})
		if s.want(resp, 204); resp.Header.Get(hClosed) != "" {
			t.Errorf("%q closed it", v)
		}
	}
}

// A body without a length is a body.
func TestChunkedBodies(t *testing.T) {
	s := newSite(t, Config{})
	for method, status := range map[string]int{"PUT": 201, "POST": 204} {
		t.Run(method, func(t *testing.T) {
			s := s.in(t)

			req, err := http.NewRequestWithContext(t.Context(), method, s.url+"/v1/stream/x", io.MultiReader(strings.NewReader("chunk,"), strings.NewReader("ed;")))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "text/plain")
			if method == "POST" {
				s.put("/v1/stream/x", "", text)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			s.want(resp, status)
			_ = resp.Body.Close()
			if got := s.want(s.do("GET", "/v1/stream/x", "", nil), 200); got != "chunk,ed;" {
				t.Errorf("%s: %q", method, got)
			}
			s.want(s.do("DELETE", "/v1/stream/x", "", nil), 204)
		})
	}
}

func TestPutOfInvalidJSON(t *testing.T) {
	s := newSite(t, Config{})
	for _, body := range []string{"{", "[1,", "nope", "[1]]", "\"\xff\""} {
		refused(t, ask(t, s.srv, "PUT", "/v1/stream/x", strings.NewReader(body), jsonType), 400, "bad-body")
	}
	s.want(s.do("HEAD", "/v1/stream/x", "", nil), 404)
	s.put("/v1/stream/x", "[]", jsonType)
	if got := s.want(s.do("GET", "/v1/stream/x", "", nil), 200); got != "[]" {
		t.Error(got)
	}
}

// A TTL of 0 is a TTL: the stream is made, and has expired.
func TestTTLZero(t *testing.T) {
	s := newSite(t, Config{})
	h := header{"Content-Type": "text/plain", hTTL: "0"}
	s.put("/v1/stream/x", "one", h)
	s.want(s.do("HEAD", "/v1/stream/x", "", nil), 404)
	s.want(s.do("POST", "/v1/stream/x", "two", text), 404)
	s.put("/v1/stream/x", "again", h)
	s.want(s.do("GET", "/v1/stream/x", "", nil), 404)
}

// An offset inside a record reads from its start: a client that adds 1 loses nothing,
// and gets nothing twice that it asked for from the next record on.
func TestOffsetInsideRecord(t *testing.T) {
	s := newSite(t, Config{})
	at := s.put("/v1/stream/x", "one", text).Header.Get(hNextOffset)
	s.want(s.do("POST", "/v1/stream/x", "two", text), 204)
	for _, digit := range []string{"1", "7", "9"} {
		if got := s.want(s.do("GET", "/v1/stream/x?offset="+at[:len(at)-1]+digit, "", nil), 200); got != "two" {
			t.Errorf("at %s: %q", digit, got)
		}
	}
}

func TestOffsetBeyondTail(t *testing.T) {
	s := newSite(t, Config{LongPoll: time.Millisecond})
	s.put("/v1/stream/x", "one", text)
	o, err := position.ParseOffset(s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{
		position.FormatOffset(o.Generation, o.Pos+1), position.FormatOffset(o.Generation, o.Pos+1000), position.FormatOffset(o.Generation+1, o.Pos), "9999", strings.Repeat("9", 16) + "_" + strings.Repeat("9", 16),
	} {
		for _, live := range []string{"", "&live=long-poll", "&live=sse"} {
			refused(t, ask(t, s.srv, "GET", "/v1/stream/x?offset="+at+live, nil, nil), 400, "offset-beyond")
		}
	}
}

// Integers that not every client can hold are refused: 2^53 and up.
func TestIntegersBeyondRangeAreRefused(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	const most, over = "9007199254740991", "9007199254740992"
	tuple := func(epoch, seq string) header {
		return header{"Content-Type": "text/plain", hProducerID: "p", hProducerEpoch: epoch, hProducerSeq: seq}
	}
	s.want(s.do("POST", "/v1/stream/x", "a", tuple(most, "0")), 200)
	for _, h := range []header{tuple(over, "0"), tuple(most, over), tuple("18446744073709551616", "0"), tuple("0", "1e3"), tuple("-1", "0"), tuple("0", "+1")} {
		refused(t, ask(t, s.srv, "POST", "/v1/stream/x", strings.NewReader("b"), h), 400, "bad-header")
	}
	refused(t, ask(t, s.srv, "PUT", "/v1/stream/y", nil, header{hTTL: over}), 400, "bad-header")
	s.put("/v1/stream/y", "", header{hTTL: most})
}

// PROTOCOL 10.1: the start of a chunk is in its ETag, and so is the generation.
func TestETagCarriesStart(t *testing.T) {
	s := newSite(t, Config{})
	first := s.put("/v1/stream/x", "one", text).Header.Get(hNextOffset)
	s.want(s.do("POST", "/v1/stream/x", "two", text), 204)
	tags := map[string]string{}
	tag := func(path string) string {
		resp := s.do("GET", path, "", nil)
		s.want(resp, 200)
		got := resp.Header.Get("ETag")
		if other, known := tags[got]; known || !strings.HasPrefix(got, `"`) || !strings.HasSuffix(got, `"`) {
			t.Errorf("%s has %s, as %s", path, got, other)
		}
		tags[got] = path
		return got
	}
	whole, rest := tag("/v1/stream/x"), tag("/v1/stream/x?offset="+first)
	o, _ := position.ParseOffset(first)
	if !strings.HasPrefix(rest, fmt.Sprintf("\"%d:%s:", o.Generation, first)) {
		t.Errorf("%s is not generation:start:end", rest)
	}
	s.want(s.do("GET", "/v1/stream/x?offset="+first, "", header{"If-None-Match": whole}), 200)
	s.want(s.do("GET", "/v1/stream/x?offset="+first, "", header{"If-None-Match": `"other", W/` + rest}), 304)
	s.want(s.do("DELETE", "/v1/stream/x", "", nil), 204)
	s.put("/v1/stream/x", "one", text)
	s.want(s.do("POST", "/v1/stream/x", "two", text), 204)
	tag("/v1/stream/x?life=2")
}

func TestUnknownLiveMode(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	for _, live := range []string{"true", "SSE", "longpoll", "websocket", "%00"} {
		refused(t, ask(t, s.srv, "GET", "/v1/stream/x?offset=-1&live="+live, nil, nil), 400, "bad-query")
	}
	s.want(s.do("GET", "/v1/stream/x?offset=-1&live=&unknown=1", "", nil), 200)
}

// fill writes so much that catch-up takes several chunks; it answers where the second
// begins.
func (s *site) fill(path string) (second string) {
	s.Helper()
	s.put(path, "["+strings.Repeat(`"a message of some length that compresses well",`, maxChunkMessages)+"1]", jsonType)
	resp := s.do("GET", path, "", nil)
	s.want(resp, 200)
	for range 2 {
		s.want(s.do("POST", path, "["+strings.Repeat("2,", maxChunkMessages)+"3]", jsonType), 204)
	}
	return resp.Header.Get(hNextOffset)
}

// A client that accepts no compression takes none of the places of those that do.
func TestCompressorsAreBounded(t *testing.T) {
	s := New(Config{}, fakeBackend{})
	for accept, want := range map[string]int{"": 0, "identity": 0, "br": 0, "gzip": 1, "br, zstd": 1} {
		t.Run(accept, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/v1/stream/x", nil)
			r.Header.Set("Accept-Encoding", accept)
			w := httptest.NewRecorder()
			s.serveCompressed(w, r, func(http.ResponseWriter, *http.Request) {
				if n := len(s.compressSlots); n != want {
					t.Errorf("%q: %d places", accept, n)
				}
			})
			if v := w.Header().Get("Vary"); v != "Accept-Encoding" {
				t.Errorf("%q: Vary: %q", accept, v)
			}
		})
	}
}

// An answer to offset=now is of no use to a later request.
func TestCacheControlNow(t *testing.T) {
	s := newSite(t, Config{})
	for path, want := range map[string]string{"/v1/stream/now": "no-store", "/v1/stream/tail": "public, max-age=20"} {
		t.Run(path, func(t *testing.T) {
			s := s.in(t)

			offset := s.put(path, "", text).Header.Get(hNextOffset)
			if path == "/v1/stream/now" {
				offset = "now"
			}
			got := make(chan string)
			go func() {
				resp, err := http.Get(s.url + path + "?live=long-poll&offset=" + offset) //nolint:noctx // it ends with the test
				if err != nil {
					t.Error(err)
					close(got)
					return
				}
				_ = resp.Body.Close()
				got <- strconv.Itoa(resp.StatusCode) + " " + resp.Header.Get("Cache-Control")
			}()
			waiting := s.srv.metrics.readers.WithLabelValues(string(modeLongPoll))
			for testutil.ToFloat64(waiting) == 0 {
				<-time.After(time.Millisecond)
			}
			s.want(s.do("POST", path, "news", text), 204)
			if h := <-got; h != "200 "+want {
				t.Errorf("%s: %q, want %q", path, h, want)
			}
		})
	}
}

// Only a whole chunk under an offset of the present generation may be kept for a year, and
// nothing else for more than a minute. An answer to a request with a token is kept by its
// own client alone.
func TestCacheControl(t *testing.T) {
	s := newSite(t, Config{LongPoll: time.Millisecond})
	second := s.fill("/v1/stream/x")
	s.put("/v1/stream/f", "", header{hForkedFrom: "/v1/stream/x"})
	tail := s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	for _, c := range []struct {
		method, path, want string
	}{
		{"GET", "x?offset=" + second, "public, max-age=31536000, immutable"},
		{"GET", "x", "public, max-age=20, stale-while-revalidate=40"},
		{"GET", "x?offset=-1", "public, max-age=20, stale-while-revalidate=40"},
		{"GET", "x?offset=1", "public, max-age=20, stale-while-revalidate=40"},
		{"GET", "f?offset=" + second, "public, max-age=20, stale-while-revalidate=40"}, // the fork's URL may get another past
		{"GET", "x?offset=" + tail, "public, max-age=0, s-maxage=1, must-revalidate"},
		{"GET", "x?offset=now", "no-store"},
		{"GET", "x?live=long-poll&offset=" + second, "public, max-age=20"},
		{"GET", "x?live=long-poll&offset=" + tail, "no-store"},
		{"HEAD", "x", "no-store"},
		{"GET", "none", "no-store"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			for _, h := range []header{nil, {"Accept": "*/*", "User-Agent": "x", "X-Request-Id": "1", "Sec-Fetch-User": "?1", "Traceparent": "00-1"}} {
				w := ask(t, s.srv, c.method, "/v1/stream/"+c.path, nil, h)
				if got := w.Header().Get("Cache-Control"); got != c.want {
					t.Errorf("%s %s %v: %d %q, want %q", c.method, c.path, h, w.Code, got, c.want)
				}
				if vary := strings.Join(w.Header().Values("Vary"), ","); strings.Contains(c.want, "public") != strings.Contains(vary, "Authorization, Cookie") {
					t.Errorf("%s: Vary %s", c.path, vary)
				}
			}
			private := func(query string, h header) {
				t.Helper()
				path := c.path
				if query != "" {
					path += map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + query
				}
				w := ask(t, s.srv, c.method, "/v1/stream/"+path, nil, h)
				got := w.Header().Get("Cache-Control")
				if c.want == cacheNoStore && got != c.want || c.want != cacheNoStore && !strings.HasPrefix(got, "private, ") ||
					strings.Contains(got, "public") || strings.Contains(got, "immutable") || strings.Contains(got, "s-maxage") {
					t.Errorf("%s %s %v: %q", c.method, path, h, got)
				}
			}
			for _, name := range []string{
				"Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Access-Token", "X-Csrf-Token",
				"X-Amz-Security-Token", "Cf-Access-Jwt-Assertion", "X-Goog-Iap-Jwt-Assertion", "X-Forwarded-User", "X-Forwarded-Email",
				"X-Forwarded-Client-Cert", "X-Remote-User", "Remote-User", "X-Session-Id", "Dpop", "Signature", "X-Tenant-Id",
			} {
				private("", header{name: "x"})
			}
			for _, query := range []string{"token=x", "access_token=x", "sig=x", "key=x", "signature=x", "apikey=x", "X-Amz-Signature=x", "jwt", "OFFSET=1"} {
				private(query, nil)
			}
		})
	}
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	if h := resp.Header.Get("Cache-Control"); !strings.Contains(h, "private") || !strings.Contains(h, "no-store") {
		t.Errorf("SSE: %s", h)
	}
}

// Opened in a browser a stream runs nothing, whatever its type says, and is no service worker's script.
func TestContentRunsNothingInABrowser(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "<script>alert(1)</script>", header{"Content-Type": "text/html"})
	post := s.do("POST", "/v1/stream/x", "more", header{"Content-Type": "text/html"})
	for _, resp := range []*http.Response{
		post, s.do("GET", "/v1/stream/x", "", nil), s.do("HEAD", "/v1/stream/x", "", nil), s.do("GET", "/v1/stream/none", "", nil),
		s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil), s.do("GET", "/elsewhere", "", nil), s.do("OPTIONS", "/v1/stream/x", "", nil),
	} {
		if csp := resp.Header.Get("Content-Security-Policy"); csp != "sandbox; default-src 'none'" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: %d %v", resp.Request.Method, resp.Request.URL, resp.StatusCode, resp.Header)
		}
	}
	for _, path := range []string{"/v1/stream/x", "/v1/stream/x?live=sse&offset=-1", "/elsewhere"} {
		if p := readProblem(t, 403, "application/problem+json", s.want(s.do("GET", path, "", header{"Service-Worker": "script"}), 403)); p.Type != problemBase+"service-worker" {
			t.Errorf("%s: %+v", path, p)
		}
	}
}

// PROTOCOL 5.7 and 10.1: each waiting client gets a cursor of its own that never goes back.
func TestLongPollCursor(t *testing.T) {
	s := newSite(t, Config{LongPoll: time.Millisecond})
	s.put("/v1/stream/x", "one", text)
	tail := s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	for _, offset := range []string{"-1", tail} {
		last := ""
		for range 5 {
			resp := s.do("GET", "/v1/stream/x?live=long-poll&offset="+offset+"&cursor="+last, "", nil)
			next := resp.Header.Get(hCursor)
			if len(next) < len(last) || len(next) == len(last) && next <= last {
				t.Errorf("cursor %q after %q", next, last)
			}
			last = next
		}
	}
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204)
	resp := s.do("GET", "/v1/stream/x?live=long-poll&offset="+tail, "", nil)
	if s.want(resp, 204); resp.Header.Get(hClosed) != "true" || resp.Header.Get(hUpToDate) != "true" {
		t.Errorf("%v", resp.Header)
	}
}

// Catch-up is compressed for a client that accepts that, with a tag of its own that is good for
// a 304; event streams never are.
func TestCompression(t *testing.T) {
	s := newSite(t, Config{})
	s.fill("/v1/stream/x")
	s.put("/v1/stream/short", "[1]", jsonType)
	plain := ask(t, s.srv, "GET", "/v1/stream/x", nil, nil)
	if n := plain.Header().Get("Content-Length"); n != strconv.Itoa(plain.Body.Len()) {
		t.Errorf("%s bytes, it says, of %d", n, plain.Body.Len())
	}
	for _, c := range []struct{ accept, want string }{
		{"", ""},
		{"identity", ""},
		{"br", ""},
		{"gzip;q=0, zstd;q=0", ""},
		{"gzip", "gzip"},
		{"gzip, deflate, br, zstd", "gzip"}, // of Chrome
		{"zstd, br, gzip", "gzip"},
		{"GZIP", "gzip"},
		{"zstd", "zstd"},
		{"zstd;q=0.5, gzip;q=0.8", "gzip"},
		{"zstd;q=0.8, gzip;q=0.5", "zstd"},
		{"zstd, gzip;q=0.999", "zstd"},
		{"zstd, gzip;q=0", "zstd"},
		{"zstd;q=0, gzip", "gzip"},
		{"identity, gzip;q=0.5", ""},
		{"identity;q=0.5, gzip", "gzip"},
		{"gzip;q=x", ""},
	} {
		t.Run(c.accept, func(t *testing.T) {
			w := ask(t, s.srv, "GET", "/v1/stream/x", nil, header{"Accept-Encoding": c.accept})
			if got := w.Header().Get("Content-Encoding"); w.Code != 200 || got != c.want || w.Header().Get("Vary") != "Accept-Encoding" {
				t.Errorf("%q: %d %q, %v", c.accept, w.Code, got, w.Header())
				return
			}
			if !bytes.Equal(decompress(t, w.Header().Get("Content-Encoding"), w.Body.Bytes()), plain.Body.Bytes()) {
				t.Errorf("%q: not the same bytes", c.accept)
			}
			if n := w.Header().Get("Content-Length"); (n == "") != (c.want != "") {
				t.Errorf("%q: %s bytes, it says", c.accept, n)
			}
			if tag := w.Header().Get("ETag"); (tag == plain.Header().Get("ETag")) != (c.want == "") {
				t.Errorf("%q: tag %s", c.accept, tag)
			} else if again := ask(t, s.srv, "GET", "/v1/stream/x", nil, header{"Accept-Encoding": c.accept, "If-None-Match": tag}); again.Code != 304 || again.Header().Get("ETag") != tag {
				t.Errorf("%q: with %s: %d %v", c.accept, tag, again.Code, again.Header())
			}
		})
	}
	all := header{"Accept-Encoding": "gzip, zstd"}
	if w := ask(t, s.srv, "GET", "/v1/stream/short", nil, all); w.Header().Get("Content-Encoding") != "" || w.Body.String() != "[1]" {
		t.Errorf("%v %q", w.Header(), w.Body)
	}
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", all)
	if resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%v", resp.Header)
	}
	s.events(resp, 2)
	// With every compressor busy an answer is sent as it is.
	for range maxCompressors {
		s.srv.compressSlots <- struct{}{}
	}
	if w := ask(t, s.srv, "GET", "/v1/stream/x", nil, all); w.Code != 200 || w.Header().Get("Content-Encoding") != "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func decompress(t *testing.T, encoding string, b []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(b)
	var err error
	switch encoding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err = io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// PROTOCOL 12 and CORS: a page of another origin may send and see every header of the
// protocol, whatever the answer is.
func TestPreflight(t *testing.T) {
	s := newSite(t, Config{})
	w := ask(t, s.srv, "OPTIONS", "/v1/stream/p/x", nil, header{"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"})
	list := func(h http.Header, name string) map[string]bool {
		out := map[string]bool{}
		for v := range strings.SplitSeq(h.Get(name), ",") {
			out[strings.ToLower(strings.TrimSpace(v))] = true
		}
		return out
	}
	if w.Code != 204 || w.Header().Get("Access-Control-Allow-Origin") != "*" || w.Body.Len() > 0 {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for name, want := range map[string][]string{
		"Access-Control-Allow-Methods": {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"},
		"Access-Control-Allow-Headers": {
			"Content-Type", "Authorization", "If-None-Match", "Last-Event-ID", hSeq, hTTL, hExpires, hClosed,
			hProducerID, hProducerEpoch, hProducerSeq, hForkedFrom, hForkOffset, hForkSub,
		},
		"Access-Control-Expose-Headers": {
			hNextOffset, hCursor, hUpToDate, hClosed, hTTL, hExpires, hProducerEpoch, hProducerSeq, hExpectedSeq, hReceivedSeq,
			hEncoding, "ETag", "Location", "Retry-After",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := list(w.Header(), name)
			for _, v := range want {
				if !got[strings.ToLower(v)] {
					t.Errorf("%s lacks %s", name, v)
				}
			}
		})
	}
	// What a page's libraries add, they may add; what cannot be a header's name is left out.
	any := []string{"traceparent", "baggage", "sentry-trace", "x-request-id", "if-match", "authorization", "x-tenant", "idempotency-key"}
	w = ask(t, s.srv, "OPTIONS", "/v1/stream/p/x", nil, header{requestHeaders: strings.Join(any, ",") + ", b@d, a b,, é, x:y,\"q\""})
	got := list(w.Header(), "Access-Control-Allow-Headers")
	for _, name := range any {
		if !got[name] {
			t.Errorf("%s is not allowed", name)
		}
	}
	for _, name := range []string{"b@d", "a b", "", "é", "x:y", `"q"`} {
		if got[name] {
			t.Errorf("%q is allowed", name)
		}
	}
	if w.Header().Get("Access-Control-Allow-Credentials") != "" || !strings.Contains(w.Header().Get("Vary"), requestHeaders) {
		t.Errorf("%v", w.Header())
	}
	w = ask(t, s.srv, "OPTIONS", "/v1/stream/p/x", nil, header{requestHeaders: strings.Repeat("x", 4097)})
	if h := w.Header().Get("Access-Control-Allow-Headers"); h != allowedHeaders {
		t.Errorf("%d bytes", len(h))
	}
	for path, status := range map[string]int{"/v1/stream/none": 404, "/v1/stream/__ds/x": 501, "/elsewhere": 404, "/v1/stream/a//b": 400} {
		h := ask(t, s.srv, "GET", path, nil, header{"Origin": "https://app.example"})
		if h.Code != status || h.Header().Get("Access-Control-Allow-Origin") != "*" || h.Header().Get("X-Content-Type-Options") != "nosniff" ||
			h.Header().Get("Cross-Origin-Resource-Policy") != "cross-origin" || !list(h.Header(), "Access-Control-Expose-Headers")["retry-after"] {
			t.Errorf("%s: %d %v", path, h.Code, h.Header())
		}
	}
}

// An offset of a stream that the store has lost, with all its streams, is gone once the
// stream is made again: it names nothing of the new one.
func TestOffsetOfAWipedStore(t *testing.T) {
	s := newSite(t, Config{})
	at := s.put("/v1/stream/x", "before", text).Header.Get(hNextOffset)
	s.log.Wipe()
	later := func() time.Time { return time.Now().Add(time.Second) }
	host := shard.NewManager(s.log, shard.NewTailBuffers(0, 0), shard.Config{Now: later})
	defer func() { _ = host.Close() }()
	srv := New(Config{LongPoll: time.Millisecond}, host) // a node that knows nothing of it
	if w := ask(t, srv, "PUT", "/v1/stream/x", strings.NewReader("after, and longer"), text); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	for _, live := range []string{"", "&live=long-poll", "&live=sse"} {
		refused(t, ask(t, srv, "GET", "/v1/stream/x?offset="+at+live, nil, nil), 410, "offset-gone")
	}
	if w := ask(t, srv, "GET", "/v1/stream/x", nil, nil); w.Body.String() != "after, and longer" {
		t.Errorf("%q", w.Body)
	}
}
