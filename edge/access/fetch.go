package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// fetchEvery separates two fetches of a key set. Each pause differs from it by a random
	// part, fetchSpread of it at most.
	fetchEvery  = 15 * time.Minute
	fetchSpread = 0.2
	// fileEvery separates two reads of a key set in a file.
	fileEvery = 30 * time.Second
	// fetchTimeout bounds one fetch.
	fetchTimeout = 5 * time.Second
	// retryFetch separates a fetch that brought no good set from the next.
	retryFetch = 30 * time.Second
	// withdrawAfter separates, at least, the two good sets without a key that withdraw it.
	withdrawAfter = 5 * time.Minute
	// askEvery and askBurst bound the fetches that tokens with an unknown key ask for.
	askEvery = time.Minute
	askBurst = 2
	// issuedAhead is added to a token's iat before a fetched set is compared with it: the
	// issuer's clock may be behind.
	issuedAhead = 30 * time.Second
)

// keySet holds the keys of one issuer. Its fields are guarded by mu; the keys themselves
// are immutable.
type keySet struct {
	fetch   func(context.Context) ([]byte, error) // nil: the keys are fixed
	every   time.Duration
	now     func() time.Time
	log     *slog.Logger
	asks    *rate.Limiter
	removed func(name string) // hears of a key that was withdrawn

	wake chan struct{} // asks the loop for a fetch; has room for one

	mu       sync.Mutex
	keys     map[string]*key
	missing  map[string]time.Time // since when a key has been missing from good sets
	good     time.Time            // when the newest good set was asked for; zero: none came
	tried    bool                 // a first fetch has ended, whatever it brought
	fetching bool                 // a fetch is under way
	next     chan struct{}        // closed after the next fetch, and replaced
}

// newFixedKeys returns a set that never changes.
func newFixedKeys(keys ...*key) *keySet {
	s := &keySet{keys: map[string]*key{}, tried: true}
	for _, k := range keys {
		s.keys[k.name] = k
	}
	return s
}

func newFetchedKeys(fetch func(context.Context) ([]byte, error), every time.Duration, now func() time.Time, log *slog.Logger) *keySet {
	return &keySet{
		fetch: fetch, every: every, now: now, log: log, asks: rate.NewLimiter(rate.Every(askEvery), askBurst),
		removed: func(string) {},
		keys:    map[string]*key{}, missing: map[string]time.Time{}, wake: make(chan struct{}, 1), next: make(chan struct{}),
	}
}

// run fetches the set until ctx ends. A set of fixed keys returns immediately.
func (s *keySet) run(ctx context.Context) {
	if s.fetch == nil {
		return
	}
	for {
		pause := s.refresh(ctx)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.wake:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// refresh fetches the set once and returns how long to wait for the next time.
func (s *keySet) refresh(ctx context.Context) (pause time.Duration) {
	began := s.now()
	s.mu.Lock()
	s.fetching = true
	s.mu.Unlock()
	fctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	b, err := s.fetch(fctx)
	var keys map[string]*key
	if err == nil {
		keys, err = parseKeySet(b)
	}
	s.mu.Lock()
	var withdrawn []string
	if err == nil {
		withdrawn = s.replace(keys, began)
	}
	s.tried, s.fetching = true, false
	close(s.next)
	s.next = make(chan struct{})
	s.mu.Unlock()
	for _, name := range withdrawn {
		s.log.Warn("an issuer has withdrawn a key", "key", name)
		s.removed(name)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("an issuer's keys cannot be fetched: those that are known stay", "err", err)
		}
		return min(retryFetch, s.every)
	}
	return s.every + time.Duration((2*rand.Float64()-1)*fetchSpread*float64(s.every))
}

// replace takes a good set that was asked for at a time, and returns the names of the keys
// that are withdrawn by it. Under mu.
func (s *keySet) replace(keys map[string]*key, at time.Time) (withdrawn []string) {
	s.good = at
	for name, k := range keys {
		s.keys[name] = k
		delete(s.missing, name)
	}
	for name := range s.keys {
		if keys[name] != nil {
			continue
		}
		since, ok := s.missing[name]
		switch {
		case !ok:
			s.missing[name] = at
		case at.Sub(since) >= withdrawAfter:
			delete(s.keys, name)
			delete(s.missing, name)
			withdrawn = append(withdrawn, name)
		}
	}
	// An issuer that changes its keys all the time must not fill the memory: those that are
	// missing go first.
	for name := range s.missing {
		if len(s.keys) <= 2*maxKeys {
			break
		}
		delete(s.keys, name)
		delete(s.missing, name)
		withdrawn = append(withdrawn, name)
	}
	return withdrawn
}

// hadKeys reports whether the set has had keys; tried, whether a first fetch has ended.
func (s *keySet) hadKeys() (had, tried bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys) > 0, s.tried
}

// candidate returns the key that a token with a kid and an algorithm is signed by; nil if
// there is none. Without a kid it is the one key of that algorithm, if there is just one.
func (s *keySet) candidate(kid, alg string) *key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found *key
	for _, k := range s.keys {
		fits := kid != "" && (k.id == kid || k.id == "") || kid == ""
		if !fits || !slices.Contains(k.algs, alg) {
			continue
		}
		if k.id == kid && kid != "" {
			return k
		}
		if found != nil {
			return nil // several: the token has to say which
		}
		found = k
	}
	return found
}

// await asks for a fetch after a candidate was not found, and waits for it until ctx ends. It
// reports whether a good set has been fetched since the token was issued, so that the set's
// word on the key is final. retry is how soon another fetch may be asked for.
func (s *keySet) await(ctx context.Context, issued time.Time) (final bool, retry time.Duration) {
	if s.fetch == nil {
		return true, 0
	}
	s.mu.Lock()
	next, underWay := s.next, s.fetching || len(s.wake) > 0
	final = s.good.After(issued.Add(issuedAhead))
	s.mu.Unlock()
	if final {
		return true, 0
	}
	if s.asks.AllowN(s.now(), 1) {
		select {
		case s.wake <- struct{}{}:
		default: // one is asked for already
		}
	} else if !underWay {
		return false, askEvery
	}
	select {
	case <-next:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.good.After(issued.Add(issuedAhead)), askEvery
}

// source names a key set and how it is fetched.
type source struct {
	url       string
	caFile    string
	tokenFile string // holds a bearer for the key server
	insecure  bool   // plain HTTP to another host than this one is meant
}

var (
	errInsecure = errors.New("keys over plain HTTP can be replaced on their way: use https, or say insecure_http: true")
	errRedirect = errors.New("the key server redirects to another host")
)

// fetcher returns a function that fetches the set, and how often that is worth it.
func (src source) fetcher() (fetch func(context.Context) ([]byte, error), every time.Duration, err error) {
	u, err := url.Parse(src.url)
	if err != nil {
		return nil, 0, err
	}
	if u.Scheme == "file" {
		path := u.Path
		return func(context.Context) ([]byte, error) { return readBounded(path) }, fileEvery, nil
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()) && !src.insecure) {
		return nil, 0, errInsecure
	}
	client, err := src.client(u.Hostname())
	if err != nil {
		return nil, 0, err
	}
	return func(ctx context.Context) ([]byte, error) { return src.get(ctx, client) }, fetchEvery, nil
}

func (src source) client(host string) (*http.Client, error) {
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("no HTTP transport")
	}
	transport = transport.Clone()
	transport.MaxIdleConns = 1
	if src.caFile != "" {
		pem, err := os.ReadFile(src.caFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", src.caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Hostname() != host || r.URL.Scheme != via[0].URL.Scheme || len(via) > 3 {
			return errRedirect
		}
		return nil
	}}, nil
}

func (src source) get(ctx context.Context, client *http.Client) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, src.url, nil)
	if err != nil {
		return nil, err
	}
	if src.tokenFile != "" {
		token, err := readBounded(src.tokenFile)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the key server answers %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxKeySetBytes+1))
}

// readBounded reads a file of at most maxKeySetBytes, and a byte more of a larger one.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxKeySetBytes+1))
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
