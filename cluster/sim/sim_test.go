package sim

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard/logtest"
)

var (
	seedFlag  = flag.Int64("seed", -1, "run this seed only")
	nodesFlag = flag.Int("nodes", 0, "with so many nodes (0: as the seed says)")
	seedsFlag = flag.Int("seeds", 4, "run so many seeds")
	firstFlag = flag.Uint64("first", 0, "from this one on")
	logFlag   = flag.Bool("log", false, "write the nodes' logs to stderr")
)

// TestSim runs the seeds, and prints how to repeat one that fails:
//
//	go test ./cluster/sim -run TestSim -seed=N -nodes=K
func TestSim(t *testing.T) {
	var all report
	began := time.Now()
	t.Run("seeds", func(t *testing.T) {
		first, n := *firstFlag, uint64(*seedsFlag)
		if *seedFlag >= 0 {
			first, n = uint64(*seedFlag), 1
		}
		for seed := first; seed < first+n; seed++ {
			p := newPlan(seed, *nodesFlag)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				s := &sim{plan: p}
				defer func() { all.add(s, time.Since(began)) }()
				synctest.Test(t, s.run)
			})
		}
	})
	all.print(t, time.Since(began))
}

// sim is one run.
type sim struct {
	t    *testing.T
	plan *plan
	net  *network
	mem  *logtest.Memory
	log  logTail
	zero time.Time

	newStoreTrouble logtest.Faults // what is wrong with a new process's access to storage

	streams []*stream
	writers []*writer
	readers []*reader
	ends    sync.WaitGroup // of processes that crashed

	mu       sync.Mutex
	rnd      *rand.Rand
	nodes    []*node
	starting bool
	clients  int
	ready    []*process
	faults   []*fault
	failures []string
	procs    []*process // all that ever ran

	// set once it is judged
	messages, acked int
	deliveries      int
	stalls          latencies
	byKind          map[kind]*latencies
}

// newRand returns one more source of chance, fixed by the seed.
func (s *sim) newRand() *rand.Rand {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rand.New(rand.NewPCG(s.rnd.Uint64(), s.rnd.Uint64()))
}

// maxSkew bounds the error of the clock by which a node dates changes of owners, and maxOff that of
// the clock that its streams see.
const (
	maxSkew = 2 * time.Second
	maxOff  = time.Hour
)

// drawSkew draws the error of a clock, within most.
func (s *sim) drawSkew(most time.Duration) time.Duration {
	if !s.plan.skewed {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(s.rnd.Int64N(int64(2*most))) - most
}

func (s *sim) progress(n int) {
	s.mu.Lock()
	s.deliveries += n
	s.mu.Unlock()
}

func (s *sim) since(t time.Time) time.Duration { return t.Sub(s.zero).Round(time.Millisecond) }

// failf records a failure; the run goes on.
func (s *sim) failf(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	s.logEvent("FAILURE", "what", text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) < 20 {
		s.failures = append(s.failures, fmt.Sprintf("%v: %s", s.since(time.Now()), text))
	}
}

func (s *sim) logEvent(what string, args ...any) {
	slog.New(s.log.handler()).Info(what, args...) //nolint:sloglint // the texts are the callers' constants
}

// run makes one run, in its bubble.
func (s *sim) run(t *testing.T) {
	s.t, s.zero, s.byKind = t, time.Now(), map[kind]*latencies{}
	s.log.zero = s.zero
	s.rnd = rand.New(rand.NewPCG(s.plan.seed, 5))
	s.net = newNetwork(s.plan.seed)
	s.net.names = s.podIPs
	s.mem = logtest.NewMemory(s.plan.seed)
	s.mem.Basin = "fantail-sim"
	s.mem.AppendsCreate = s.plan.makes
	s.playPlan()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) > 0 {
		for _, f := range s.failures {
			t.Error(f)
		}
		for _, f := range s.faults {
			if f.noVictim {
				continue
			}
			t.Logf("%v to %v: %s", s.since(f.began), s.since(f.ended), f)
		}
		t.Logf("%s; its log:\n%s", s.plan, s.log.last(60))
		t.Logf("again: go test ./cluster/sim -run TestSim -seed=%d -nodes=%d", s.plan.seed, s.plan.nodes)
	}
}

func (s *sim) playPlan() {
	s.starting = true
	for range s.plan.nodes {
		n := s.addNode()
		s.failUnlessStarted(n.start())
	}
	s.starting = false
	ctx, stop := context.WithCancel(context.Background())
	var balancer, writers, readers, visitors sync.WaitGroup
	balancer.Go(func() { s.trackReady(ctx) })
	s.await("the fleet stands", calmUntil/2, s.checkWhole)
	if s.plan.skewed { // by the clocks that are behind, too
		<-time.After(maxSkew)
	}
	s.startClients(ctx)
	if s.plan.far {
		s.startCrowd()
	}
	wctx, wstop := context.WithCancel(ctx)
	rctx, rstop := context.WithCancel(ctx)
	for _, r := range s.readers {
		readers.Go(func() { r.run(rctx) })
	}
	for _, w := range s.writers {
		writers.Go(func() { w.run(wctx) })
	}
	for i := range restingStreams {
		v := s.client("visitor", &stream{name: fmt.Sprintf("sim/rest%d", i), ttl: restingTTL}, false)
		visitors.Go(func() { v.visitRestingStream(wctx) })
	}
	seen := &storeCosts{owners: map[*stream]string{}}
	for _, p := range s.procs {
		seen.takeoverReads += s.takeoverReads(p.store.Counts())
	}
	lookout, blink := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		for s.plan.mix == mixPlanned && sleepUnlessDone(lookout, sampleEvery) {
			s.sampleCosts(seen)
		}
	})
	s.runFaults(s.zero)
	s.await("I13: whole again", 20*time.Second, s.checkWhole)
	<-time.After(time.Until(s.zero.Add(healedAt + quiet - 5*time.Second)))
	asked := s.metricOfRunning("fantail_not_owner_total")
	<-time.After(time.Until(s.zero.Add(healedAt + quiet)))
	if more := s.metricOfRunning("fantail_not_owner_total") - asked; more > 0 {
		s.failf("I8: %v requests went to the wrong owner after quiet", more)
	}
	if err := s.checkWhole(); err != nil {
		s.failf("I7: after quiet: %v", err)
	}
	wstop()
	writers.Wait()
	visitors.Wait()
	<-time.After(finish)
	if open, want := s.openSessions(), s.followedStreams(); open != want && !s.plan.auto || open > want {
		s.failf("I5: %d sessions for %d streams that are followed", open, want)
	}
	blink()
	looking.Wait()
	s.checkCosts(seen)
	s.checkDrains()
	s.checkAll()
	rstop()
	readers.Wait()
	s.checkNothingLeft()
	stop()
	balancer.Wait()
	s.stopAll()
	for _, f := range s.faults {
		if f.missed(s.plan.auto) {
			s.failf("the fault %s did not fire", f)
		}
	}
}

// metricOfRunning returns the sum of a metric over the processes that run.
func (s *sim) metricOfRunning(name string) (v float64) {
	for _, p := range s.running() {
		v += p.gauge(name)
	}
	return v
}

// trackReady keeps the list of processes that are ready.
func (s *sim) trackReady(ctx context.Context) {
	for sleepUnlessDone(ctx, 250*time.Millisecond) {
		var ready []*process
		for _, p := range s.running() {
			if p.ready() {
				ready = append(ready, p)
			}
		}
		s.mu.Lock()
		s.ready = ready
		s.mu.Unlock()
	}
}

// await waits until check finds nothing wrong.
func (s *sim) await(what string, within time.Duration, check func() error) {
	began := time.Now()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Since(began) > within {
			s.failf("%s: not after %v: %v", what, within, err)
			return
		}
		<-time.After(100 * time.Millisecond)
	}
}

// startClients creates the streams and their clients.
func (s *sim) startClients(ctx context.Context) {
	rnd := s.newRand()
	for i := range s.plan.streams {
		st := &stream{name: fmt.Sprintf("sim/s%d", i), json: i%2 == 1}
		if i%3 != 0 {
			st.ttl = ttlWhileUsed
		}
		s.streams = append(s.streams, st)
		maker := s.client("maker", st, false)
		maker.create(ctx)
		for j := range 1 + rnd.IntN(2) {
			s.writers = append(s.writers, &writer{
				client:   s.client(fmt.Sprintf("w%d.%d", i, j), st, true),
				producer: rnd.IntN(2) == 0, large: i == 0,
				pace: 100*time.Millisecond + time.Duration(rnd.Int64N(int64(900*time.Millisecond))),
			})
		}
		for j := range s.plan.readers {
			from := "-1"
			if j > 0 && rnd.IntN(3) == 0 {
				from = "now"
			}
			s.readers = append(s.readers, &reader{
				client: s.client(fmt.Sprintf("r%d.%d", i, j), st, false), from: from,
			})
		}
		if i%3 == 0 {
			s.readers = append(s.readers, &reader{
				client: s.client(fmt.Sprintf("p%d", i), st, true), from: "-1", poll: true,
			})
		}
	}
}

// crowd writes to one stream, so many that several batches of it are on their way to a storage that
// is far away.
const crowd = 6

// startCrowd adds the writers of the crowd.
func (s *sim) startCrowd() {
	st := s.streams[1]
	for j := range crowd {
		s.writers = append(s.writers, &writer{
			client:   s.client(fmt.Sprintf("c%d", j), st, true),
			producer: j%2 == 0, pace: 30 * time.Millisecond,
		})
	}
}

// checkNothingLeft checks I14: nothing is left of the last client.
func (s *sim) checkNothingLeft() {
	for _, w := range s.writers {
		w.http.CloseIdleConnections()
	}
	for _, r := range s.readers {
		r.http.CloseIdleConnections()
	}
	<-time.After(75 * time.Second) // the minute for which a session may linger
	for _, p := range s.running() {
		for _, g := range []string{
			"fantail_readers", "fantail_relay_subscriptions", "fantail_followed_streams", "fantail_s2_read_sessions",
		} {
			if v := p.gauge(g); v != 0 {
				s.failf("I14: %s: %s is %v", p.n.name, g, v)
			}
		}
	}
}

// stopAll stops all nodes, and gives what is left of them a minute to end: the bubble reports what
// does not.
func (s *sim) stopAll() {
	var wg sync.WaitGroup
	for _, p := range s.running() {
		wg.Go(p.stop)
	}
	wg.Wait()
	s.ends.Wait()
	<-time.After(time.Minute)
}

// logTail keeps the last lines of the log.
type logTail struct {
	zero  time.Time
	mu    sync.Mutex
	lines []string
}

const maxLogLines = 4000

func (t *logTail) handler() slog.Handler {
	level := slog.LevelInfo
	if *logFlag {
		level = slog.LevelDebug
	}
	return slog.NewTextHandler(t, &slog.HandlerOptions{
		Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				a.Value = slog.DurationValue(a.Value.Time().Sub(t.zero))
			}
			return a
		},
	})
}

// Write implements io.Writer.
func (t *logTail) Write(line []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if *logFlag {
		_, _ = io.Copy(os.Stderr, bytes.NewReader(line))
	}
	if len(t.lines) >= maxLogLines {
		t.lines = append(t.lines[:0], t.lines[maxLogLines/2:]...)
	}
	t.lines = append(t.lines, string(line))
	return len(line), nil
}

func (t *logTail) last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines[max(len(t.lines)-n, 0):], "")
}

// report holds the results of all runs.
type report struct {
	mu     sync.Mutex
	runs   int
	byMix  map[mix]*latencies
	byKind map[kind]*latencies // of runs in which that alone went wrong
}

func (r *report) add(s *sim, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs++
	if r.byMix == nil {
		r.byMix, r.byKind = map[mix]*latencies{}, map[kind]*latencies{}
	}
	merge(r.byMix, s.plan.mix, &s.stalls)
	for k, l := range s.byKind {
		merge(r.byKind, k, l)
	}
	fired := map[kind]int{}
	for _, f := range s.faults {
		if !f.noVictim {
			fired[f.kind]++
		}
	}
	say("%s; %v; %d messages (%d acknowledged), %d delivered; stall %v; %.1f s\n",
		s.plan, fired, s.messages, s.acked, s.deliveries, worst(s.stalls.read), took.Seconds())
}

func merge[K comparable](m map[K]*latencies, k K, l *latencies) {
	if m[k] == nil {
		m[k] = &latencies{}
	}
	m[k].add(l)
}

func say(format string, a ...any) { _, _ = fmt.Fprintf(os.Stdout, format, a...) }

func worst(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	return slices.Max(ds).Round(time.Millisecond)
}

// maxLatency bounds what 99 of a hundred messages may take to a connected reader (I9), where
// nothing else is wrong. noteLatency checks the bound of planned changes for each message.
var maxLatency = map[kind]time.Duration{kill: 2 * time.Second, lose: 6 * time.Second}

// print prints the table of latencies.
func (r *report) print(t *testing.T, took time.Duration) {
	say("%d runs in %.0f s\n", r.runs, took.Seconds())
	const row = "%-10s %-28s %-28s %-28s\n"
	say(row, "p50/p99/max", "log to reader", "to one that came back", "append")
	for _, m := range mixes {
		if l := r.byMix[m]; l != nil {
			say(row, m, quantiles(l.read), quantiles(l.reconnected), quantiles(l.write))
		}
	}
	say("from the beginning of each to %v after its end, if nothing else is wrong\n", blameFor)
	for _, k := range slices.Sorted(maps.Keys(r.byKind)) {
		l := r.byKind[k]
		say(row, k, quantiles(l.read), quantiles(l.reconnected), quantiles(l.write))
		if b := maxLatency[k]; b > 0 && quantile(l.read, 0.99) > b {
			t.Errorf("I9: %s: %v to a reader, of 99 in a hundred messages", k, quantile(l.read, 0.99))
		}
	}
}

func quantiles(ds []time.Duration) string {
	if len(ds) == 0 {
		return "-"
	}
	slices.Sort(ds)
	at := func(q float64) time.Duration { return quantile(ds, q).Round(time.Millisecond) }
	return fmt.Sprintf("%v / %v / %v", at(0.5), at(0.99), at(1))
}

// quantile returns a quantile of sorted durations.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	return ds[int(q*float64(len(ds)-1))]
}
