package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A web page can neither change anything at the admin address nor read it, neither across origins
// nor under a host name that points there. Probes are served.
func TestAdminAddressRefusesPagesOfOtherOrigins(t *testing.T) {
	passed := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for _, c := range []struct {
		method, path, host string
		header             [2]string
		loopback           bool
		want               int
	}{
		{"POST", "/admin/drain", "127.0.0.1:4447", [2]string{}, true, 200},
		{"POST", "/admin/drain", "fantail-0:4447", [2]string{}, false, 200},
		{"GET", "/metrics", "localhost:4447", [2]string{"Sec-Fetch-Site", "none"}, true, 200},
		{"GET", "/metrics", "[::1]:4447", [2]string{"Sec-Fetch-Site", "same-origin"}, true, 200},
		{"GET", "/metrics", "app.localhost", [2]string{}, true, 200},
		{"POST", "/admin/drain", "127.0.0.1:4447", [2]string{"Origin", "https://evil.example"}, true, 403},
		{"DELETE", "/admin/drain", "fantail-0:4447", [2]string{"Origin", "https://evil.example"}, false, 403},
		{"POST", "/admin/drain", "127.0.0.1:4447", [2]string{"Origin", "null"}, true, 403},
		{"POST", "/admin/drain", "127.0.0.1:4447", [2]string{"Origin", "http://127.0.0.1:8080"}, true, 403},
		{"POST", "/admin/drain", "127.0.0.1:4447", [2]string{"Sec-Fetch-Site", "cross-site"}, true, 403},
		{"POST", "/admin/drain", "127.0.0.1:4447", [2]string{"Sec-Fetch-Site", "same-site"}, true, 403},
		{"GET", "/debug/pprof/profile", "127.0.0.1:4447", [2]string{"Sec-Fetch-Site", "cross-site"}, true, 403},
		{"GET", "/debug/pprof/profile", "fantail-0:4447", [2]string{"Sec-Fetch-Site", "same-site"}, false, 403},
		{"GET", "/debug/pprof/heap", "evil.example", [2]string{}, true, 403},
		{"GET", "/metrics", "evil.example:4447", [2]string{}, true, 403},
		{"GET", "/metrics", "127.0.0.1.evil.example:4447", [2]string{}, true, 403},
		{"GET", "/metrics", "10.0.0.1:4447", [2]string{}, true, 403},
		{"GET", "/metrics", "", [2]string{}, true, 403},
		{"POST", "/livez", "evil.example", [2]string{}, true, 403},
		{"GET", "/livez", "any.example", [2]string{}, true, 200},
		{"GET", "/readyz", "any.example", [2]string{"Sec-Fetch-Site", "cross-site"}, true, 200},
	} {
		t.Run(c.method+" "+c.path+" of "+c.host, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), c.method, c.path, nil)
			if r.Host = c.host; c.header[0] != "" {
				r.Header.Set(c.header[0], c.header[1])
			}
			w := httptest.NewRecorder()
			refuseForeignOrigins(passed, c.loopback).ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("%s %s of %q, %v, loopback %v: %d, want %d", c.method, c.path, c.host, c.header, c.loopback, w.Code, c.want)
			}
		})
	}
}

// With a token set, all requests but those for health need it. A renewed file counts. A broken file
// does not.
func TestAdminAddressAsksForTheToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", "short", " \n", "has a blank inside it", "has\x00control-in-it", strings.Repeat("x", maxTokenFile+1), "schlüssel-schlüssel"} {
		write(bad)
		if _, err := openTokenFile(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: %v, want an error that names the file", bad, err)
		}
	}
	write("0123456789abcdef\n")
	token, err := openTokenFile(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := (&node{cfg: nodeConfig{adminToken: token}}).requireAdmin(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	check := func(path, auth string, want int) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%s with %q: %d, want %d", path, auth, w.Code, want)
		}
		if want == 401 && w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s with %q: no WWW-Authenticate", path, auth)
		}
	}
	check("/livez", "", 200)
	check("/readyz", "", 200)
	check("/", "", 200) // the page asks for the token by itself
	check("/page/app.js", "", 200)
	for _, path := range []string{"/metrics", "/admin/drain", "/debug/pprof/heap", "/livez/", "/admin/fleet", "/admin/node", "/admin/streams", "/admin/owner?stream=a/b", "/pages"} {
		check(path, "", 401)
		check(path, "Bearer 0123456789abcdee", 401)
		check(path, "Bearer ", 401)
		check(path, "Basic 0123456789abcdef", 401)
		check(path, "bearer 0123456789abcdef", 200)
	}
	write("fedcba9876543210")
	check("/metrics", "Bearer 0123456789abcdef", 401)
	check("/metrics", "Bearer fedcba9876543210", 200)
	write("")
	check("/metrics", "Bearer fedcba9876543210", 200)
	check("/metrics", "Bearer ", 401)
	_ = os.Remove(path)
	check("/metrics", "Bearer fedcba9876543210", 200)
}

// Silent connections, and connections with incomplete requests, do not keep a probe out.
func TestSilentAdminConnectionsDoNotKeepProbesOut(t *testing.T) {
	n := startFleet(t, 1).nodes[0]
	addr, c := n.adminListener.Addr().String(), newClient(t)
	for name, said := range map[string]string{
		"nothing":      "",
		"half a head":  "GET /livez HTT",
		"no body":      "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n",
		"another host": "POST /nowhere HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n",
	} {
		var held []net.Conn
		for range maxAdminConns + 8 {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, said); err != nil {
				t.Fatal(err)
			}
			held = append(held, conn)
		}
		for range 3 {
			c.must(t, 200, "GET", "http://"+addr+"/livez", "")
		}
		if said == "" {
			_ = held[0].SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, held[0]); os.IsTimeout(err) {
				t.Errorf("%s: the first connection is still there", name)
			}
		}
		for _, conn := range held {
			_ = conn.Close()
		}
	}
}

// Profiles are served only if the flag is set.
func TestProfilesAreServedOnlyWhenAskedFor(t *testing.T) {
	for asked, want := range map[bool]int{true: 200, false: 404} {
		n := &node{cfg: nodeConfig{pprof: asked}}
		w := httptest.NewRecorder()
		n.adminHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/debug/pprof/goroutine?debug=1", nil))
		if w.Code != want {
			t.Errorf("asked %v: %d, want %d", asked, w.Code, want)
		}
		_, _ = io.Copy(io.Discard, w.Body)
	}
}

// A token in a pipe is refused: to read it again would block every request to the admin address.
func TestAdminTokenFileIsRegular(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "token")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero"} {
		if _, err := openTokenFile(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
