package access

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
)

const (
	// CacheBytes bounds the verified tokens that are kept, with their principals.
	CacheBytes = 32 << 20
	// verifyWait bounds the wait for a turn to verify, or for the issuer's keys.
	verifyWait = 2 * time.Second
)

// environment holds what the parts of a Verifier share.
type environment struct {
	now     func() time.Time
	log     *slog.Logger
	observe func(issuer string, reason Reason)
	turns   *semaphore.Weighted // signatures that are verified at the same time
}

// Config of a Verifier. Zero values take the defaults.
type Config struct {
	// Now is the clock (time.Now).
	Now func() time.Time
	// Logger gets changes of keys (discard).
	Logger *slog.Logger
	// Observe hears of each verification of a token of a configured issuer, with "" for a
	// success. Tokens that are known already are not verified (nil: nothing is called).
	Observe func(issuer string, reason Reason)
}

// Verifier verifies tokens by the rules of one file. It is safe for concurrent use.
type Verifier struct {
	env   environment
	rules *rules
	cache *otter.Cache[string, *Principal]
	once  singleflight.Group

	stop context.CancelFunc
	wg   sync.WaitGroup // one goroutine for each issuer whose keys are fetched
}

// New compiles a file and begins to fetch its issuers' keys. The error lists all that is
// wrong. Close the Verifier.
func New(f *File, cfg Config) (*Verifier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, Reason) {}
	}
	v := &Verifier{env: environment{
		now: cfg.Now, log: cfg.Logger, observe: cfg.Observe, turns: semaphore.NewWeighted(int64(max(1, runtime.GOMAXPROCS(0)/2))),
	}}
	var err error
	if v.rules, err = f.compile(&v.env); err != nil {
		return nil, err
	}
	v.cache = otter.Must(&otter.Options[string, *Principal]{
		MaximumWeight: CacheBytes,
		Weigher:       func(token string, p *Principal) uint32 { return uint32(len(token) + p.size + 128) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	v.stop = cancel
	for _, i := range v.rules.issuers {
		v.wg.Go(func() { i.keys.run(ctx) })
	}
	return v, nil
}

// Close ends the fetching of keys and waits for it.
func (v *Verifier) Close() {
	v.stop()
	v.wg.Wait()
}

// Ready reports whether every issuer has keys, or a first attempt to fetch them has ended;
// missing lists the issuers without keys.
func (v *Verifier) Ready() (ready bool, missing []string) {
	ready = true
	for name, i := range v.rules.issuers {
		had, tried := i.keys.hadKeys()
		if !had {
			missing = append(missing, name)
			ready = ready && tried
		}
	}
	return ready, missing
}

// Verify returns the principal of a token, or why it has none. A token that was verified
// before costs a lookup and a comparison of its times. The token may be part of a larger
// buffer: it is copied where it is kept.
func (v *Verifier) Verify(ctx context.Context, token string) (*Principal, *Refusal) {
	if p, ok := v.cache.GetIfPresent(token); ok {
		if !p.Expired(v.env.now()) {
			return p, nil
		}
		return nil, refuse(ReasonExpired, "the token has expired")
	}
	if len(token) > MaxTokenBytes {
		return nil, refuse(ReasonMalformed, "the token is longer than %d bytes", MaxTokenBytes)
	}
	type outcome struct {
		p  *Principal
		no *Refusal
	}
	token = strings.Clone(token)
	// The first caller's end must not be the others': each waits for as long as it likes.
	got := v.once.DoChan(token, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyWait)
		defer cancel()
		if p, ok := v.cache.GetIfPresent(token); ok { // since this caller looked
			return outcome{p: p}, nil
		}
		p, no := v.verify(ctx, token)
		if no == nil {
			v.cache.Set(token, p)
		}
		return outcome{p, no}, nil
	})
	select {
	case r := <-got:
		o, ok := r.Val.(outcome)
		if !ok {
			return nil, &Refusal{Reason: ReasonBusy, Detail: "the token could not be verified now", RetryAfter: time.Second}
		}
		return o.p, o.no
	case <-ctx.Done():
		return nil, &Refusal{Reason: ReasonBusy, Detail: "the request ended first", RetryAfter: time.Second}
	}
}

func (v *Verifier) verify(ctx context.Context, token string) (*Principal, *Refusal) {
	p, no := parseToken(token)
	if no != nil {
		return nil, no
	}
	iss, ok := p.claims.text("iss")
	i := v.rules.issuers[iss]
	if !ok || i == nil {
		return nil, v.unknownIssuer(iss, ok)
	}
	pr, no := i.verify(ctx, &p, &v.env)
	if no != nil {
		v.env.observe(iss, no.Reason)
		return nil, no
	}
	v.env.observe(iss, "")
	return pr, nil
}

// unknownIssuer returns the refusal of a token from an issuer that is not configured. It
// names the issuer, and one that differs from it by a slash at the end alone.
func (v *Verifier) unknownIssuer(iss string, ok bool) *Refusal {
	if !ok {
		return refuse(ReasonUnknownIssuer, "the token has no iss")
	}
	for name := range v.rules.issuers {
		if strings.TrimSuffix(name, "/") == strings.TrimSuffix(iss, "/") {
			return refuse(ReasonUnknownIssuer, "the token's iss %.128q differs from the configured %q by the slash at its end", iss, name)
		}
	}
	return refuse(ReasonUnknownIssuer, "the token's iss is %.128q, which is not configured", iss)
}

// Public returns those of the wanted actions on a stream that every client has that presents
// a good credential, or none.
func (v *Verifier) Public(want Actions, project, name string) Actions {
	return v.rules.public[project].allow(want, name)
}
