package main

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

const (
	// maxAdminConns bounds the connections of the admin address. A new connection replaces the
	// connection that has been idle for the longest time, or if none is idle, that has been busy for
	// the longest time. A connection is busy if the body of its request does not arrive, or its
	// answer is not read.
	maxAdminConns = 64
	// maxAdminHeader bounds the header of a request to the admin address.
	maxAdminHeader = 16 << 10
	// adminWriteTimeout bounds the time for an answer of the admin address. Profiles need some of
	// it to run.
	adminWriteTimeout = 3 * time.Minute
	// minTokenLen is the length of the shortest accepted token.
	minTokenLen = 16
	// maxTokenFile bounds the bytes that are read of a token's file.
	maxTokenFile = 4 << 10
)

// newAdminServer returns the server of the admin address, loopback or not. All its resources are
// bounded, so that no client can starve the probes.
func newAdminServer(h http.Handler, loopback bool, log *slog.Logger) *http.Server {
	room := &adminConnLimit{conns: map[net.Conn]adminConn{}}
	return &http.Server{
		Handler: refuseForeignOrigins(h, loopback), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: adminWriteTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: maxAdminHeader,
		ConnState: room.onConnState, ErrorLog: newServerLog(log),
	}
}

// refuseForeignOrigins refuses requests that a web page may send through an operator's browser:
// requests from another origin, and on a loopback address requests for a host that is not loopback
// (a host name with a DNS entry that points here). Health is open to all: probes send any host, and its
// answer harms nothing. A link on another site may lead to the page itself, which is the same for
// every browser, and then asks by itself, as its own origin.
func refuseForeignOrigins(next http.Handler, loopback bool) http.Handler {
	cross := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site := r.Header.Get("Sec-Fetch-Site")
		switch {
		case isHealth(r.URL.Path) && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			next.ServeHTTP(w, r)
		case loopback && !s2dev.LocalHost(r.Host):
			http.Error(w, "this address is loopback: ask for it as localhost or 127.0.0.1, not as another host", http.StatusForbidden)
		case isVisit(r):
			next.ServeHTTP(w, r)
		case site == "cross-site" || site == "same-site":
			http.Error(w, "requests from pages of other origins are refused", http.StatusForbidden)
		default:
			cross.ServeHTTP(w, r)
		}
	})
}

// isVisit reports whether a browser opens the page in a tab.
func isVisit(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

func isHealth(path string) bool { return path == "/livez" || path == "/readyz" }

// tokenFile is the file with the admin address's bearer token. It is read again when it has
// changed: Kubernetes renews a secret under the same name.
type tokenFile struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	info os.FileInfo // the file's when sum was computed
	sum  [sha256.Size]byte
}

// openTokenFile reads the token. An error is the file's.
func openTokenFile(path string, log *slog.Logger) (*tokenFile, error) {
	t := &tokenFile{path: path, log: log}
	return t, t.load()
}

// load reads the file if it has changed. If that fails, the last token stays valid.
func (t *tokenFile) load() error {
	f, err := access.OpenRegular(t.path) // a pipe would block every request
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if t.info != nil && os.SameFile(t.info, info) && t.info.ModTime().Equal(info.ModTime()) && t.info.Size() == info.Size() {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(b))
	switch {
	case len(token) < minTokenLen || len(b) > maxTokenFile:
		return fmt.Errorf("%s: want a token of %d to %d bytes", t.path, minTokenLen, maxTokenFile)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("%s: the token has blanks, control characters or other than ASCII in it", t.path)
	}
	t.info, t.sum = info, sha256.Sum256([]byte(token))
	return nil
}

// isAllowed reports whether the request has the token. The comparison takes constant time.
func (t *tokenFile) isAllowed(r *http.Request) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(); err != nil {
		t.log.Error("the admin token cannot be read again, the old one is used", "err", err)
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "bearer") && subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1
}

// adminConnLimit limits the admin address's connections to maxAdminConns.
type adminConnLimit struct {
	mu    sync.Mutex
	conns map[net.Conn]adminConn
}

// adminConn is the state of a connection: whether it has a request, and since when.
type adminConn struct {
	busy  bool
	since time.Time
}

// onConnState implements http.Server.ConnState.
func (a *adminConnLimit) onConnState(c net.Conn, s http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s {
	case http.StateNew:
		if len(a.conns) >= maxAdminConns {
			a.evict()
		}
		a.conns[c] = adminConn{since: time.Now()} // it has sent nothing yet
	case http.StateActive, http.StateIdle:
		if _, here := a.conns[c]; here {
			a.conns[c] = adminConn{s == http.StateActive, time.Now()}
		}
	case http.StateClosed, http.StateHijacked:
		delete(a.conns, c)
	}
}

// evict closes the connection that has been idle for the longest time, or if none is idle, the one
// that has been busy for the longest time. The new connection gets its place, since it may be a
// probe's.
func (a *adminConnLimit) evict() {
	var out net.Conn
	for c, is := range a.conns {
		was := a.conns[out]
		if out == nil || !is.busy && was.busy || is.busy == was.busy && is.since.Before(was.since) {
			out = c
		}
	}
	delete(a.conns, out)
	_ = out.Close()
}

// isLoopback reports whether a listener is reachable from this machine only.
func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
