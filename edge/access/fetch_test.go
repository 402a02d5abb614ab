package access

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lyingServer is a key server; tests change what it answers between fetches.
type lyingServer struct {
	mu    sync.Mutex
	set   []byte
	flips [][]byte // answered in turn instead
	err   error
	hangs bool
	asked int
}

// answer changes what the server answers from now on.
func (s *lyingServer) answer(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *lyingServer) fetches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// advance lets a bubble's time pass, and all that happens in it.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (s *lyingServer) get(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	s.asked++
	hangs := s.hangs
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.flips) > 0 {
		return s.flips[s.asked%len(s.flips)], nil
	}
	return s.set, s.err
}

// keysOf runs a set of keys in a bubble until the test ends, and waits for its first fetch.
func keysOf(t *testing.T, s *lyingServer) *keySet {
	keys := newFetchedKeys("i", s.get, fetchEvery, newEnvironment(Config{}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); keys.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return keys
}

// Whatever a key server answers in an hour, keys that were known stay, unless two good sets
// that are five minutes apart do not have them.
func TestKeysSurviveALyingServer(t *testing.T) {
	t.Parallel()
	k := testKeys()
	one, other := jwk("one", k.rsa), jwk("other", k.ec)
	for name, lie := range map[string]struct {
		set   []byte
		err   error
		hangs bool
	}{
		"an error":           {err: errors.New("502")},
		"a hang":             {hangs: true},
		"HTML":               {set: []byte("<html>")},
		"an empty object":    {set: []byte("{}")},
		"no keys":            {set: keySetOf()},
		"an error document":  {set: []byte(`{"error":"oops"}`)},
		"too much":           {set: append(keySetOf(other), []byte(strings.Repeat(" ", maxKeySetBytes))...)},
		"a secret":           {set: keySetOf(map[string]any{"kty": "oct", "kid": "one", "k": "c2VjcmV0"})},
		"a short key":        {set: keySetOf(jwk("one", k.small))},
		"one for encryption": {set: keySetOf(jwk("one", k.rsa2, "use", "enc"))},
		"one kid twice":      {set: keySetOf(other, jwk("other", k.rsa2))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &lyingServer{set: keySetOf(one)}
				keys := keysOf(t, s)
				s.answer(func() { s.set, s.err, s.hangs = lie.set, lie.err, lie.hangs })
				advance(time.Hour)
				if s.fetches() < 2 {
					t.Fatal("it was not asked again")
				}
				if keys.candidate("one", "RS256") == nil {
					t.Error("the key is gone")
				}
			})
		})
	}
}

// A set that flips between two takes no key away; one that drops a key for good does.
func TestKeyIsWithdrawnAfterTwoSetsWithoutIt(t *testing.T) {
	t.Parallel()
	k := testKeys()
	synctest.Test(t, func(t *testing.T) {
		a, b := keySetOf(jwk("a", k.rsa)), keySetOf(jwk("b", k.ec))
		s := &lyingServer{set: a}
		keys := keysOf(t, s)
		a1 := keys.candidate("a", "RS256")
		s.answer(func() { s.flips = [][]byte{a, b} })
		advance(5 * fetchEvery)
		if keys.candidate("a", "RS256") == nil || keys.candidate("b", "ES256") == nil {
			t.Fatalf("a key is gone after %d fetches", s.fetches())
		}
		s.answer(func() { s.flips, s.set = nil, b })
		advance(3 * fetchEvery)
		if keys.candidate("a", "RS256") != nil || a1.row.ended() == 0 || keys.candidate("b", "ES256").row.ended() != 0 {
			t.Error("a is still there, or its leases are, or b's are not")
		}
	})
}

// After a rotation a token with a new key is good once the set has been fetched, whatever junk
// asks for fetches. Until the set is newer than the token, no client hears that its key is unknown.
func TestUnknownKey(t *testing.T) {
	t.Parallel()
	k := testKeys()
	synctest.Test(t, func(t *testing.T) {
		s := &lyingServer{set: keySetOf(jwk("old", k.rsa))}
		keys := keysOf(t, s)
		i := &issuer{name: "i", keys: keys, algs: rsaAlgs, maxTTL: DefaultMaxTTL}
		ask := func(kid string, issued time.Time) (*key, *Refusal) {
			ctx, cancel := context.WithTimeout(t.Context(), verifyWait)
			defer cancel()
			p := &parts{header: map[string]any{"alg": "RS256", "kid": kid}}
			return i.findKey(ctx, p, times{issued: issued.Unix()}, time.Now())
		}
		advance(time.Minute)
		// Old tokens with junk: final, and they cost no fetch.
		before := s.fetches()
		for range 100 {
			if _, no := ask("junk", time.Now().Add(-time.Hour)); no == nil || no.Reason != ReasonUnknownKey {
				t.Fatal(no)
			}
		}
		if s.fetches() != before {
			t.Errorf("junk cost %d fetches", s.fetches()-before)
		}
		// Junk that says it is new: 503, and two fetches at most.
		for range 100 {
			if _, no := ask("junk", time.Now()); no == nil || no.Reason != ReasonKeysStale {
				t.Fatal(no)
			}
		}
		if n := s.fetches() - before; n > askBurst {
			t.Errorf("junk cost %d fetches", n)
		}
		// A rotation. Junk has used the fetches up: 503 until the next one is allowed.
		s.answer(func() { s.set = keySetOf(jwk("old", k.rsa), jwk("new", k.rsa2)) })
		if _, no := ask("new", time.Now()); no == nil || no.Reason != ReasonKeysStale || no.RetryAfter <= 0 {
			t.Fatal(no)
		}
		advance(askEvery)
		if key, no := ask("new", time.Now()); no != nil || key.id != "new" {
			t.Fatal(no)
		}
		// A server that hangs: two seconds, and 503.
		s.answer(func() { s.hangs = true })
		advance(5 * time.Minute)
		began := time.Now()
		if _, no := ask("newer", time.Now()); no == nil || no.Reason != ReasonKeysStale || time.Since(began) > verifyWait {
			t.Fatal(no, time.Since(began))
		}
	})
}

// A server's answers over HTTP: only 200 counts, a redirect to another host does not, and a
// body without an end costs a bounded part of it.
func TestKeysOverHTTP(t *testing.T) {
	t.Parallel()
	set := keySetOf(jwk("one", testKeys().rsa))
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) }))
	t.Cleanup(away.Close)
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(set)
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write(set)
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(away.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	token := writeFile(t, "token", []byte("t\n"))
	for path, good := range map[string]bool{"/good": true, "/bad": false, "/moved": false, "/away": false, "/endless": false, "/none": false} {
		t.Run(path, func(t *testing.T) {
			fetch, _, err := source{url: srv.URL + path, tokenFile: token}.fetcher()
			if err != nil {
				t.Fatal(err)
			}
			b, err := fetch(t.Context())
			if err == nil {
				_, err = parseKeySet(b)
			}
			if (err == nil) != good {
				t.Errorf("%v", err)
			}
		})
	}
	for _, url := range []string{"http://keys.example/jwks", "ftp://keys.example", "keys.example"} {
		if _, _, err := (source{url: url}).fetcher(); !errors.Is(err, errInsecure) {
			t.Errorf("%s: %v", url, err)
		}
	}
}
