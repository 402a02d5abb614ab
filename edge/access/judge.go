package access

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a Judge. Zero values take the defaults.
type Config struct {
	// Path names the file.
	Path string
	// Now is the clock by which credentials are judged (time.Now): the fleet's time.
	Now func() time.Time
	// ClockDoubt reports whether the node's own clock is so far off that it cannot say of a
	// credential that it has expired, or is not good yet (nil: never).
	ClockDoubt func() bool
	// Logger gets changes of the file and of keys (discard).
	Logger *slog.Logger
	// Observer counts (nil: nothing is counted).
	Observer Observer
	// Nodes returns how many nodes of the fleet are live (nil: this one alone). The limits of a
	// project are divided by them.
	Nodes func() int
	// OtherReaders returns how many readers of a project the other nodes have (nil: none).
	OtherReaders func(project string) int
	// RevocationKeys authenticate revocations (RevocationKey makes one of a secret): the first
	// makes new ones, all are accepted. Without any, revocations are for this process alone.
	RevocationKeys [][]byte
}

// Observer counts what a Judge does.
type Observer interface {
	// Denied counts a request that is refused: fantail_auth_denied_total{reason}.
	Denied(reason Reason)
	// Verified counts a verification of a token of a configured issuer; reason is empty for a
	// success. Tokens that are known already are not verified:
	// fantail_auth_verifications_total{issuer,result}.
	Verified(issuer string, reason Reason)
	// Fetched counts a fetch of an issuer's keys: fantail_jwks_fetches_total{issuer,result}.
	Fetched(issuer string, good bool)
	// Limited counts a request that is over a limit of a configured project:
	// fantail_limited_total{project,limit}.
	Limited(project string, limit Reason)
}

type noObserver struct{}

func (noObserver) Denied(Reason)           {}
func (noObserver) Verified(string, Reason) {}
func (noObserver) Fetched(string, bool)    {}
func (noObserver) Limited(string, Reason)  {}

// Judge decides what requests may do, by one file. It is safe for concurrent use. Close it.
type Judge struct {
	cfg         Config
	env         *environment
	rows        *registry
	changes     *changes
	verifier    *verifier
	revocations *Revocations
	limiter     *limiter
	file        *watchedFile
	adminLocked atomic.Bool // the file has, or had, admin tokens

	stop context.CancelFunc
	wg   sync.WaitGroup // one goroutine: it watches the file
}

// Open reads the file and begins to watch it, and to fetch its issuers' keys. The error lists all
// that is wrong with the file.
func Open(ctx context.Context, cfg Config) (*Judge, error) {
	w := &watchedFile{path: cfg.Path}
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	j := newJudge(cfg)
	j.file = w
	if err := j.adoptFileWith(w.now, w.named); err != nil {
		j.Close()
		return nil, err
	}
	ctx, j.stop = context.WithCancel(context.WithoutCancel(ctx))
	j.wg.Go(func() { j.watch(ctx) })
	return j, nil
}

// newJudge returns a Judge without rules.
func newJudge(cfg Config) *Judge {
	env := newEnvironment(cfg)
	j := &Judge{cfg: cfg, env: env, rows: env.rows, changes: env.changes, verifier: newVerifier(env)}
	j.revocations = newRevocations(env, cfg.RevocationKeys, &j.verifier.rules)
	j.limiter = newLimiter(cfg, env)
	return j
}

// Close ends the goroutines and waits for them.
func (j *Judge) Close() {
	if j.stop != nil {
		j.stop()
	}
	j.wg.Wait()
	j.verifier.close()
}

// Ready reports whether every issuer has keys, or a minute to bring them has passed; missing lists
// the issuers without keys.
func (j *Judge) Ready() (ready bool, missing []string) { return j.verifier.ready() }

// Hash returns the hash of the file that is in force, for gossip and the metric.
func (j *Judge) Hash() string { return j.verifier.rules.Load().hash }

// CacheBytes returns the weight of the verified tokens that are kept: fantail_auth_cache_bytes.
func (j *Judge) CacheBytes() uint64 { return j.verifier.cache.WeightedSize() }

// KeyAges returns the age of each issuer's fetched keys: fantail_jwks_age_seconds{issuer}.
func (j *Judge) KeyAges() map[string]time.Duration {
	ages := map[string]time.Duration{}
	for name, i := range j.verifier.rules.Load().issuers {
		if age, ok := i.keys.age(); ok {
			ages[name] = age
		}
	}
	return ages
}

// Revocations returns what has been revoked.
func (j *Judge) Revocations() *Revocations { return j.revocations }

// Origins returns the origins whose pages may read a project's answers; nil: the file does not say.
func (j *Judge) Origins(project string) *Origins {
	if p := j.verifier.rules.Load().lookup(project); p != nil {
		return p.origins
	}
	return nil
}

// principal returns the principal of a token that was presented, if it is good now, here.
func (j *Judge) principal(ctx context.Context, from presented, project string, now time.Time) (*Principal, *Refusal) {
	for try := 0; ; try++ {
		count := j.changes.count.Load() + 1 // before what it counts is looked at
		pr, no := j.verifier.verifyAt(ctx, from.token, now)
		switch {
		case no != nil:
			return nil, no
		case pr.issuer.header != from.header:
			return nil, refuseWrongField(pr.issuer)
		case pr.checked.Load() == count:
			return pr, nil
		case !pr.isGood() && try == 0: // the file changed in between
			continue
		case !pr.isGood():
			return nil, errBusy
		}
		switch j.revocations.match(pr, project, j.env.second()) {
		case revokedHere:
			return nil, refuse(ReasonRevoked, "the token has been revoked: log in again")
		case revokedNowhere:
			pr.checked.Store(count)
		}
		return pr, nil
	}
}

func refuseWrongField(i *issuer) *Refusal {
	if i.header == "" {
		return refuse(ReasonUnknownIssuer, "tokens of %q are taken from the Authorization field", i.name)
	}
	return refuse(ReasonUnknownIssuer, "tokens of %q are taken from the field %s alone", i.name, i.header)
}
