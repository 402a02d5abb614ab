package access

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
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
	// firstFetches bounds the time for which a node without an issuer's keys is not ready. Until
	// there is a good set, fetches are tried again after firstRetry, then after twice that, ...
	firstFetches = time.Minute
	firstRetry   = time.Second
)

// keySet holds the keys of one issuer. Its fields are guarded by mu; the keys themselves
// are immutable.
type keySet struct {
	issuer string
	fetch  func(context.Context) ([]byte, error) // nil: the keys are fixed
	every  time.Duration
	env    *environment
	asks   *rate.Limiter

	awaiting atomic.Int32 // tokens that wait for a fetch

	wake chan struct{}      // asks the loop for a fetch; has room for one
	stop context.CancelFunc // ends the loop; set by the Verifier before it runs

	mu       sync.Mutex
	keys     map[string]*key
	missing  map[*key]time.Time // since when a key has been missing from good sets, or replaced
	good     time.Time          // when the newest good set was asked for; zero: none came
	since    time.Time          // when the first fetch began
	tries    int                // fetches before the first good set
	tried    bool               // a first fetch has ended, whatever it brought
	fetching bool               // a fetch is under way
	next     chan struct{}      // closed after the next fetch, and replaced
}

// newFixedKeys returns a set that never changes.
func newFixedKeys(keys ...*key) *keySet {
	s := &keySet{keys: map[string]*key{}, tried: true}
	for _, k := range keys {
		s.keys[k.name] = k
	}
	return s
}

func newFetchedKeys(issuer string, fetch func(context.Context) ([]byte, error), every time.Duration, env *environment) *keySet {
	return &keySet{
		issuer: issuer, fetch: fetch, every: every, env: env, asks: rate.NewLimiter(rate.Every(askEvery), askBurst),
		keys: map[string]*key{}, missing: map[*key]time.Time{}, wake: make(chan struct{}, 1), next: make(chan struct{}),
	}
}

// sameAs reports whether a set of fixed keys has just these.
func (s *keySet) sameAs(keys []*key) bool {
	return s.fetch == nil && len(s.keys) == len(keys) && !slices.ContainsFunc(keys, func(k *key) bool {
		old := s.keys[k.name]
		return old == nil || !old.isSame(k) || !slices.Equal(old.algs, k.algs)
	})
}

// number gives rows to fixed keys. Fetched ones get theirs when they come.
func (s *keySet) number(env *environment) (err error) {
	if s.fetch != nil {
		return nil
	}
	for _, k := range s.keys {
		if k.row == nil && err == nil {
			k.row, err = env.rows.keys.add(k.name, env.rows.hash(k.name), env.second())
		}
	}
	return err
}

// withdraw ends the rows of those fixed keys that another set does not have.
func (s *keySet) withdraw(next *keySet, now uint32) {
	if s.fetch != nil {
		return
	}
	for name, k := range s.keys {
		if next == nil || next.fetch != nil || next.keys[name] == nil || next.keys[name].row != k.row {
			k.row.gone.Store(now)
		}
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
	began := s.env.now()
	s.mu.Lock()
	s.fetching = true
	if s.since.IsZero() {
		s.since = began
	}
	s.mu.Unlock()
	fctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	b, err := s.fetch(fctx)
	var keys map[string]*key
	if err == nil {
		keys, err = parseKeySet(b)
	}
	s.mu.Lock()
	var withdrawn []*key
	if err == nil {
		withdrawn = s.replace(keys, began)
	}
	never := s.good.IsZero()
	if never {
		s.tries++
	}
	tries := s.tries
	s.tried, s.fetching = true, false
	close(s.next)
	s.next = make(chan struct{})
	s.mu.Unlock()
	s.reportFetch(ctx, err, never && began.Sub(s.since) >= firstFetches, withdrawn)
	switch {
	case never:
		return min(firstRetry<<min(tries-1, 10), retryFetch, s.every)
	case err != nil:
		return min(retryFetch, s.every)
	}
	return s.every + time.Duration((2*rand.Float64()-1)*fetchSpread*float64(s.every))
}

// reportFetch logs and counts what a fetch brought, and ends the leases of the keys that it withdrew.
func (s *keySet) reportFetch(ctx context.Context, err error, late bool, withdrawn []*key) {
	for _, k := range withdrawn {
		s.env.log.Warn("an issuer has withdrawn a key", "issuer", s.issuer, "key", k.name)
		k.row.gone.Store(s.env.second())
	}
	if len(withdrawn) > 0 {
		s.env.changes.raise()
	}
	if ctx.Err() != nil {
		return
	}
	s.env.observer.Fetched(s.issuer, err == nil)
	switch {
	case err == nil:
	case late:
		s.env.log.Error("an issuer's keys cannot be fetched, and there are none: its tokens are answered 503", "issuer", s.issuer, "err", err)
	default:
		s.env.log.Warn("an issuer's keys cannot be fetched: those that are known stay", "issuer", s.issuer, "err", err)
	}
}

// replace takes a good set that was asked for at a time, and returns the keys that are withdrawn
// by it. A key that has changed under its name counts as another key. Under mu.
func (s *keySet) replace(keys map[string]*key, at time.Time) (withdrawn []*key) {
	s.good = at
	for name, k := range keys {
		old := s.keys[name]
		if old != nil && !old.isSame(k) {
			s.miss(old, at)
			old = s.missed(k)
		}
		if err := s.addKey(k, old); err != nil {
			s.env.log.Error("a key cannot be used", "issuer", s.issuer, "key", name, "err", err)
		}
	}
	for name, k := range s.keys {
		if keys[name] == nil {
			s.miss(k, at)
		}
	}
	for k, since := range s.missing {
		// An issuer that changes its keys all the time must not fill the memory.
		if at.Sub(since) >= withdrawAfter || len(s.missing) > maxKeys {
			withdrawn = append(withdrawn, k)
			delete(s.missing, k)
			if s.keys[k.name] == k {
				delete(s.keys, k.name)
			}
		}
	}
	return withdrawn
}

// addKey puts a key into the set. old is the key's previous version, or nil: k takes over its row, and
// old leaves the missing ones. Under mu.
func (s *keySet) addKey(k, old *key) (err error) {
	if old != nil {
		k.row = old.row
		delete(s.missing, old)
	} else if k.row, err = s.env.rows.keys.add(k.name, s.env.rows.hash(k.name), s.env.second()); err != nil {
		return err
	}
	s.keys[k.name] = k
	return nil
}

// miss notes that a good set does not have a key. Under mu.
func (s *keySet) miss(k *key, at time.Time) {
	if _, ok := s.missing[k]; !ok {
		s.missing[k] = at
	}
}

// missed returns the missing key that is the same as a key that has come back; nil if there is
// none. Under mu.
func (s *keySet) missed(k *key) *key {
	for m := range s.missing {
		if m.isSame(k) {
			return m
		}
	}
	return nil
}

// hadKeys reports whether the set has had keys; tried, whether the time for the first ones is over.
func (s *keySet) hadKeys() (had, tried bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys) > 0, s.fetch == nil || !s.since.IsZero() && s.env.now().Sub(s.since) >= firstFetches
}

// age returns the time since the newest good set was asked for; ok is false for fixed keys, and
// before there was one.
func (s *keySet) age() (age time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetch == nil || s.good.IsZero() {
		return 0, false
	}
	return s.env.now().Sub(s.good), true
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
	if !underWay { // a token that comes while one is under way asks for none, or two would use up what may be asked
		if !s.asks.AllowN(s.env.now(), 1) {
			return false, askEvery
		}
		select {
		case s.wake <- struct{}{}:
		default: // one is asked for already
		}
	}
	defer s.awaiting.Add(-1)
	if s.awaiting.Add(1) > maxVerifying { // strangers can ask for keys that there are not
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
