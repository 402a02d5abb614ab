package edge

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/shard"
)

const (
	tokenSecret = "the secret of an issuer, longer than 32 bytes"
	urlSecret   = "the secret of signed URLs, longer than 32 bytes"
)

// rightsFile is a file of rights with one issuer and two projects.
func rightsFile(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("rights.yaml", fmt.Sprintf(`
issuers:
  - iss: app
    keys: { secret: %s }
    audience: [fantail]
    projects: [acme, beta]
    project_claim: project
    grants:
      - { actions: [read, append, create], streams: ["rooms/**"] }
      - { when: { role: [owner] }, actions: ["*"], streams: ["**"] }
      - { when: { role: [reader] }, actions: [read], streams: ["**"] }
projects:
  acme:
    public: [ { actions: [read], streams: ["lobby/**"] } ]
    origins: ["https://app.example"]
    sign: [ { kid: k1, secret: %s } ]
  beta: { public_age: 1s }
`, write("secret", tokenSecret), write("urls", urlSecret)))
}

// newJudge returns a Judge by a file.
func newJudge(t testing.TB, file string, cfg access.Config) *access.Judge {
	t.Helper()
	cfg.Path = file
	j, err := access.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

// tokenOf makes a token by the standard library alone.
func tokenOf(t testing.TB, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": "app", "sub": "ada", "aud": "fantail", "project": "acme", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	maps.Copy(all, claims)
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(b)
	m := hmac.New(sha256.New, []byte(tokenSecret))
	m.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func bearer(token string) header { return header{"Authorization": "Bearer " + token} }

// signURL returns the query of a signed URL.
func signURL(stream string, until time.Time) string {
	m := hmac.New(sha256.New, []byte(urlSecret))
	fmt.Fprintf(m, "fantail-url-v1\nread\n%s\n%d", stream, until.Unix())
	return fmt.Sprintf("x-exp=%d&x-kid=k1&x-sig=%s", until.Unix(), base64.RawURLEncoding.EncodeToString(m.Sum(nil)))
}

// untouchedBackend is a Backend that must not be asked about any stream but one.
type untouchedBackend struct {
	Backend
	t  *testing.T
	ok shard.StreamID
}

func (u untouchedBackend) check(id shard.StreamID) {
	if id != u.ok {
		u.t.Errorf("%s was asked for, although the request may not", id)
	}
}

func (u untouchedBackend) Do(ctx context.Context, req *shard.Request) (shard.Outcome, error) {
	u.check(req.Stream)
	return u.Backend.Do(ctx, req)
}

func (u untouchedBackend) Info(ctx context.Context, id shard.StreamID, ask shard.InfoOptions) (shard.Info, error) {
	u.check(id)
	return u.Backend.Info(ctx, id, ask)
}

func (u untouchedBackend) Follow(ctx context.Context, id shard.StreamID, from shard.Pos) (*shard.TailBuffer, func(), error) {
	u.check(id)
	return u.Backend.Follow(ctx, id, from)
}

func (u untouchedBackend) ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos) (shard.RecordBatch, error) {
	u.check(id)
	return u.Backend.ReadPage(ctx, id, info, from)
}

func (u untouchedBackend) FindTime(ctx context.Context, id shard.StreamID, info shard.Info, since shard.Millis) (shard.Pos, error) {
	u.check(id)
	return u.Backend.FindTime(ctx, id, info, since)
}

// refusedCredential is a credential that allows nothing of a secret stream, and what is said of it.
type refusedCredential struct {
	name   string
	header header
	query  string
	status int
	reason access.Reason
	reads  bool // it counts for reads alone; other requests are without a credential
}

func refusedCredentials(t *testing.T) []refusedCredential {
	now := time.Now()
	with := func(claims map[string]any) header { return bearer(tokenOf(t, claims)) }
	good := tokenOf(t, map[string]any{"role": "owner"})
	cut := good[:len(good)-4] + "AAAA"
	return []refusedCredential{
		{name: "none", status: 401, reason: access.ReasonNoCredential},
		{name: "junk", header: bearer("junk"), status: 401, reason: access.ReasonMalformed},
		{name: "empty field", header: header{"Authorization": ""}, status: 401, reason: access.ReasonMalformed},
		{name: "another scheme", header: header{"Authorization": "Basic YTpi"}, status: 401, reason: access.ReasonMalformed},
		{name: "two in one field", header: header{"Authorization": "Bearer " + good + ", Bearer " + good}, status: 401, reason: access.ReasonTwoCredentials},
		{name: "token and signed URL", header: bearer(good), query: signURL("acme/secret", now.Add(time.Minute)), status: 400, reason: access.ReasonTwoCredentials},
		{name: "another signature", header: bearer(cut), status: 401, reason: access.ReasonBadSignature},
		{name: "another issuer", header: with(map[string]any{"iss": "app/"}), status: 401, reason: access.ReasonUnknownIssuer},
		{name: "another audience", header: with(map[string]any{"aud": "shop"}), status: 401, reason: access.ReasonWrongAudience},
		{name: "expired", header: with(map[string]any{"role": "owner", "exp": now.Add(-31 * time.Second).Unix()}), status: 401, reason: access.ReasonExpired},
		{name: "another project", header: with(map[string]any{"role": "owner", "project": "beta"}), status: 403, reason: access.ReasonWrongProject},
		{name: "good, without the right", header: with(nil), status: 403, reason: access.ReasonNotGranted},
		{name: "signed for another stream", query: signURL("acme/secrets", now.Add(time.Minute)), status: 401, reason: access.ReasonBadSignature},
		{name: "signed too long ago", query: signURL("acme/secret", now.Add(-time.Minute)), status: 401, reason: access.ReasonExpired},
		{name: "half a signature", query: "x-exp=1", status: 401, reason: access.ReasonURLMalformed},
		{name: "cookie of another page", header: header{"Cookie": "__Host-fantail-acme=" + good, "Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, status: 403, reason: access.ReasonCrossSite, reads: true},
		{name: "cookie that fails", header: header{"Cookie": "__Host-fantail-acme=junk"}, status: 401, reason: access.ReasonMalformed, reads: true},
	}
}

// refusedRequest is one way to ask for something of a stream.
type refusedRequest struct {
	method, query, body string
	header              header
}

var refusedRequests = map[string]refusedRequest{
	"catch-up":           {method: "GET"},
	"long-poll":          {method: "GET", query: "offset=-1&live=long-poll"},
	"event stream":       {method: "GET", query: "offset=-1&live=sse"},
	"from the end":       {method: "GET", query: "offset=tail-1"},
	"live from the end":  {method: "GET", query: "offset=tail-1&live=sse"},
	"event stream, wait": {method: "GET", query: "offset=-1&live=sse&create=wait"},
	"long-poll, wait":    {method: "GET", query: "offset=-1&live=long-poll&create=wait"},
	"from a time":        {method: "GET", query: "offset=at:2026-01-31T12:00:00Z"},
	"live from a time":   {method: "GET", query: "offset=at:0&live=sse"},
	"head":               {method: "HEAD"},
	"append":             {method: "POST", body: "x", header: text},
	"append if":          {method: "POST", body: "x", header: header{"Content-Type": "text/plain", hIfMatch: "-1"}},
	"append if anything": {method: "POST", body: "x", header: header{"Content-Type": "text/plain", hIfMatch: "*"}},
	"append, malformed":  {method: "POST", body: "x", header: header{"Content-Type": "text/plain", "Producer-Id": "p"}},
	"append by producer": {method: "POST", body: "x", header: header{"Content-Type": "text/plain", "Producer-Id": "p", "Producer-Epoch": "0", "Producer-Seq": "0"}},
	"close":              {method: "POST", header: header{"Stream-Closed": "true"}},
	"create":             {method: "PUT", body: "x", header: text},
	"create, malformed":  {method: "PUT", header: header{"Stream-TTL": "x"}},
	"fork":               {method: "PUT", header: header{"Stream-Forked-From": "/v1/stream/acme/rooms/a"}},
	"delete":             {method: "DELETE"},
}

// send sends a request to a stream and returns the answer with its body.
func (q refusedRequest) send(t *testing.T, client *http.Client, url string, c refusedCredential) (*http.Response, []byte) {
	t.Helper()
	var body io.Reader
	if q.body != "" {
		body = strings.NewReader(q.body)
	}
	query := strings.Trim(q.query+"&"+c.query, "&")
	r, err := http.NewRequestWithContext(t.Context(), q.method, url+"?"+query, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []header{q.header, c.header} {
		for k, v := range h {
			r.Header[http.CanonicalHeaderKey(k)] = []string{v}
		}
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// siteWithRights is a node with a file of rights, which has one stream.
func siteWithRights(t *testing.T, file string) (s *site, clients map[string]*http.Client) {
	t.Helper()
	s = newSite(t, Config{Judge: newJudge(t, file, access.Config{})})
	s.srv.streams = untouchedBackend{s.srv.streams, t, "acme/rooms/a"}
	s.srv.appendConns.MinAppends = 1
	clients = map[string]*http.Client{"HTTP/1.1": http.DefaultClient}
	if !overTLS {
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(tr.CloseIdleConnections)
		clients["HTTP/2"] = &http.Client{Transport: tr}
	}
	owner := bearer(tokenOf(t, map[string]any{"role": "owner"}))
	maps.Copy(owner, text)
	s.put("/v1/stream/acme/rooms/a", "one", owner)
	// A client whose one connection has left net/http.
	tr := &http.Transport{MaxConnsPerHost: 1, TLSClientConfig: trusting, DialContext: (&net.Dialer{}).DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	clients["append connection"] = &http.Client{Transport: tr}
	for range 3 {
		q := refusedRequest{method: "POST", body: "x", header: text}
		if resp, b := q.send(t, clients["append connection"], s.url+"/v1/stream/acme/rooms/a", refusedCredential{header: owner}); resp.StatusCode != 204 {
			t.Fatalf("%d %s", resp.StatusCode, b)
		}
	}
	return s, clients
}

// Nothing about a stream is asked before the request may: no credential that fails reaches what is
// behind, whatever it asks for and however it comes. The answer has the reason, and no answer to a
// producer is 403, which its client takes for a stale epoch.
func TestRefusalsAskNothing(t *testing.T) {
	s, clients := siteWithRights(t, rightsFile(t))
	for over, client := range clients {
		for name, q := range refusedRequests {
			for _, c := range refusedCredentials(t) {
				t.Run(over+"/"+name+"/"+c.name, func(t *testing.T) {
					resp, b := q.send(t, client, s.url+"/v1/stream/acme/secret", c)
					status, reason := c.status, c.reason
					if c.reads && q.method != "GET" && q.method != "HEAD" {
						status, reason = 401, access.ReasonNoCredential
					}
					if c.query != "" && status != 400 && q.method != "GET" && q.method != "HEAD" && reason == access.ReasonNotGranted {
						status = 403
					}
					if status == 403 && q.header["Producer-Id"] != "" {
						status = 401
					}
					var p problem
					if q.method != "HEAD" {
						if err := json.Unmarshal(b, &p); err != nil || p.Reason != string(reason) || p.Status != status || p.Detail == "" {
							t.Errorf("%s (%v), want the reason %s", b, err, reason)
						}
					}
					if resp.StatusCode != status {
						t.Errorf("%d, want %d", resp.StatusCode, status)
					}
					if h := resp.Header; h.Get("Cache-Control") != "no-store" || !slices.Contains(h.Values("Vary"), access.VaryOrigins) {
						t.Errorf("Cache-Control %q, Vary %q", h.Get("Cache-Control"), h.Values("Vary"))
					}
					if status == 401 && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") {
						t.Errorf("WWW-Authenticate %q", resp.Header.Get("WWW-Authenticate"))
					}
				})
			}
		}
	}
}

// A stream of another name has the same verdict however its name is spelled.
func TestSpellingsHaveOneVerdict(t *testing.T) {
	s, _ := siteWithRights(t, rightsFile(t))
	token := bearer(tokenOf(t, nil))
	for path, status := range map[string]int{
		"/v1/stream/acme/rooms/a": 200, "/v1/stream/acme/rooms/%61": 200, "/v1/stream/%61cme/rooms/a": 200,
		"/v1/stream/acme/secret": 403, "/v1/stream/acme/%73ecret": 403, "/v1/stream/acme/rooms%2Fa": 400,
		"/v1/stream/acme/rooms/../secret": 400, "/v1/stream/acme/rooms//a": 400, "/v1/stream/secret": 403,
		"/v1/stream/acme/__ds/streams": 403, "/v1/stream/%61cme/__ds/streams": 403, "/v1/stream/acme/__ds/subscriptions": 501, "/v1/stream/__ds/revocations": 501,
	} {
		t.Run(path, func(t *testing.T) {
			resp, b := refusedRequest{method: "GET"}.send(t, http.DefaultClient, s.url+path, refusedCredential{header: token})
			if resp.StatusCode != status {
				t.Errorf("%s: %d %s, want %d", path, resp.StatusCode, b, status)
			}
		})
	}
}

// What a file of rights allows may be kept by caches for a minute at most, and only by the caller's
// own, unless it is public and no credential came; a 304 is given after the decision.
func TestNoAnswerOutlivesItsRight(t *testing.T) {
	s, _ := siteWithRights(t, rightsFile(t))
	behind, _ := s.srv.streams.(untouchedBackend)
	s.srv.streams = behind.Backend
	owner := bearer(tokenOf(t, map[string]any{"role": "owner"}))
	maps.Copy(owner, text)
	s.put("/v1/stream/acme/lobby/l", strings.Repeat("x", 100), owner)
	s.put("/v1/stream/acme/lobby/big", strings.Repeat("x", 5<<20), owner)
	s.want(s.do("POST", "/v1/stream/acme/lobby/big", "x", owner), 204)
	until := time.Now().Add(30 * time.Second)
	for _, c := range []struct {
		name, path   string
		header       header
		cache, share string
	}{
		{"public, tail", "/lobby/l", nil, publicTail, "cross-origin"},
		{"public, whole chunk", "/lobby/big", nil, "public, max-age=60, " + access.NeverStale, "cross-origin"},
		{"public, with a token", "/lobby/big", owner, "private, no-cache", "same-origin"},
		{"token", "/rooms/a", owner, "private, no-cache", "same-origin"},
		{"signed, whole chunk", "/lobby/big?" + signURL("acme/lobby/big", until), nil, "private, max-age=29", "cross-origin"},
		{"signed, tail", "/rooms/a?" + signURL("acme/rooms/a", until), nil, "private, no-cache", "cross-origin"},
		{"now", "/lobby/l?offset=now", nil, "no-store", "cross-origin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp := s.do("GET", "/v1/stream/acme"+c.path, "", c.header)
			s.want(resp, 200)
			got := resp.Header.Get("Cache-Control")
			if c.name == "signed, whole chunk" && got == "private, max-age=30" {
				got = c.cache
			}
			if h := resp.Header; got != c.cache || h.Get("Cross-Origin-Resource-Policy") != c.share || h.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%v", h)
			}
			if etag := resp.Header.Get("ETag"); etag != "" {
				again := header{"If-None-Match": etag}
				maps.Copy(again, c.header)
				s.want(s.do("GET", "/v1/stream/acme"+c.path, "", again), 304)
			}
			if !slices.Contains(resp.Header.Values("Vary"), access.VaryOrigins) {
				t.Errorf("Vary: %q", resp.Header.Values("Vary"))
			}
		})
	}
	if resp := s.do("GET", "/v1/stream/acme/rooms/a", "", header{"If-None-Match": "*"}); resp.StatusCode != 401 {
		t.Errorf("a 304 without a right: %d", resp.StatusCode)
	}
}

// A page of a listed origin may read with credentials, others may not read at all; a preflight needs
// no credential.
func TestCORSByProject(t *testing.T) {
	s, _ := siteWithRights(t, rightsFile(t))
	open := newSite(t, Config{})
	for _, c := range []struct {
		name            string
		site            *site
		path, origin    string
		allowed, withID string
	}{
		{"listed", s, "/v1/stream/acme/rooms/a", "https://app.example", "https://app.example", "true"},
		{"not listed", s, "/v1/stream/acme/rooms/a", "https://evil.example", "", ""},
		{"project without a list", s, "/v1/stream/beta/x", "https://evil.example", "*", ""},
		{"no file", open, "/v1/stream/acme/rooms/a", "https://evil.example", "*", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, method := range []string{"GET", "OPTIONS"} {
				resp := c.site.do(method, c.path, "", header{"Origin": c.origin, "Access-Control-Request-Headers": "x-trace"})
				h := resp.Header
				if h.Get("Access-Control-Allow-Origin") != c.allowed || h.Get("Access-Control-Allow-Credentials") != c.withID {
					t.Errorf("%s: %v", method, h)
				}
				if method == "OPTIONS" && (resp.StatusCode != 204 || !strings.HasSuffix(h.Get("Access-Control-Allow-Headers"), ", x-trace")) {
					t.Errorf("preflight: %d %v", resp.StatusCode, h)
				}
			}
		})
	}
	quiet := newSite(t, Config{NoCORS: true})
	for name := range quiet.do("OPTIONS", "/v1/stream/x", "", header{"Origin": "https://a.example"}).Header {
		if strings.HasPrefix(name, "Access-Control") || name == "Vary" {
			t.Errorf("%s, although a proxy does it", name)
		}
	}
}

// A long-poll that caches may share is kept for a cursor's interval at most, however long the project
// allows, and where the project allows no time nothing is kept without asking.
func TestPublicAnswersAreKeptForTheirTimeAtMost(t *testing.T) {
	for age, want := range map[string]struct{ poll, chunk, tail string }{
		"60s": {"public, max-age=20, " + access.NeverStale, "public, max-age=60, " + access.NeverStale, publicTail},
		"5s":  {"public, max-age=5, " + access.NeverStale, "public, max-age=5, " + access.NeverStale, publicTail},
		"0s":  {"public, max-age=0, " + access.NeverStale, "public, max-age=0, " + access.NeverStale, "public, max-age=0, " + access.NeverStale},
	} {
		t.Run(age, func(t *testing.T) {
			path := rightsFile(t)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file := strings.Replace(string(b), "  acme:\n", "  acme:\n    public_age: "+age+"\n", 1)
			if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
			s := newSite(t, Config{Judge: newJudge(t, path, access.Config{})})
			owner := bearer(tokenOf(t, map[string]any{"role": "owner"}))
			maps.Copy(owner, text)
			s.put("/v1/stream/acme/lobby/l", "one", owner)
			s.put("/v1/stream/acme/lobby/big", strings.Repeat("x", 5<<20), owner)
			s.want(s.do("POST", "/v1/stream/acme/lobby/big", "x", owner), 204)
			for query, want := range map[string]string{"l?offset=-1&live=long-poll": want.poll, "big": want.chunk, "l": want.tail} {
				resp := s.do("GET", "/v1/stream/acme/lobby/"+query, "", nil)
				s.want(resp, 200)
				if got := resp.Header.Get("Cache-Control"); got != want {
					t.Errorf("%s: %q, want %q", query, got, want)
				}
			}
			until := time.Now().Add(time.Hour)
			resp := s.do("GET", "/v1/stream/acme/lobby/l?offset=-1&live=long-poll&"+signURL("acme/lobby/l", until), "", nil)
			s.want(resp, 200)
			if got := resp.Header.Get("Cache-Control"); got != "private, max-age=20" {
				t.Errorf("a long-poll by a signed URL: %q", got)
			}
		})
	}
}

// A preflight is answered immediately, although it announces a body that does not come.
func TestPreflightDoesNotWaitForABody(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{"open": {}, "with a file": {Judge: newJudge(t, rightsFile(t), access.Config{})}, "without CORS": {NoCORS: true}} {
		for _, fields := range []string{"Content-Length: 10\r\n", "Content-Length: 10000000\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 10\r\nExpect: 100-continue\r\n"} {
			t.Run(name+" "+fields, func(t *testing.T) {
				s := newSite(t, cfg)
				c := s.dial()
				began := time.Now()
				fmt.Fprintf(c, "OPTIONS /v1/stream/acme/rooms/a HTTP/1.1\r\nHost: x\r\nOrigin: https://app.example\r\n%s\r\n", fields)
				_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
				b := make([]byte, 16)
				if _, err := io.ReadFull(c, b); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 204 ") {
					t.Fatalf("%q (%v)", b, err)
				}
				if took := time.Since(began); took > 500*time.Millisecond { // a small body that is waited for would have a second
					t.Errorf("it took %v", took)
				}
			})
		}
	}
}

// While rights are only observed, limits refuse nothing, and what they would refuse is counted: requests,
// bodies, those without announcement too, and readers.
func TestObservedLimitsAreCounted(t *testing.T) {
	path := rightsFile(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := strings.Replace(string(b), "  acme:\n", "  acme:\n    limits: { creates: 1, body: 1KiB, principal: { requests: 5, readers: 1 } }\n", 1)
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	counts := &limitCounter{counts: map[access.Reason]int{}}
	j := newJudge(t, path, access.Config{Observer: counts})
	s := newSite(t, Config{Judge: j, ObserveOnly: true})
	ada := bearer(tokenOf(t, nil))
	maps.Copy(ada, text)
	const stream = "/v1/stream/acme/rooms/a"
	s.put(stream, "one", ada)
	for i := range 6 {
		s.put(fmt.Sprint("/v1/stream/acme/rooms/", i), "", ada)
	}
	s.want(s.do("POST", stream, strings.Repeat("x", 2<<10), ada), 204)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+stream, io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<10))))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range ada {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	s.want(resp, 204)
	began := time.Now()
	for range 20 {
		s.want(s.do("POST", stream, "x", ada), 204)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("appends waited for their turn: %v", took)
	}
	first := s.do("GET", stream+"?offset=now&live=sse", "", ada)
	second := s.do("GET", stream+"?offset=now&live=sse", "", ada)
	s.want(s.do("POST", stream, "news", ada), 204)
	for _, r := range []*http.Response{first, second} {
		s.events(r, 1)
	}
	counts.mu.Lock()
	defer counts.mu.Unlock()
	for reason, least := range map[access.Reason]int{
		access.ReasonLimitCreates: 1, access.ReasonLimitBody: 2, access.ReasonLimitPrincipalRequests: 1, access.ReasonLimitPrincipalReaders: 1,
	} {
		if counts.counts[reason] < least {
			t.Errorf("%s: %d are counted, want %d: %v", reason, counts.counts[reason], least, counts.counts)
		}
	}
	if n := counts.counts[access.ReasonLimitBody]; n != 2 {
		t.Errorf("%d bodies are counted", n)
	}
}

// limitCounter counts what is refused for a limit.
type limitCounter struct {
	mu     sync.Mutex
	counts map[access.Reason]int
}

func (*limitCounter) Denied(access.Reason)           {}
func (*limitCounter) Verified(string, access.Reason) {}
func (*limitCounter) Fetched(string, bool)           {}

func (c *limitCounter) Limited(_ string, limit access.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[limit]++
}

// A page begins a session with its token, reads with the cookie alone, writes nothing with it, and ends it.
func TestSessionOfABrowser(t *testing.T) {
	s, _ := siteWithRights(t, rightsFile(t))
	const session = "/v1/stream/acme/__ds/session"
	s.want(s.do("POST", session, "", nil), 401)
	token := bearer(tokenOf(t, nil))
	token["Origin"] = "https://evil.example"
	s.want(s.do("POST", session, "", token), 403)
	token["Origin"] = "https://app.example"
	resp := s.do("POST", session, "", token)
	s.want(resp, 204)
	if len(resp.Cookies()) != 1 || !resp.Cookies()[0].HttpOnly || resp.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Fatalf("%v", resp.Header)
	}
	cookie := header{"Cookie": resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value, "Sec-Fetch-Site": "same-origin", "Content-Type": "text/plain"}
	s.want(s.do("GET", "/v1/stream/acme/rooms/a", "", cookie), 200)
	s.want(s.do("POST", "/v1/stream/acme/rooms/a", "x", cookie), 401)
	cookie["Sec-Fetch-Dest"] = "document"
	s.want(s.do("GET", "/v1/stream/acme/rooms/a", "", cookie), 403)
	resp = s.do("DELETE", session, "", nil)
	s.want(resp, 204)
	if len(resp.Cookies()) != 1 || resp.Cookies()[0].MaxAge >= 0 {
		t.Errorf("%v", resp.Cookies())
	}
	s.want(s.do("GET", session, "", nil), 405)
	failing := s.do("GET", "/v1/stream/acme/lobby/l", "", header{"Cookie": "__Host-fantail-acme=junk"})
	s.want(failing, 401)
	if len(failing.Cookies()) != 1 || failing.Cookies()[0].MaxAge >= 0 {
		t.Errorf("a cookie that fails stays: %v", failing.Header)
	}
}

// A request that is refused holds nothing while its body does not come, and is never told to send it.
func TestRefusalWithoutItsBody(t *testing.T) {
	if handlers || overTLS {
		t.Skip("one mode is enough: net/http reads the body")
	}
	s, _ := siteWithRights(t, rightsFile(t))
	for _, c := range []struct{ name, fields string }{
		{"small", "Content-Length: 1000\r\n"},
		{"large", "Content-Length: 10000000\r\n"},
		{"unknown", "Transfer-Encoding: chunked\r\n"},
		{"asked for", "Content-Length: 1000\r\nExpect: 100-continue\r\n"},
	} {
		for _, method := range []string{"POST", "PUT", "DELETE", "GET"} {
			t.Run(method+" "+c.name, func(t *testing.T) {
				t.Parallel()
				conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				fmt.Fprintf(conn, "%s /v1/stream/acme/secret HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n%s\r\n", method, c.fields)
				_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second)) // far below what a body may take
				b := make([]byte, 64)
				n, err := io.ReadAtLeast(conn, b, 16)
				if err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 401 ") {
					t.Errorf("%q (%v)", b[:n], err)
				}
			})
		}
	}
}
