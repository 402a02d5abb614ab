package access

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
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
	// maxVerifying bounds the tokens that wait for a turn: further ones hear Busy immediately.
	maxVerifying = 1024
)

// environment holds what the parts of a Judge share.
type environment struct {
	now      func() time.Time
	log      *slog.Logger
	observer Observer
	rows     *registry
	changes  *changes
	turns    *semaphore.Weighted // signatures that are verified at the same time
	waiting  atomic.Int32        // tokens that wait for a turn or have one
}

func newEnvironment(cfg Config) *environment {
	env := &environment{
		now: cfg.Now, log: cfg.Logger, observer: cfg.Observer, rows: newRegistry(), changes: newChanges(),
		turns: semaphore.NewWeighted(int64(max(1, runtime.GOMAXPROCS(0)/2))),
	}
	if env.now == nil {
		env.now = time.Now
	}
	if env.log == nil {
		env.log = slog.New(slog.DiscardHandler)
	}
	if env.observer == nil {
		env.observer = noObserver{}
	}
	return env
}

// second returns the present second since 1970.
func (env *environment) second() uint32 { return uint32(env.now().Unix()) } //nolint:gosec // until 2106

var errBusy = &Refusal{Reason: ReasonBusy, Detail: "too many tokens are being verified: send the request again later", RetryAfter: time.Second}

var errBroken = &Refusal{Reason: ReasonBusy, Detail: "the token could not be verified, for a fault of the server", RetryAfter: time.Minute}

// verify verifies a signature when it is its turn.
func (env *environment) verify(ctx context.Context, k *key, alg string, p *parts) (good bool, no *Refusal) {
	defer env.waiting.Add(-1)
	if env.waiting.Add(1) > maxVerifying || env.turns.Acquire(ctx, 1) != nil {
		return false, errBusy
	}
	defer env.turns.Release(1)
	return k.verify(alg, p.signed, p.signature), nil
}

// verifier verifies tokens by the rules of one file, which may be replaced. It is safe for
// concurrent use.
type verifier struct {
	env   *environment
	rules atomic.Pointer[rules]
	cache *otter.Cache[string, *Principal]
	once  singleflight.Group

	ctx  context.Context // ends with the verifier
	stop context.CancelFunc
	wg   sync.WaitGroup // one goroutine for each issuer whose keys are fetched
}

// newVerifier returns a verifier without rules: adopt some, and close it.
func newVerifier(env *environment) *verifier {
	v := &verifier{env: env}
	v.cache = otter.Must(&otter.Options[string, *Principal]{
		MaximumWeight: CacheBytes,
		Weigher:       func(token string, p *Principal) uint32 { return uint32(len(token) + p.size + 128) }, //nolint:gosec // both are bounded
	})
	v.ctx, v.stop = context.WithCancel(context.Background())
	return v
}

// adopt replaces the rules. What the old ones have and the new ones do not is ended: the keys of
// files immediately, issuers and projects over a time (EndChanged).
func (v *verifier) adopt(r *rules) {
	old := v.rules.Swap(r)
	carried := map[*keySet]bool{}
	for _, i := range r.issuers {
		carried[i.keys] = true
	}
	if old != nil {
		v.endDropped(old, r, carried)
	}
	for _, i := range r.issuers {
		if i.keys.fetch != nil && i.keys.stop == nil {
			ctx, cancel := context.WithCancel(v.ctx)
			i.keys.stop = cancel
			v.wg.Go(func() { i.keys.run(ctx) })
		}
	}
	v.env.changes.raise()
}

// endDropped ends the rows of the old rules that the new ones have not carried over.
func (v *verifier) endDropped(old, r *rules, carried map[*keySet]bool) {
	now := v.env.second()
	for name, i := range old.issuers {
		next := r.issuers[name]
		if next == nil || next.row != i.row {
			i.row.gone.Store(now)
		}
		if carried[i.keys] {
			continue
		}
		if i.keys.stop != nil {
			i.keys.stop()
		}
		var keys *keySet
		if next != nil {
			keys = next.keys
		}
		i.keys.withdraw(keys, now)
	}
	for _, p := range old.allProjects() {
		next := r.find(p.name)
		if next == nil || next.row != p.row {
			p.row.gone.Store(now)
		}
		for _, s := range p.sign {
			if next == nil || !next.has(s.row) {
				s.row.gone.Store(now)
			}
		}
	}
}

// has reports whether a secret of the project has a row.
func (p *project) has(r *row) bool {
	for _, s := range p.sign {
		if s.row == r {
			return true
		}
	}
	return false
}

// close ends the fetching of keys and waits for it.
func (v *verifier) close() {
	v.stop()
	v.wg.Wait()
}

// ready reports whether every issuer has keys, or had the time to bring them; missing lists the
// issuers without keys.
func (v *verifier) ready() (ready bool, missing []string) {
	ready = true
	for name, i := range v.rules.Load().issuers {
		had, tried := i.keys.hadKeys()
		if !had {
			missing = append(missing, name)
			ready = ready && tried
		}
	}
	return ready, missing
}

// isGood reports whether a principal that was verified before is one by the present rules. A
// token's times are compared at each use, and not here.
func (p *Principal) isGood() bool { return p.issuer.row.ended() == 0 && p.key.row.ended() == 0 }

// Verify returns the principal of a token, or why it has none. A token that was verified
// before costs a lookup and a comparison of its times. The token may be part of a larger
// buffer: it is copied where it is kept.
func (v *verifier) Verify(ctx context.Context, token string) (*Principal, *Refusal) {
	return v.verifyAt(ctx, token, v.env.now())
}

// verifyAt does what Verify does, for a caller that has looked at the clock: that is a good part of what
// a known token costs.
func (v *verifier) verifyAt(ctx context.Context, token string, now time.Time) (*Principal, *Refusal) {
	if p, ok := v.cache.GetIfPresent(token); ok && p.isGood() {
		if !p.Expired(now) {
			return p, nil
		}
		return nil, refuse(ReasonExpired, "the token has expired: get a new one and send the request again")
	}
	if len(token) > MaxTokenBytes {
		return nil, refuse(ReasonMalformed, "the token is longer than %d bytes", MaxTokenBytes)
	}
	return v.verifyOnce(ctx, strings.Clone(token))
}

// verifyOnce verifies a token once for all callers that ask for it at the same time. The first
// caller's end must not be the others': each waits for as long as it likes.
func (v *verifier) verifyOnce(ctx context.Context, token string) (*Principal, *Refusal) {
	type outcome struct {
		p  *Principal
		no *Refusal
	}
	got := v.once.DoChan(token, func() (result any, _ error) {
		defer func() {
			if p := recover(); p != nil { // in this goroutine it would end the process
				v.env.log.Error("panic while a token was verified", "err", p, "stack", string(debug.Stack()))
				result = outcome{no: errBroken}
			}
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyWait)
		defer cancel()
		if p, ok := v.cache.GetIfPresent(token); ok && p.isGood() && !p.Expired(v.env.now()) { // since this caller looked
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
			return nil, errBusy
		}
		return o.p, o.no
	case <-ctx.Done():
		return nil, &Refusal{Reason: ReasonBusy, Detail: "the request ended first", RetryAfter: time.Second}
	}
}

func (v *verifier) verify(ctx context.Context, token string) (*Principal, *Refusal) {
	p, no := parseToken(token)
	if no != nil {
		return nil, no
	}
	iss, ok := p.claims.text("iss")
	i := v.rules.Load().issuers[iss]
	if !ok || i == nil {
		return nil, v.unknownIssuer(iss, ok)
	}
	pr, no := i.verify(ctx, &p, v.env)
	if no != nil {
		v.env.observer.Verified(iss, no.Reason)
		return nil, no
	}
	pr.subject, pr.id = v.env.rows.hash(pr.Subject), v.env.rows.hash(pr.ID)
	v.env.observer.Verified(iss, "")
	return pr, nil
}

// unknownIssuer returns the refusal of a token from an issuer that is not configured. It names
// the issuer, and an issuer that differs from it by a slash at the end alone.
func (v *verifier) unknownIssuer(iss string, ok bool) *Refusal {
	if !ok {
		return refuse(ReasonUnknownIssuer, "the token has no iss")
	}
	for name := range v.rules.Load().issuers {
		if strings.TrimSuffix(name, "/") == strings.TrimSuffix(iss, "/") {
			return refuse(ReasonUnknownIssuer, "the token's iss %.128q differs from the configured %q by the slash at its end", iss, name)
		}
	}
	return refuse(ReasonUnknownIssuer, "the token's iss is %.128q, which is not configured", iss)
}
