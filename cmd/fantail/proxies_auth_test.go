package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startBehind starts a program that serves at an address, and ends it with the test.
func startBehind(t *testing.T, address string, env []string, command ...string) {
	t.Helper()
	var log transcript
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	eventually(t, 30*time.Second, command[0]+" listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// lockedFile writes a file of rights in which each user of an issuer may do all to the streams below
// users/NAME. Everything in lobby/** is public, and caches may keep it for a second.
func lockedFile(t *testing.T, project, more string) string {
	t.Helper()
	dir := t.TempDir()
	secret, path := filepath.Join(dir, "secret"), filepath.Join(dir, "rights.yaml")
	file := fmt.Sprintf(`
issuers:
  - iss: app
    keys: { secret: %s }
    audience: [fantail]
    projects: [%[2]s]
    grants:
      - { actions: ["*"], streams: ["users/{sub}/**"] }
      - { when: { sub: [owner] }, actions: ["*"], streams: ["**"] }
%s
projects:
  %[2]s: { public_age: 1s, origins: [https://app.example], public: [ { actions: [read], streams: ["lobby/**"] } ] }
revocations: { project: %[2]s }
`, secret, project, more)
	for name, content := range map[string]string{secret: issuerSecret, path: file} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// caches are the caches in front of a locked node, as they come and set up as badly as people do.
var caches = map[string]func(t *testing.T, front, node string){
	"varnish": func(t *testing.T, front, node string) { startVarnish(t, front, node, "") },
	"varnish that caches everybody's requests": func(t *testing.T, front, node string) {
		startVarnish(t, front, node, "sub vcl_recv { if (req.method == \"GET\") { return (hash); } }\n")
	},
	"nginx with a poor key": func(t *testing.T, front, node string) {
		dir := t.TempDir()
		user := "" // nginx gives its workers another than root, and that one may not write to the test's folder
		if os.Getuid() == 0 {
			user = "user root;"
		}
		config := user + fmt.Sprintf(`
error_log %[1]s/error.log;
pid %[1]s/pid;
events {}
http {
  access_log off;
  proxy_cache_path %[1]s/cache keys_zone=all:1m;
  server {
    listen %[2]s;
    location / {
      proxy_pass http://%[3]s;
      proxy_cache all;
      proxy_cache_key $uri$is_args$args;
      proxy_cache_methods GET HEAD;
      proxy_ignore_headers Vary;
    }
  }
}
`, dir, front, node)
		path := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		startBehind(t, front, nil, "nginx", "-c", path, "-g", "daemon off;")
	},
	"ten lines that ignore Vary": startPoorCache,
}

func startVarnish(t *testing.T, front, node, more string) {
	t.Helper()
	dir := t.TempDir()
	host, port, err := net.SplitHostPort(node)
	if err != nil {
		t.Fatal(err)
	}
	vcl := filepath.Join(dir, "default.vcl")
	text := fmt.Sprintf("vcl 4.1;\nbackend default { .host = %q; .port = %q; }\n%s", host, port, more)
	if err := os.WriteFile(vcl, []byte(text), 0o644); err != nil { //nolint:gosec // varnish reads it as another user
		t.Fatal(err)
	}
	startBehind(t, front, nil, "varnishd", "-F", "-j", "none", "-a", front, "-f", vcl, "-n", filepath.Join(dir, "work"), "-s", "malloc,16m")
}

// startPoorCache keeps what is public by its URL alone, whatever Vary says, for as long as max-age says.
func startPoorCache(t *testing.T, front, node string) {
	t.Helper()
	type entry struct {
		answer
		until time.Time
	}
	var mu sync.Mutex
	kept := map[string]entry{}
	origin := newClient(t)
	l, err := net.Listen("tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		e, ok := kept[r.Method+r.URL.String()]
		mu.Unlock()
		if !ok || time.Now().After(e.until) {
			body, _ := io.ReadAll(r.Body)
			var fields []string
			for name, values := range r.Header {
				fields = append(fields, name, values[0])
			}
			a, err := origin.do(r.Context(), r.Method, "http://"+node+r.URL.String(), string(body), fields...)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			e = entry{answer: a}
			var age int
			control := a.header.Get("Cache-Control")
			if _, err := fmt.Sscanf(control, "public, max-age=%d", &age); err == nil && r.Method == http.MethodGet {
				mu.Lock()
				e.until = time.Now().Add(time.Duration(age) * time.Second)
				kept[r.Method+r.URL.String()] = e
				mu.Unlock()
			}
		}
		for name, values := range e.header {
			w.Header()[name] = values
		}
		w.WriteHeader(e.status)
		_, _ = w.Write(e.body)
	}))
	_ = s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
}

// Through no cache does a client see what the node itself would refuse it: not another user, not a client
// without a credential, not a user whose token has expired or was revoked. What is public is kept for its time, and gone after that once
// it is withdrawn.
func TestCachesShowNobodyWhatTheyMayNotSee(t *testing.T) {
	if os.Getenv("TEST_PROXIES") == "" {
		t.Skip("TEST_PROXIES is not set: it wants nginx and Varnish")
	}
	for name, start := range caches {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newSettingsFleet(t, 0, 0)
			path := lockedFile(t, f.run, "")
			f.nodes = append(f.nodes, f.start(0, "--auth="+path))
			f.awaitReady()
			front := freePorts(t, 1)[0]
			start(t, front, f.nodes[0].addr("http"))
			checkCache(t, f, path, "http://"+front+"/v1/stream/"+f.run+"/")
		})
	}
}

func checkCache(t *testing.T, f *settingsFleet, path, front string) {
	t.Helper()
	alice, bob, owner := bearerOf(t, "alice"), bearerOf(t, "bob"), bearerOf(t, "owner")
	for _, stream := range []string{"users/alice/a", "users/bob/a", "lobby/l"} {
		f.c.must(t, 201, "PUT", f.url(0, stream), "of "+stream, owner...)
	}
	get := func(stream string, header ...string) answer {
		t.Helper()
		a, err := f.c.do(t.Context(), "GET", front+stream, "", header...)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	want := func(what string, a answer, status int) {
		t.Helper()
		if a.status != status || status != 200 && bytes.Contains(a.body, []byte("of users")) {
			t.Errorf("%s: %d %s, want %d", what, a.status, a.body, status)
		}
	}
	leaving := tokenOfIssuer(t, map[string]any{"sub": "alice", "exp": time.Now().Unix() - 26}) // good for four seconds, by the leeway
	ends := time.Now().Add(4 * time.Second)
	tag := ""
	for _, query := range []string{"", "?offset=-1", "?offset=-1&live=long-poll", "?offset=now"} { // in this order twice: what was kept would show
		for range 2 {
			want("nobody, before", get("users/alice/a"+query), 401)
			a := get("users/alice/a"+query, alice...)
			want("alice", a, 200)
			if tag == "" {
				tag = a.header.Get("ETag")
			}
			want("bob", get("users/alice/a"+query, bob...), 403)
			want("nobody", get("users/alice/a"+query), 401)
			want("nobody, with alice's tag", get("users/alice/a"+query, "If-None-Match", tag), 401)
			want("a token that fails", get("users/alice/a"+query, "Authorization", alice[1]+"x"), 401)
			want("a cookie that fails", get("users/alice/a"+query, "Cookie", "__Host-fantail-"+f.run+"=x"), 401)
		}
	}
	cookie := "__Host-fantail-" + f.run + "=" + strings.TrimPrefix(alice[1], "Bearer ")
	want("alice by cookie", get("users/alice/a?offset=-1", "Cookie", cookie, "Sec-Fetch-Site", "same-origin"), 200)
	want("nobody, after the cookie", get("users/alice/a?offset=-1"), 401)
	want("bob's own", get("users/bob/a", bob...), 200)
	want("alice, before her token ends", get("users/alice/a?offset=-1", leaving...), 200)
	pause(t.Context(), time.Until(ends.Add(time.Second)))
	want("alice, after her token has ended", get("users/alice/a?offset=-1", leaving...), 401)
	// What is public, and then is not.
	for range 2 {
		want("nobody in the lobby", get("lobby/l"), 200)
		want("a page in the lobby", get("lobby/l", "Origin", "https://app.example"), 200)
		if a := get("lobby/l", "Origin", "https://evil.example"); a.header.Get("Access-Control-Allow-Origin") == "https://evil.example" || a.header.Get("Access-Control-Allow-Origin") == "*" {
			t.Errorf("a page that is not listed may read: %v", a.header)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte("lobby/**"), []byte("other/**"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the node lets nobody into the lobby", func() bool {
		a, err := f.c.do(t.Context(), "GET", f.url(0, "lobby/l"), "")
		return err == nil && a.status == 401
	})
	pause(t.Context(), 2500*time.Millisecond) // public_age is a second; caches count in whole seconds
	want("nobody in the lobby, when it is no longer public", get("lobby/l"), 401)
	want("the owner in the lobby", get("lobby/l", owner...), 200)
	want("nobody after the owner", get("lobby/l"), 401)
	// A revocation.
	want("alice, before she is revoked", get("users/alice/a", alice...), 200)
	f.c.must(t, 200, "POST", "http://"+f.nodes[0].addr("admin")+"/admin/revoke", `{"issuer":"app","sub":"alice"}`)
	pause(t.Context(), 2*time.Second)
	for range 2 {
		want("alice, revoked", get("users/alice/a", alice...), 401)
		want("alice, revoked, with her tag", get("users/alice/a", append(alice, "If-None-Match", tag)...), 401)
	}
}

// nginx asks the application for the user of a request, and passes its token on (the two lines of the recipe): a
// client's own Authorization and X-Fantail-Token count for nothing, and an open stream ends with the token.
func TestNginxAuthRequest(t *testing.T) {
	if os.Getenv("TEST_PROXIES") == "" {
		t.Skip("TEST_PROXIES is not set: it wants nginx")
	}
	ps := startProcesses(t, 0)
	path := lockedFile(t, ps.run, "")
	httpPort, adminPort := portOf(t, freePorts(t, 1)[0]), portOf(t, freePorts(t, 1)[0])
	host := "127.0.0.40"
	ps.nodes = append(ps.nodes, ps.spawn(t, 0, "--http="+host+":"+httpPort, "--admin="+host+":"+adminPort, "--auth="+path))
	ps.awaitOwners(t)
	ends := time.Now().Add(time.Hour)
	var mu sync.Mutex
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie("session")
		if err != nil || r.URL.Path != "/login-check" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mu.Lock()
		token := tokenOfIssuer(t, map[string]any{"sub": c.Value, "exp": ends.Unix()})
		mu.Unlock()
		w.Header().Set("X-Fantail-Token", strings.TrimPrefix(token[1], "Bearer "))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(application.Close)
	p := proxies[0]
	p.recipe = "nginx-auth-request.conf"
	p.replace = []string{"application:8080", strings.TrimPrefix(application.URL, "http://")}
	front := p.start(t, []string{host, host, host}, httpPort, adminPort)
	room := front.url + ps.run + "/users/alice/a"
	asAlice, asBob := []string{"Cookie", "session=alice", "Content-Type", "text/plain"}, []string{"Cookie", "session=bob", "Content-Type", "text/plain"}
	for _, major := range []int{1, 2} {
		c := proxyClient(t, major)
		status := map[int]int{1: 201, 2: 200}[major]
		c.must(t, status, "PUT", room, "", asAlice...)
		c.must(t, 200, "GET", room, "", asAlice...)
		c.must(t, 403, "GET", room, "", asBob...)
		c.must(t, 401, "GET", room, "")
		alice := bearerOf(t, "alice")[1]
		c.must(t, 403, "GET", room, "", append(asBob, "Authorization", alice, "X-Fantail-Token", strings.TrimPrefix(alice, "Bearer "))...)
		c.must(t, 401, "GET", room, "", "Authorization", alice)
		for _, spelling := range []string{"users/%61lice/a", "users/alice/%61", "users/bob/../alice/a", "users//alice/a", "users/alice%2Fa"} {
			a, err := c.do(t.Context(), "GET", front.url+ps.run+"/"+spelling, "", asBob...)
			if err != nil || a.status == 200 {
				t.Errorf("HTTP/%d: bob by %s: %d (%v)", major, spelling, a.status, err)
			}
		}
	}
	mu.Lock()
	ends = time.Now().Add(-26 * time.Second) // and the leeway: four seconds, and five of spread
	mu.Unlock()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, room+"?live=sse&offset=now", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Cookie", "session=alice")
	began := time.Now()
	resp, err := proxyClient(t, 1).http.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	_, err = io.ReadAll(resp.Body)
	if took := time.Since(began); err != nil || took < 3*time.Second || took > 12*time.Second {
		t.Errorf("a stream ended after %v (%v)", took, err)
	}
}

// oauth2Proxy is the version of oauth2-proxy that is tried.
const oauth2Proxy = "github.com/oauth2-proxy/oauth2-proxy/v7@v7.15.6"

// oauth2-proxy logs people in at an identity provider and passes their access token on in a header, which
// one issuer of the file names. What a client puts into that header by itself does not reach a node, and
// at a node it must be the issuer's.
func TestOAuth2Proxy(t *testing.T) {
	if os.Getenv("TEST_PROXIES") == "" {
		t.Skip("TEST_PROXIES is not set: it builds oauth2-proxy")
	}
	program := os.Getenv("OAUTH2_PROXY")
	if program == "" {
		dir := t.TempDir()
		install := exec.Command("go", "install", oauth2Proxy)
		install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		program = filepath.Join(dir, "oauth2-proxy")
	}
	f := newSettingsFleet(t, 0, 0)
	provider := newProvider(t)
	path := lockedFile(t, f.run, fmt.Sprintf(`
  - iss: %[1]s
    keys: { jwks: %[1]s/keys }
    algs: [ES256]
    header: X-Forwarded-Access-Token
    audience: [fantail]
    projects: [%[2]s]
    grants: [ { actions: ["*"], streams: ["people/{sub}/**"] } ]
`, provider.URL, f.run))
	f.nodes = append(f.nodes, f.start(0, "--auth="+path))
	f.awaitReady()
	front := freePorts(t, 1)[0]
	random := make([]byte, 32)
	_, _ = rand.Read(random)
	startBehind(t, front, nil, program, "--provider=oidc", "--oidc-issuer-url="+provider.URL, "--client-id=proxy", "--client-secret=secret",
		"--cookie-secret="+base64.URLEncoding.EncodeToString(random), "--cookie-secure=false", "--email-domain=*", "--skip-provider-button",
		"--http-address="+front, "--redirect-url=http://"+front+"/oauth2/callback", "--upstream=http://"+f.nodes[0].addr("http")+"/",
		"--pass-access-token", "--flush-interval=10ms", "--insecure-oidc-allow-unverified-email")
	room := "http://" + front + "/v1/stream/" + f.run + "/people/alice/a"
	login := func(who string) *client {
		t.Helper()
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t)
		c.http.Jar = jar
		provider.loginAs(who)
		if a, err := c.do(t.Context(), "GET", "http://"+front+"/oauth2/start?rd=/oauth2/userinfo", ""); err != nil || a.status != 200 {
			t.Fatalf("%s does not log in: %d %s (%v)", who, a.status, a.body, err)
		}
		return c
	}
	alice, bob := login("alice"), login("bob")
	alice.must(t, 201, "PUT", room, "one", "Content-Type", "text/plain")
	if a := alice.must(t, 200, "GET", room, ""); string(a.body) != "one" {
		t.Errorf("%s", a.body)
	}
	bob.must(t, 403, "GET", room, "")
	stolen := provider.tokenFor("alice")
	bob.must(t, 403, "GET", room, "", "X-Forwarded-Access-Token", stolen)
	// At the node itself the field is no reason to believe: a token must be the issuer's, and in that field.
	direct := f.url(0, "people/alice/a")
	f.c.must(t, 401, "GET", direct, "", "X-Forwarded-Access-Token", bearerOf(t, "alice")[1])
	f.c.must(t, 401, "GET", direct, "", "X-Forwarded-User", "alice", "X-Forwarded-Email", "alice@example.org")
	f.c.must(t, 401, "GET", direct, "", "Authorization", "Bearer "+stolen)
	f.c.must(t, 200, "GET", direct, "", "X-Forwarded-Access-Token", stolen)
	stranger := newClient(t)
	stranger.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if a, err := stranger.do(t.Context(), "GET", room, "", "X-Forwarded-Access-Token", stolen); err != nil || a.status == 200 {
		t.Errorf("a stranger: %d (%v)", a.status, err)
	}
	// Events pass immediately.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, room+"?live=sse&offset=now", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := alice.http.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	alice.must(t, 204, "POST", room, "live", "Content-Type", "text/plain")
	var all strings.Builder
	for b := make([]byte, 4<<10); !strings.Contains(all.String(), "data:live"); {
		n, err := resp.Body.Read(b)
		if err != nil {
			t.Fatalf("%v after %q", err, all.String())
		}
		all.Write(b[:n])
	}
}

// provider is an identity provider with OpenID Connect, whose user the test names.
type provider struct {
	*httptest.Server
	t   *testing.T
	key signer

	mu   sync.Mutex
	user string
}

func newProvider(t *testing.T) *provider {
	p := &provider{t: t, key: newSigner(t, "k1")}
	mux := http.NewServeMux()
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("GET /keys", keySet(p.key))
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		user := p.user
		p.mu.Unlock()
		q := r.URL.Query()
		code := url.Values{"user": {user}, "nonce": {q.Get("nonce")}}.Encode() // this provider keeps nothing
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		code, err := url.ParseQuery(r.PostFormValue("code"))
		if err != nil || code.Get("user") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		id := map[string]any{"sub": code.Get("user"), "aud": "proxy", "email": code.Get("user") + "@example.org"}
		if nonce := code.Get("nonce"); nonce != "" {
			id["nonce"] = nonce
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": p.tokenFor(code.Get("user")), "token_type": "Bearer", "expires_in": 3600,
			"id_token": strings.TrimPrefix(p.key.bearer(t, p.URL, id)[1], "Bearer "),
		})
	})
	return p
}

func (p *provider) loginAs(user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.user = user
}

// tokenFor returns an access token for a user.
func (p *provider) tokenFor(user string) string {
	return strings.TrimPrefix(p.key.bearer(p.t, p.URL, map[string]any{"sub": user})[1], "Bearer ")
}
