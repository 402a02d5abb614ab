package access

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// limitedJudge is a Judge whose project acme has limits.
func limitedJudge(t testing.TB, limits string, cfg Config) *Judge {
	t.Helper()
	return judgeOf(t, strings.Replace(shopFile(t), "    public_age: 20s\n", "    public_age: 20s\n    limits: "+limits+"\n", 1), cfg)
}

func tokenLease(t testing.TB, j *Judge, sub string) Lease {
	t.Helper()
	return lease(t, j, ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"sub": sub})), "acme", "rooms/1")
}

// admitted counts how many of some requests pass.
func admitted(j *Judge, r *http.Request, l Lease, u Use, n int) (passed int, over *Denial) {
	for range n {
		if d := j.Admit(r, l, u); d != nil {
			over = d
		} else {
			passed++
		}
	}
	return passed, over
}

// Each limit lets a burst and then its rate pass, tells its name, and counts.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		limits        string
		method        string
		use           Use
		burst, second int // pass immediately, and in a second after that
		reason        Reason
		nodes         int
		status        int // 429
	}{
		"requests":             {limits: "{ requests: 10 }", method: "GET", burst: 20, second: 10, reason: ReasonLimitRequests},
		"of four nodes":        {limits: "{ requests: 8 }", method: "GET", nodes: 4, burst: 4, second: 2, reason: ReasonLimitRequests},
		"but one at least":     {limits: "{ requests: 2 }", method: "GET", nodes: 100, burst: 2, second: 1, reason: ReasonLimitRequests},
		"of a principal":       {limits: "{ principal: { requests: 5 } }", nodes: 10, method: "GET", burst: 10, second: 5, reason: ReasonLimitPrincipalRequests},
		"the narrower":         {limits: "{ requests: 100, principal: { requests: 5 } }", method: "GET", burst: 10, second: 5, reason: ReasonLimitPrincipalRequests},
		"bytes":                {limits: "{ bytes: 10KiB }", method: "PUT", use: Use{Bytes: 1024}, burst: 20, second: 10, reason: ReasonLimitBytes},
		"more than the burst":  {limits: "{ bytes: 1KiB }", method: "PUT", use: Use{Bytes: 3072}, burst: 1, second: 0, reason: ReasonLimitBytes},
		"creates":              {limits: "{ creates: 3600 }", method: "PUT", use: Use{Create: true}, burst: 360, second: 1, reason: ReasonLimitCreates},
		"reads are no creates": {limits: "{ creates: 1, bytes: 1 }", method: "GET", burst: 500, second: 500},
		"a body":               {limits: "{ body: 1KiB }", method: "PUT", use: Use{Bytes: 1025}, reason: ReasonLimitBody, status: 413},
		"a body that fits":     {limits: "{ body: 1KiB }", method: "PUT", use: Use{Bytes: 1024}, burst: 500, second: 500},
		"none":                 {limits: "{ readers: 1 }", method: "GET", burst: 500, second: 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				counts := &limitCounts{}
				j := limitedJudge(t, row.limits, Config{Nodes: func() int { return max(1, row.nodes) }, Observer: counts})
				l := tokenLease(t, j, "ada")
				r := ask(row.method, "/")
				for _, want := range []int{row.burst, row.second} {
					got, d := admitted(j, r, l, row.use, 500)
					if got != want {
						t.Errorf("%d pass, want %d", got, want)
					}
					if row.reason == "" {
						continue
					}
					if row.status == 0 {
						row.status = http.StatusTooManyRequests
					}
					if d == nil || d.Reason != row.reason || d.Status != row.status || d.Slug != "limited" || (d.RetryAfter >= time.Second) != (row.status == 429) {
						t.Errorf("%+v", d)
					}
					<-time.After(time.Second)
				}
				if row.reason != "" && counts.of("acme", row.reason) != 1000-row.burst-row.second {
					t.Errorf("%d are counted", counts.of("acme", row.reason))
				}
			})
		})
	}
}

type limitCounts struct {
	noObserver
	mu     sync.Mutex
	counts map[string]int
}

func (c *limitCounts) Limited(project string, limit Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	c.counts[project+"/"+string(limit)]++
}

func (c *limitCounts) of(project string, limit Reason) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[project+"/"+string(limit)]
}

// An append waits for its turn for two seconds, and is refused only if its turn comes later.
func TestAppendsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := limitedJudge(t, "{ requests: 10 }", Config{})
		l := tokenLease(t, j, "ada")
		began := time.Now()
		var passed, refused atomic.Int32
		var last atomic.Int64
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				if d := j.Admit(ask("POST", "/"), l, Use{Bytes: 5}); d != nil {
					refused.Add(1)
					return
				}
				passed.Add(1)
				last.Store(max(last.Load(), int64(time.Since(began))))
			})
		}
		wg.Wait()
		// Twenty are the burst, twenty more have their turn within two seconds.
		if passed.Load() != 40 || refused.Load() != 20 || time.Duration(last.Load()) != 2*time.Second {
			t.Errorf("%d pass, the last after %v; %d are refused", passed.Load(), time.Duration(last.Load()), refused.Load())
		}
	})
}

// What leaves before its turn gives it back, and those that wait are bounded.
func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := limitedJudge(t, "{ requests: 1000 }", Config{})
		l := tokenLease(t, j, "ada")
		if n, _ := admitted(j, ask("GET", "/"), l, Use{}, 2000); n != 2000 {
			t.Fatal(n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var passed, refused atomic.Int32
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if d := j.Admit(ask("POST", "/").WithContext(ctx), l, Use{}); d == nil {
					passed.Add(1)
				} else if d.Reason == ReasonLimitWaiting {
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		if refused.Load() != 100-maxWaitingEach || passed.Load() != 0 {
			t.Errorf("%d are refused, %d pass", refused.Load(), passed.Load())
		}
		cancel()
		wg.Wait()
		if passed.Load() != 0 || refused.Load() != 100 {
			t.Errorf("%d pass, %d are refused", passed.Load(), refused.Load())
		}
		p := j.limiter.of(l)
		if lasts := p.use.requests.until.Load(); time.Duration(lasts) > 2*time.Second {
			t.Errorf("what left has not given back: %v", time.Duration(lasts))
		}
	})
}

// A principal that is over its limit costs no other anything; nor does one project another.
func TestPrincipalsAreApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := limitedJudge(t, "{ requests: 1000, principal: { requests: 5, readers: 2 }, public: { requests: 50 } }", Config{})
		ada, bob := tokenLease(t, j, "ada"), tokenLease(t, j, "bob")
		public := lease(t, j, ask("GET", "/"), "acme", "lobby/1")
		signed := lease(t, j, ask("GET", "/"+signedQuery("k1", "acme/p", time.Now().Unix()+60)), "acme", "p")
		for i, row := range []struct {
			l    Lease
			want int
		}{{ada, 10}, {bob, 10}, {public, 100}, {signed, 10}} {
			if n, _ := admitted(j, ask("GET", "/"), row.l, Use{}, 200); n != row.want {
				t.Errorf("%d: %d pass, want %d", i, n, row.want)
			}
		}
		r := ask("GET", "/")
		for _, l := range []Lease{ada, bob} {
			for i := range 3 {
				d := j.AddReader(r, l)
				if (d == nil) != (i < 2) || d != nil && d.Reason != ReasonLimitPrincipalReaders {
					t.Errorf("reader %d: %v", i, d)
				}
			}
		}
		if n := j.Readers()["acme"]; n != 4 {
			t.Errorf("%d readers", n)
		}
		j.RemoveReader(ada)
		if d := j.AddReader(r, ada); d != nil {
			t.Error(d)
		}
	})
}

// Live readers are those of the fleet, and the count of a node survives reloads.
func TestReadersOfTheFleet(t *testing.T) {
	t.Parallel()
	var others atomic.Int32
	file := strings.Replace(shopFile(t), "    public_age: 20s\n", "    public_age: 20s\n    limits: { readers: 10 }\n", 1)
	j := judgeOf(t, file, Config{OtherReaders: func(project string) int {
		if project != "acme" {
			t.Error(project)
		}
		return int(others.Load())
	}})
	l := tokenLease(t, j, "ada")
	r := ask("GET", "/")
	for range 6 {
		if d := j.AddReader(r, l); d != nil {
			t.Fatal(d)
		}
	}
	others.Store(4)
	if d := j.AddReader(r, l); reasonOf(d) != ReasonLimitReaders {
		t.Error(d)
	}
	if err := j.adoptFile([]byte(strings.Replace(file, "readers: 10", "readers: 11", 1))); err != nil {
		t.Fatal(err)
	}
	if d := j.AddReader(r, l); d != nil {
		t.Error(d)
	}
	if err := j.adoptFile([]byte(shopFile(t))); err != nil { // without limits, the count goes on
		t.Fatal(err)
	}
	for range 7 {
		j.RemoveReader(l)
	}
	if n := j.Readers()["acme"]; n != 0 {
		t.Errorf("%d readers", n)
	}
	if n := j.limiter.slots[l.slot].readers.Load(); n != 0 {
		t.Errorf("%d readers of the principal", n)
	}
}

// Whatever comes when, no bucket lets more pass than its burst and its rate.
func TestBucketHoldsItsRate(t *testing.T) {
	t.Parallel()
	r := perSecond(100)
	var b bucket
	now, passed := int64(0), 0
	rng := rand.New(rand.NewPCG(1, 2))
	for now < int64(10*time.Second) {
		now += rng.Int64N(int64(8 * time.Millisecond))
		if _, ok := b.reserve(r, 1, now, 0); ok {
			passed++
		}
	}
	if passed > 100*10+200 || passed < 100*10 {
		t.Errorf("%d pass in ten seconds", passed)
	}
}

// Where rights are observed a request is charged and counted the same, and never waits.
func TestObservedLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		counts := &limitCounts{}
		j := limitedJudge(t, "{ body: 1KiB, principal: { requests: 5 } }", Config{Observer: counts})
		l := tokenLease(t, j, "ada")
		began, would := time.Now(), 0
		for range 100 {
			if d := j.WouldAdmit(ask("POST", "/"), l, Use{Bytes: 1}); d != nil {
				would++
			}
		}
		if time.Since(began) > 0 || would != 100-5*2-5*2 { // a burst, and those that would wait for two seconds at most
			t.Errorf("%d of 100 would be refused, after %v", would, time.Since(began))
		}
		if d := j.WouldAdmit(ask("POST", "/"), l, Use{Bytes: 1025}); reasonOf(d) != ReasonLimitBody {
			t.Errorf("a long body: %v", d)
		}
		if n := counts.of("acme", ReasonLimitPrincipalRequests); n != would || counts.of("acme", ReasonLimitBody) != 1 {
			t.Errorf("%d are counted", n)
		}
	})
}

func TestLimitsThatAreWrong(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"{ requests: 0 }", "{ requests: -1 }", "{ requests: .nan }", "{ requests: .inf }", "{ readers: 0 }", "{ bytes: 10MB }", "{ bytes: -1 }",
		"{ bytes: 99999999999999999999 }", "{ body: x }", "{ request: 1 }", "{ principal: { bytes: 1 } }", "{}", "{ requests: }", "{ creates: many }",
	} {
		j := newJudge(Config{})
		if err := j.adoptFile([]byte(strings.Replace(shopFile(t), "    public_age: 20s\n", "    limits: "+bad+"\n", 1))); err == nil {
			t.Errorf("%s is taken", bad)
		}
		j.Close()
	}
	j := limitedJudge(t, "{ body: 2MiB, bytes: 1024 }", Config{})
	l := tokenLease(t, j, "ada")
	unannounced := ask("POST", "/")
	if d := j.Charge(unannounced, l, 2<<20+1); d == nil || d.Status != http.StatusRequestEntityTooLarge || d.Reason != ReasonLimitBody {
		t.Errorf("a body that came without announcement and is too long: %v", d)
	}
	if d := j.Charge(unannounced, l, 1<<20); d != nil {
		t.Errorf("a body that fits: %v", d)
	}
	if d := j.Admit(ask("PUT", "/"), l, Use{Bytes: 1}); reasonOf(d) != ReasonLimitBytes {
		t.Errorf("bytes that were not announced are not charged: %v", d)
	}
	if d := j.Admit(ask("PUT", "/"), Lease{}, Use{Bytes: 1 << 40}); d != nil {
		t.Errorf("a lease of no project: %v", d)
	}
}

func BenchmarkAdmit(b *testing.B) {
	j := limitedJudge(b, "{ requests: 1e12, bytes: 1GiB, principal: { requests: 1e12 } }", Config{})
	l := tokenLease(b, j, "ada")
	r := ask("POST", "/")
	b.ReportAllocs()
	for b.Loop() {
		if d := j.Admit(r, l, Use{Bytes: 1}); d != nil {
			b.Fatal(d)
		}
	}
}
