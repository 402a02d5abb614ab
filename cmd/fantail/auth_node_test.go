package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// A fleet changes its secret: a revocation by a node that began with the new one reaches nodes that began
// with the old one, also if it comes before they have read the secrets again.
func TestRevocationAfterTheSecretIsChanged(t *testing.T) {
	t.Parallel()
	const old, new = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
	f := newSettingsFleet(t, 0, 0)
	path, admin := rightsOf(t, f.run)
	dir := t.TempDir()
	file := func(i int) string { return filepath.Join(dir, fmt.Sprint("secret-", i)) }
	write := func(secrets ...string) {
		for i := range 3 {
			if err := os.WriteFile(file(i), []byte(strings.Join(secrets, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	start := func(i int) *process {
		return f.start(i, "--auth="+path, "--secret-file="+file(i))
	}
	write(old)
	for i := range 3 {
		f.nodes = append(f.nodes, start(i))
	}
	f.awaitReady()
	ada, bob := bearerOf(t, "ada"), bearerOf(t, "bob")
	f.c.must(t, 201, "PUT", f.url(0, "rooms/a"), "one", ada...)
	write(old, new)
	eventually(t, 30*time.Second, "the nodes accept the new secret", func() bool {
		for _, p := range f.nodes {
			if !strings.Contains(p.log.String(), `"secrets renewed"`) {
				return false
			}
		}
		return true
	})
	write(new, old)
	if err := f.nodes[2].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	f.nodes[2] = start(2)
	f.awaitReady()
	revoke := func(subject string, within time.Duration) {
		t.Helper()
		f.c.must(t, 200, "POST", "http://"+f.nodes[2].addr("admin")+"/admin/revoke", fmt.Sprintf(`{"issuer":"app","sub":%q}`, subject), "Authorization", "Bearer "+admin)
		began := time.Now()
		for i := range f.nodes {
			eventually(t, within-time.Since(began), fmt.Sprint("node ", i, " knows that ", subject, " is revoked"), func() bool {
				a, err := f.c.do(t.Context(), "GET", f.url(i, "rooms/a"), "", bearerOf(t, subject)...)
				return err == nil && a.status == 401 && strings.Contains(string(a.body), `"revoked"`)
			})
		}
	}
	revoke("ada", reloadSecretsEvery+5*time.Second) // some have not read the new secret yet, and read the stream again
	revoke("bob", 2*time.Second)
	f.c.must(t, 401, "GET", f.url(0, "rooms/a"), "", ada...)
	f.c.must(t, 401, "GET", f.url(1, "rooms/a"), "", bob...)
	f.c.must(t, 200, "GET", f.url(1, "rooms/a"), "", bearerOf(t, "eve")...)
}

// Messages that the fleet has not made cost a line a minute, and are counted; good ones among them count.
func TestForgedRevocationsDoNotFillTheLog(t *testing.T) {
	path, _ := rightsOf(t, "acme")
	synctest.Test(t, func(t *testing.T) {
		own, later := access.RevocationKey([]byte("own")), access.RevocationKey([]byte("later"))
		open := func(key []byte) *access.Judge {
			judge, err := access.Open(t.Context(), access.Config{Path: path, RevocationKeys: [][]byte{key}})
			if err != nil {
				t.Fatal(err)
			}
			return judge
		}
		judge, rotated := open(own), open(later)
		defer judge.Close()
		defer rotated.Close()
		manager := shard.NewManager(logtest.NewMemory(1), shard.NewTailBuffers(0, 0), shard.Config{})
		defer func() { _ = manager.Close() }()
		var log transcript
		f := newRevocationFeed(manager, judge.Revocations(), "acme", slog.New(slog.NewTextHandler(&log, nil)))
		reg := prometheus.NewRegistry()
		f.register(reg)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { f.run(ctx) })
		synctest.Wait()
		good, err := judge.Revocations().Entry(access.RevokeRequest{Issuer: "app", Subject: "ada"})
		early, earlyErr := rotated.Revocations().Entry(access.RevokeRequest{Issuer: "app", Subject: "bob"})
		if err := errors.Join(err, earlyErr); err != nil {
			t.Fatal(err)
		}
		const forged = 1000
		for i := range forged {
			time.Sleep(200 * time.Millisecond) //nolint:forbidigo // a bubble's time
			message := []byte(fmt.Sprintf(`{"v":1,"sub":"%d","mac":""}`, i))
			switch i {
			case forged / 2:
				message = good
			case forged / 3:
				message = early // of a secret that this node does not know yet
			}
			if _, err := f.sendRequest(ctx, shard.Request{Op: shard.OpAppend, Messages: shard.NewMessages(message)}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "revocations are ignored"); n < 2 || n > 5 {
			t.Errorf("%d lines in 200 s", n)
		}
		want := fmt.Sprintf("# HELP fantail_revocations_ignored_total Messages in the stream of revocations that this node has ignored: they were not made with a secret of the fleet, or too many hold.\n# TYPE fantail_revocations_ignored_total counter\nfantail_revocations_ignored_total %d\n", forged-1)
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "fantail_revocations_ignored_total"); err != nil {
			t.Error(err)
		}
		if n := len(judge.Revocations().List()); n != 1 {
			t.Errorf("%d hold", n)
		}
		if !judge.Revocations().SetKeys([][]byte{later, own}) {
			t.Error("the keys are not others")
		}
		f.readAgain()
		synctest.Wait()
		if n := len(judge.Revocations().List()); n != 2 || !f.isCaughtUp() {
			t.Errorf("%d hold after the stream was read again with the new secret", n)
		}
		stop()
		running.Wait()
	})
}

// Nothing of a credential leaves a node but in the answer that begins a session. A locked node is given
// tokens, cookies, signed URLs and operators' tokens with marks in them, good and bad. No log line (of
// debug, and of requests), no metric, no error and no profile has one of the marks.
func TestSecretsStayInTheNode(t *testing.T) {
	t.Parallel()
	const mark = "zzMARKzz"
	f := newSettingsFleet(t, 0, 0)
	path, admin := rightsOf(t, f.run)
	urls := filepath.Join(t.TempDir(), "urls")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := strings.Replace(string(b), "public: [", "sign: [ { kid: k1, secret: "+urls+" } ], origins: [ https://app.example ], public: [", 1)
	secret := strings.Repeat(mark, 5)
	if err := errors.Join(os.WriteFile(path, []byte(file), 0o600), os.WriteFile(urls, []byte(secret), 0o600)); err != nil {
		t.Fatal(err)
	}
	f.nodes = append(f.nodes, f.start(0, "--auth="+path, "--log-level=debug", "--access-log", "--admin-pprof"))
	f.awaitReady()
	node := f.nodes[0]
	good := tokenOfIssuer(t, map[string]any{"sub": "ada", "secret": mark})
	marks := []string{mark, base64.RawURLEncoding.EncodeToString([]byte(mark + mark)), admin}
	for _, token := range []string{good[1], bearerOf(t, "ada")[1]} {
		parts := strings.Split(token, ".")
		marks = append(marks, parts[1], parts[2])
	}
	sign := func(stream string, exp int64) string {
		m := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(m, "fantail-url-v1\nread\n%s/%s\n%d", f.run, stream, exp)
		sum := base64.RawURLEncoding.EncodeToString(m.Sum(nil))
		marks = append(marks, sum)
		return fmt.Sprintf("?x-exp=%d&x-kid=k1&x-sig=%s", exp, sum)
	}
	var seen strings.Builder // all that came out, but for sessions
	ask := func(status int, method, url, body string, header ...string) {
		t.Helper()
		a, err := f.c.do(t.Context(), method, url, body, header...)
		if err != nil || a.status != status {
			t.Errorf("%s %s: %d %s (%v), want %d", method, url, a.status, a.body, err, status)
		}
		_ = a.header.Write(&seen)
		seen.Write(a.body)
	}
	until := time.Now().Add(time.Hour).Unix()
	room := f.url(0, "rooms/a")
	ask(201, "PUT", room, "one", good...)
	ask(204, "POST", room, "two", good...)
	for _, header := range [][]string{
		{"Authorization", "Bearer " + mark},
		{"Authorization", "Basic " + mark},
		{"Authorization", mark},
		{"Authorization", good[1] + mark},
		{"Authorization", "Bearer " + strings.Repeat(mark, 2000)},
		{"Authorization", good[1] + ", " + good[1]},
		{"Cookie", "__Host-fantail-" + f.run + "=" + mark},
		{"Cookie", "__Host-fantail-" + f.run + "=" + strings.TrimPrefix(good[1], "Bearer ") + mark},
	} {
		header = append(header, "Referer", "https://app.example/?token="+mark)
		ask(401, "GET", room, "", header...)
		ask(401, "GET", room+"?live=sse&offset=-1", "", header...)
	}
	ask(200, "GET", room+sign("rooms/a", until), "")
	ask(401, "GET", room+sign("rooms/b", until), "")
	ask(401, "GET", room+sign("rooms/a", time.Now().Unix()-60), "")
	ask(401, "GET", room+"?x-exp=1&x-kid="+mark+"&x-sig="+mark, "")
	ask(400, "GET", room+sign("rooms/a", until), "", good...)
	ask(403, "GET", f.url(0, "secret"), "", good...)
	ask(401, "GET", room+"?access_token="+mark+"&token="+mark, "", "Authorization", "Bearer "+mark)
	ask(400, "GET", room+"?offset="+mark+"%zz", "", good...)
	session, err := f.c.do(t.Context(), "POST", "http://"+node.addr("http")+"/v1/stream/"+f.run+"/__ds/session", "", append(good, "Origin", "https://app.example")...)
	if err != nil || session.status != 204 {
		t.Fatalf("%d %s (%v)", session.status, session.body, err)
	}
	cookie, _, _ := strings.Cut(session.header.Get("Set-Cookie"), ";")
	ask(200, "GET", room, "", "Cookie", cookie)
	ask(401, "POST", room, "x", "Cookie", cookie, "Content-Type", "text/plain")
	ops := []string{"Authorization", "Bearer " + admin}
	adminURL := "http://" + node.addr("admin")
	ask(401, "GET", adminURL+"/metrics", "", "Authorization", "Bearer fta_"+mark)
	ask(401, "GET", adminURL+"/metrics", "", "Cookie", access.AdminCookie+"="+mark)
	ask(400, "POST", adminURL+"/admin/revoke", `{"token":"`+mark+`"}`, ops...)
	ask(400, "POST", adminURL+"/admin/revoke", mark, ops...)
	seenMarks := func(what, text string) {
		for _, m := range marks {
			if at := strings.Index(text, m); at >= 0 {
				t.Errorf("%s: %q in %q", what, m, text[max(0, at-80):min(len(text), at+120)])
			}
		}
	}
	_ = os.WriteFile(path, []byte(file+"\nmore: "+mark+"\n"), 0o600) // an error, of which the log tells
	eventually(t, 30*time.Second, "the log tells of an error in the file", func() bool {
		return strings.Contains(node.log.String(), "has an error")
	})
	for _, page := range []string{
		"/metrics", "/readyz", "/admin/revocations", "/admin/drain", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/goroutine?debug=1",
		"/debug/pprof/allocs?debug=1", "/debug/pprof/heap?debug=1", "/debug/pprof/mutex?debug=1", "/debug/pprof/cmdline",
	} {
		a, err := f.c.do(t.Context(), "GET", adminURL+page, "", ops...)
		if err != nil || a.status >= 500 {
			t.Errorf("%s: %d (%v)", page, a.status, err)
		}
		seenMarks(page, string(a.body))
	}
	// A client's own value may come back to it in an error that quotes it: only what a credential is made of must not.
	seenMarks("answers", strings.ReplaceAll(seen.String(), "token=", ""))
	seenMarks("the log", node.log.String())
	if !strings.Contains(node.log.String(), `"msg":"request"`) || !strings.Contains(seen.String(), `"reason"`) {
		t.Error("there is no log of requests, or no answer: the test looks at nothing")
	}
}

// keyServer is an issuer's key server in the hands of a test: what it answers at a path is a function.
type keyServer struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]http.HandlerFunc
}

func newKeyServer(t *testing.T) *keyServer {
	k := &keyServer{answers: map[string]http.HandlerFunc{}}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		answer := k.answers[r.URL.Path]
		k.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(func() {
		k.CloseClientConnections()
		k.Close()
	})
	return k
}

func (k *keyServer) set(path string, answer http.HandlerFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answers["/"+path] = answer
}

// signer is a key pair of an issuer.
type signer struct {
	kid string
	key *ecdsa.PrivateKey
}

func newSigner(t *testing.T, kid string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, key}
}

// keySet answers with the public keys of signers.
func keySet(signers ...signer) http.HandlerFunc {
	keys := []map[string]any{}
	for _, s := range signers {
		point, _ := s.key.PublicKey.Bytes()
		keys = append(keys, map[string]any{
			"kty": "EC", "crv": "P-256", "kid": s.kid, "use": "sig",
			"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
		})
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	}
}

// bearer returns the fields of a request with a token of an issuer.
func (s signer) bearer(t *testing.T, issuer string, more map[string]any) []string {
	t.Helper()
	claims := map[string]any{"iss": issuer, "sub": "ada", "aud": "fantail", "iat": time.Now().Unix() - 1, "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(claims, more)
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	header := fmt.Sprintf(`{"alg":"ES256","kid":%q}`, s.kid)
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(b)
	sum := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
	return []string{"Authorization", "Bearer " + signed + "." + base64.RawURLEncoding.EncodeToString(sig), "Content-Type", "text/plain"}
}

// A key server that hangs, trickles, lies, flips and rotates ends no reader and refuses no good token for
// good; a storm of strangers' tokens meanwhile is refused and costs the others nothing, and 20,000
// requests with one token cost one verification.
func TestNodeWithAHostileKeyServer(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	server := newKeyServer(t)
	first, next := newSigner(t, "first"), newSigner(t, "next")
	lies := map[string]http.HandlerFunc{
		"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"trickles": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				pause(r.Context(), 100*time.Millisecond)
			}
		},
		"html":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>maintenance</html>")) },
		"error": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"error":"server_error"}`)) },
		"empty": keySet(),
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[` + strings.Repeat(" ", 2<<20)))
		},
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.2:1/", http.StatusFound)
		},
		"down":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"flips":   keySet(next), // without the first: withdrawn only if a second set lacks it, too
		"rotates": keySet(first, next),
	}
	var file strings.Builder
	file.WriteString("issuers:\n")
	for name := range lies {
		server.set(name, keySet(first))
		fmt.Fprintf(&file, "  - { iss: %s, keys: { jwks: %q }, algs: [ES256], audience: [fantail], projects: [%s], grants: [ { actions: [read, append, create], streams: [\"%s/**\"] } ] }\n",
			name, server.URL+"/"+name, f.run, name)
	}
	path := filepath.Join(t.TempDir(), "rights.yaml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	f.nodes = append(f.nodes, f.start(0, "--auth="+path))
	f.awaitReady()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var ended atomic.Int32
	var reading sync.WaitGroup
	for name := range lies {
		token := first.bearer(t, name, nil)
		f.c.must(t, 201, "PUT", f.url(0, name+"/a"), "one", token...)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url(0, name+"/a")+"?offset=-1&live=sse", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(token[0], token[1])
		resp, err := f.c.http.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		reading.Go(func() {
			defer resp.Body.Close()
			for b := make([]byte, 4<<10); ; {
				if _, err := resp.Body.Read(b); err != nil {
					if ctx.Err() == nil {
						ended.Add(1)
						t.Errorf("a reader of %s ended: %v", name, err)
					}
					return
				}
			}
		})
	}
	for name, lie := range lies {
		server.set(name, lie)
	}
	junk := stormOfStrangers(ctx, t, f, server.URL)
	for name := range lies {
		f.c.must(t, 204, "POST", f.url(0, name+"/a"), "two", first.bearer(t, name, map[string]any{"sub": "bob"})...)
		a, err := f.c.do(ctx, "POST", f.url(0, name+"/a"), "three", next.bearer(t, name, nil)...) // makes it ask for keys
		switch good := name == "flips" || name == "rotates"; {
		case err != nil:
			t.Fatal(err)
		case good && a.status != 204:
			t.Errorf("%s: the new key's token: %d %s", name, a.status, a.body)
		case !good && (a.status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), `"keys_stale"`)):
			t.Errorf("%s: a key that cannot be fetched: %d %s", name, a.status, a.body)
		}
		f.c.must(t, 204, "POST", f.url(0, name+"/a"), "four", first.bearer(t, name, map[string]any{"sub": "eve"})...)
	}
	junk()
	one := first.bearer(t, "rotates", map[string]any{"sub": "storm"})
	before, _ := f.c.metric(ctx, f.nodes[0].addr("admin"), `fantail_auth_verifications_total{issuer="rotates",result="good"}`)
	manyRequests(ctx, t, 20_000, 64, func(int) error {
		a, err := f.c.do(ctx, "GET", f.url(0, "rotates/a"), "", one...)
		if err == nil && a.status != 200 {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	if after, _ := f.c.metric(ctx, f.nodes[0].addr("admin"), `fantail_auth_verifications_total{issuer="rotates",result="good"}`); after-before != 1 {
		t.Errorf("20,000 requests with one token cost %v verifications", after-before)
	}
	if n := ended.Load(); n > 0 {
		t.Errorf("%d readers ended", n)
	}
	stop()
	reading.Wait()
}

// manyRequests calls do n times, on so many goroutines.
func manyRequests(ctx context.Context, t *testing.T, n, at int, do func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= n && ctx.Err() == nil; i = int(next.Add(1)) {
				if err := do(i); err != nil && ctx.Err() == nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// stormOfStrangers sends 20,000 tokens with plausible claims, half of them with made-up keys, and the rest
// with signatures that are not the key's. The returned function waits for the end. None is taken; those
// that need a key that is not there hear 503 at most.
func stormOfStrangers(ctx context.Context, t *testing.T, f *settingsFleet, _ string) (wait func()) {
	t.Helper()
	stranger := newSigner(t, "first")
	var wg sync.WaitGroup
	wg.Go(func() {
		known := stranger.bearer(t, "rotates", nil)
		manyRequests(ctx, t, 20_000, 8, func(i int) error {
			token := known[1][:len(known[1])-8] + fmt.Sprintf("%08d", i) // another signature each time
			if i%2 == 0 {
				header := base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf(`{"alg":"ES256","kid":"made-up-%d"}`, i)))
				_, rest, _ := strings.Cut(known[1], ".")
				token = "Bearer " + header + "." + rest
			}
			a, err := f.c.do(ctx, "GET", f.url(0, "rotates/a"), "", "Authorization", token)
			if err == nil && a.status != 401 && a.status != 503 {
				err = fmt.Errorf("%d %s", a.status, a.body)
			}
			return err
		})
	})
	return wg.Wait
}

// With a basin for each project, rights are those of the project, and a project without a basin, or
// without a word in the file, is refused before storage is asked.
func TestRightsWithABasinForEachProject(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	path, admin := rightsOf(t, "acme")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := strings.Replace(string(b), "projects: [acme]", "projects: [acme, beta, nowhere]\n    project_claim: project", 1)
	file = strings.Replace(file, "projects:\n  acme:", "projects:\n  beta: { public_age: 1s }\n  nowhere: { public_age: 1s }\n  acme:", 1)
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	f.nodes = append(f.nodes, f.start(0, "--auth="+path, "--s2-basin-map=acme="+settledBasin+";beta="+otherBasin))
	f.awaitReady()
	url := func(project string) string {
		return "http://" + f.nodes[0].addr("http") + "/v1/stream/" + project + "/rooms/a"
	}
	of := func(project string) []string {
		return tokenOfIssuer(t, map[string]any{"sub": "ada", "project": project})
	}
	for _, project := range []string{"acme", "beta"} {
		f.c.must(t, 201, "PUT", url(project), "of "+project, of(project)...)
	}
	for _, project := range []string{"acme", "beta"} {
		other := map[string]string{"acme": "beta", "beta": "acme"}[project]
		if a := f.c.must(t, 200, "GET", url(project), "", of(project)...); string(a.body) != "of "+project {
			t.Errorf("%s: %s", project, a.body)
		}
		f.c.must(t, 403, "GET", url(other), "", of(project)...)
		f.c.must(t, 403, "PUT", url("unknown"), "", of(project)...)
		f.c.must(t, 401, "GET", url(project), "")
	}
	f.c.must(t, 404, "PUT", url("nowhere"), "", of("nowhere")...) // a right, and no basin
	f.c.must(t, 401, "PUT", url("nowhere"), "")
	f.c.must(t, 200, "POST", "http://"+f.nodes[0].addr("admin")+"/admin/revoke", `{"issuer":"app","sub":"ada","project":"beta"}`, "Authorization", "Bearer "+admin)
	eventually(t, 2*time.Second, "it is revoked in one project", func() bool {
		a, err := f.c.do(t.Context(), "GET", url("beta"), "", of("beta")...)
		return err == nil && a.status == 401
	})
	f.c.must(t, 200, "GET", url("acme"), "", of("acme")...)
}

// withBearer adds a token to every request.
type withBearer struct {
	http.RoundTripper
	token string
}

// RoundTrip implements http.RoundTripper.
func (b withBearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", b.token)
	return b.RoundTripper.RoundTrip(r)
}

// A fleet is rolled from open to observing to locked, and one node of it back to open, under readers and
// writers. Each reader gets everything once and in order, and no write is lost. Strangers are refused by
// the nodes that are locked, and by no others.
func TestRollingFromOpenToLocked(t *testing.T) {
	t.Parallel()
	ps := startProcesses(t, 3)
	path, _ := rightsOf(t, ps.run)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, _, _ := strings.Cut(strings.Replace(string(b), "rooms/**", "**", 1), "revocations:") // no admin tokens either
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	ps.client = newClient(t)
	stranger := newClient(t)
	ps.client.http.Transport = withBearer{ps.client.http.Transport, bearerOf(t, "ada")[1]}
	asStranger := func(when string, status int, but int) {
		for i := range ps.nodes {
			if i == but { // it is being started
				continue
			}
			a, err := stranger.do(t.Context(), "HEAD", ps.url(i, "rolling-0"), "")
			if err != nil || a.status != status {
				t.Errorf("%s: a stranger hears %d at node %d (%v), want %d", when, a.status, i, err, status)
			}
		}
	}
	ps.flags = func(step int) []string {
		switch {
		case step < 3:
			return []string{"--auth=" + path, "--auth-observe"}
		case step == 3:
			asStranger("observed", 200, step%3)
			fallthrough
		case step < 6:
			return []string{"--auth=" + path}
		case step == 6:
			asStranger("locked", 401, step%3)
		}
		return []string{"--auth=off"}
	}
	rollNodes(t, ps, "", "", "", "", "", "", "")
	if a, err := stranger.do(t.Context(), "HEAD", ps.url(0, "rolling-0"), ""); err != nil || a.status != 200 {
		t.Errorf("a stranger hears %d at a node that is open on purpose (%v)", a.status, err)
	}
}

// Kubernetes swaps links under a running node: the new rights are in force within a minute, and a token
// of the secret before is good no longer.
func TestNodeFollowsSwappedLinks(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	first, admin := rightsOf(t, f.run)
	dir := t.TempDir()
	version := func(name, pattern string) {
		b, err := os.ReadFile(first)
		if err != nil {
			t.Fatal(err)
		}
		file := strings.Replace(string(b), "rooms/**", pattern, 1)
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o700), os.WriteFile(filepath.Join(dir, name, "rights.yaml"), []byte(file), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Symlink(name, filepath.Join(dir, "..new")), os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", "rooms/**")
	path := filepath.Join(dir, "rights.yaml")
	if err := os.Symlink("..data/rights.yaml", path); err != nil {
		t.Fatal(err)
	}
	f.nodes = append(f.nodes, f.start(0, "--auth="+path))
	f.awaitReady()
	ada := bearerOf(t, "ada")
	f.c.must(t, 201, "PUT", f.url(0, "rooms/a"), "", ada...)
	version("..2", "halls/**")
	eventually(t, time.Minute, "the second version is in force", func() bool {
		a, err := f.c.do(t.Context(), "GET", f.url(0, "rooms/a"), "", ada...)
		return err == nil && a.status == 403
	})
	f.c.must(t, 201, "PUT", f.url(0, "halls/a"), "", ada...)
	f.c.must(t, 200, "GET", "http://"+f.nodes[0].addr("admin")+"/metrics", "", "Authorization", "Bearer "+admin)
}
