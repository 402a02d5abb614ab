package shard_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// pipelining returns a Manager that pipelines on a log that is far away.
func pipelining(t testing.TB, log shard.Log) *shard.Manager {
	t.Helper()
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{Pipelining: shard.PipeliningAuto})
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// openLoop appends at a rate for a time, whether earlier appends are answered or not, and returns how
// long each took, sorted.
func openLoop(t *testing.T, h *shard.Manager, perSecond int, d time.Duration, req func(i int) *shard.Request) (took []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range int(d.Seconds() * float64(perSecond)) {
		wg.Go(func() {
			began := time.Now()
			if out, err := h.Do(t.Context(), req(i)); err != nil || out.Code != shard.CodeAppended {
				t.Errorf("append %d: %+v, %v", i, out, err)
			}
			mu.Lock()
			took = append(took, time.Since(began))
			mu.Unlock()
		})
		advance(time.Second / time.Duration(perSecond))
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

func plain(i int) *shard.Request { return appendReq("text/plain", fmt.Sprint(i)) }

// A caller that appends while batches are on their way waits for one answer of storage, and not for
// two.
func TestPipelinedAppendTakesOneRoundTrip(t *testing.T) {
	for _, c := range []struct {
		trip      time.Duration
		perSecond int
		p50, p99  float64 // round trips
		batches   int     // a second
	}{
		{50 * time.Millisecond, 50, 1.001, 1.001, 51},
		{50 * time.Millisecond, 1000, 1.06, 1.15, 200},
		{400 * time.Millisecond, 50, 1.05, 1.15, 40},
		{400 * time.Millisecond, 1000, 1.05, 1.15, 40},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := logtest.NewMemory(1)
			log.Latency = c.trip
			h := pipelining(t, log)
			do(t, h, create("text/plain"), shard.CodeCreated)
			openLoop(t, h, c.perSecond, time.Second, plain) // from now on there is a session
			before := log.Ops()
			took := openLoop(t, h, c.perSecond, 4*time.Second, plain)
			trips := func(p float64) float64 {
				return float64(took[int(p*float64(len(took)-1))]) / float64(c.trip)
			}
			if trips(0.5) > c.p50 || trips(0.99) > c.p99 {
				t.Errorf("%v, %d a second: p50 %.3f and p99 %.3f round trips", c.trip, c.perSecond, trips(0.5), trips(0.99))
			}
			if n := (log.Ops().Appends - before.Appends) / 4; n > c.batches {
				t.Errorf("%v, %d a second: %d batches a second", c.trip, c.perSecond, n)
			}
			if n := log.Ops().AppendSessions; n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// A writer that waits for each answer needs no session, and neither does storage that is near.
func TestNoSessionWhereNobodyWouldWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		for i := range 50 {
			do(t, h, plain(i), shard.CodeAppended)
		}
		near := logtest.NewMemory(1)
		near.Latency = 2 * time.Millisecond
		g := pipelining(t, near)
		do(t, g, create("text/plain"), shard.CodeCreated)
		openLoop(t, g, 2000, time.Second, plain)
		if a, b := log.Ops().AppendSessions, near.Ops().AppendSessions; a != 0 || b != 0 {
			t.Errorf("%d and %d sessions", a, b)
		}
	})
}

// The session of a stream ends when no caller has come for a while, and nothing stays behind.
func TestPipelineEndsInQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		openLoop(t, h, 100, time.Second, plain)
		advance(time.Second)
		if n := h.AppendSessions(); n != 1 {
			t.Errorf("%d sessions a second later", n)
		}
		advance(2 * time.Second)
		if n := h.AppendSessions(); n != 0 {
			t.Errorf("%d sessions in quiet", n)
		}
		if !h.DropUnused(stream) {
			t.Error("the stream is still used")
		}
	})
}

// A foreign record among the batches in flight has all behind it decided again, in order: producers
// notice nothing.
func TestForeignRecordAmongBatchesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		const n = 400
		produced := func(i int) *shard.Request {
			r := plain(i)
			r.Producer = &shard.Producer{ID: "p", Seq: uint64(i)}
			return r
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 5 {
				advance(100*time.Millisecond + 7*time.Millisecond)
				log.AppendForeign(stream, fmt.Sprint("foreign ", i))
			}
		}()
		openLoop(t, h, 200, n/200*time.Second, produced)
		<-done
		next := 0
		for _, m := range history(t, h) {
			if m == fmt.Sprint(next) {
				next++
			}
		}
		if got := history(t, h); next != n || len(got) != n+5 {
			t.Errorf("%d in order of %d, %d messages", next, n, len(got))
		}
		if onSession, _ := h.BatchesOnSessions(); onSession < 20 {
			t.Errorf("%d batches on sessions", onSession)
		}
	})
}

// A duplicate of an append in flight waits for it. What no record proves waits for a tail check, and
// does not hold up what comes behind it.
func TestRefusalsOnBatchesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		background := make(chan struct{})
		go func() {
			defer close(background)
			openLoop(t, h, 200, 2*time.Second, plain)
		}()
		advance(time.Second)
		first := plain(1)
		first.Producer = &shard.Producer{ID: "p"}
		again := plain(1)
		again.Producer = first.Producer
		gap := plain(1)
		gap.Producer = &shard.Producer{ID: "p", Seq: 7}
		waits := []func() (shard.Outcome, error){}
		began := time.Now()
		for _, r := range []*shard.Request{first, again, gap} {
			waits = append(waits, doLater(t.Context(), h, r))
			advance(6 * time.Millisecond)
		}
		for i, want := range []shard.Code{shard.CodeAppended, shard.CodeDuplicate, shard.CodeSeqGap} {
			out, err := waits[i]()
			if err != nil || out.Code != want {
				t.Errorf("%d: %+v, %v", i, out, err)
			}
		}
		if d := time.Since(began); d < 50*time.Millisecond || d > 90*time.Millisecond {
			t.Errorf("after %v", d)
		}
		<-background
		for _, c := range []struct { // with nothing else in flight
			req  *shard.Request
			want shard.Code
			took time.Duration
		}{{again, shard.CodeDuplicate, 0}, {gap, shard.CodeSeqGap, 0}, {first, shard.CodeAppended, 0}} {
			began := time.Now()
			do(t, h, c.req, c.want)
			if d := time.Since(began); d > c.took {
				t.Errorf("%d alone took %v", c.want, d)
			}
		}
		if n := h.AppendSessions(); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

// An append in parts sends its parts together, and is visible as a whole.
func TestPipelinedParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		do(t, h, plain(0), shard.CodeAppended)
		began := time.Now()
		big := appendReq("text/plain", string(make([]byte, 15<<20)))
		do(t, h, big, shard.CodeAppended)
		if d := time.Since(began); d > 150*time.Millisecond {
			t.Errorf("15 MiB took %v", d)
		}
		do(t, h, plain(2), shard.CodeAppended)
		if got := history(t, h); len(got) != 3 || len(got[1]) != 15<<20 {
			t.Errorf("%d messages", len(got))
		}
		heir := node(t, log)
		if got := history(t, heir); len(got) != 3 || len(got[1]) != 15<<20 {
			t.Errorf("%d messages", len(got))
		}
	})
}

// A stream is handed over with several batches in flight: each append is written once, in order, and
// told so, or certainly not written.
func TestHandoverWithBatchesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		openLoop(t, h, 200, time.Second, plain)
		var waits []func() (shard.Outcome, error)
		for i := range 40 {
			waits = append(waits, doLater(t.Context(), h, plain(1000+i)))
			advance(5 * time.Millisecond)
		}
		began := time.Now()
		given, ok := h.HandOver(stream, 0)
		if d := time.Since(began); !ok || d > 60*time.Millisecond {
			t.Errorf("handed over: %t after %v", ok, d)
		}
		heir := pipelining(t, log)
		if err := heir.InstallHandover(stream, given); err != nil {
			t.Fatal(err)
		}
		reads := log.Ops().Reads
		do(t, heir, plain(2000), shard.CodeAppended)
		if n := log.Ops().Reads - reads; n != 0 {
			t.Errorf("the heir had to read: %d", n)
		}
		written := 0
		for i, wait := range waits {
			switch out, err := wait(); {
			case err == nil && out.Code == shard.CodeAppended:
				written++
			case !errors.Is(err, shard.ErrNotOwner) || errors.Is(err, shard.ErrOutcomeUnknown):
				t.Errorf("%d: %+v, %v", i, out, err)
			}
		}
		got := history(t, heir)
		if len(got) != 200+written+1 || written < 30 {
			t.Errorf("%d messages, %d written", len(got), written)
		}
	})
}

// A session breaks with batches in flight, of which some are written, or still will be.
func TestSessionBreaksWithBatchesInFlight(t *testing.T) {
	for _, c := range []struct {
		name string
		odds logtest.FaultOdds
	}{
		{"lost acks", logtest.FaultOdds{LoseAck: 0.02}},
		{"lost requests", logtest.FaultOdds{LoseRequest: 0.02}},
		{"late", logtest.FaultOdds{LateAck: 0.02, LateBy: 300 * time.Millisecond}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logtest.NewMemory(2)
				log.Latency = 50 * time.Millisecond
				h := pipelining(t, log)
				do(t, h, create("text/plain"), shard.CodeCreated)
				openLoop(t, h, 200, time.Second, plain)
				log.SetFaultOdds(c.odds)
				openLoop(t, h, 200, 20*time.Second, func(i int) *shard.Request {
					r := plain(i)
					r.Producer = &shard.Producer{ID: "p", Seq: uint64(i)}
					return r
				})
				log.SetFaultOdds(logtest.FaultOdds{})
				if n := log.Ops().AppendSessions; n < 5 {
					t.Errorf("%d sessions", n)
				}
				got := history(t, h)
				if len(got) != 200+4000 {
					t.Fatalf("%d messages", len(got))
				}
				for i, m := range got[200:] {
					if m != fmt.Sprint(i) {
						t.Fatalf("%s at %d", m, i)
					}
				}
				equal(t, history(t, node(t, log)), got)
			})
		})
	}
}

// A stream that is full of writers and checkpoints is the same to its next owner.
func TestPipelinedCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		produced := func(i int) *shard.Request {
			r := plain(i)
			r.Producer = &shard.Producer{ID: fmt.Sprint("p", i%50), Seq: uint64(i / 50)}
			return r
		}
		openLoop(t, h, 1000, 5*time.Second, produced)
		heir := pipelining(t, log)
		for i := range 50 {
			do(t, heir, produced(4950+i), shard.CodeDuplicate)
			do(t, heir, produced(5000+i), shard.CodeAppended)
			do(t, h, produced(5000+i), shard.CodeDuplicate)
		}
		if n := len(history(t, heir)); n != 5050 {
			t.Errorf("%d messages", n)
		}
	})
}

// Callers that leave, and a Manager that closes, with batches in flight.
func TestPipelineCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		openLoop(t, h, 200, time.Second, plain)
		ctx, cancel := context.WithCancel(t.Context())
		var waits []func() (shard.Outcome, error)
		for i := range 20 {
			c := t.Context()
			if i%2 == 0 {
				c = ctx
			}
			waits = append(waits, doLater(c, h, plain(1000+i)))
			advance(5 * time.Millisecond)
		}
		cancel()
		_ = h.Close()
		for i, wait := range waits {
			if out, err := wait(); i%2 == 1 && (err != nil || out.Code != shard.CodeAppended) && !errors.Is(err, shard.ErrNotOwner) {
				t.Errorf("%d: %+v, %v", i, out, err)
			}
		}
	})
}

// Two owners pipeline on one stream, with many batches in flight and few faults: each accepted append
// is in the log once, and a writer's are in order.
func TestRivalsWithManyBatchesInFlight(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			log := logtest.NewMemory(seed)
			log.Latency = 60 * time.Millisecond
			hosts := []*shard.Manager{pipelining(t, log), pipelining(t, log)}
			do(t, hosts[0], create("text/plain"), shard.CodeCreated)
			log.SetFaultOdds(logtest.FaultOdds{LoseAck: 0.004, LoseRequest: 0.004, LateAck: 0.004, LateBy: 500 * time.Millisecond})
			const writers, writes = 40, 20
			var wg sync.WaitGroup
			var mu sync.Mutex
			most := 0 // guarded by mu
			for w := range writers {
				wg.Go(func() {
					advance(time.Duration(w) * 3 * time.Millisecond)
					for i := range writes {
						own := hosts[:1]
						if w%20 == 19 && i%4 == 0 { // the other one now and then
							own = hosts[1:]
						}
						retryDo(t, own, appendReq("text/plain", fmt.Sprintf("%d-%d", w, i)))
						mu.Lock()
						most = max(most, hosts[0].BatchesInFlight())
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			log.SetFaultOdds(logtest.FaultOdds{})
			advance(10 * time.Second)
			next := map[string]int{}
			got := history(t, node(t, log))
			for _, m := range got {
				w, i, _ := strings.Cut(m, "-")
				if i != fmt.Sprint(next[w]) {
					t.Fatalf("seed %d: writer %s: %s where %d is next", seed, w, i, next[w])
				}
				next[w]++
			}
			if len(got) != writers*writes || most < 4 {
				t.Errorf("seed %d: %d messages; %d batches in flight at the most", seed, len(got), most)
			}
		})
	}
}

// TestSuiteWithPipelining runs the tests of this package once more, with several batches in flight.
func TestSuiteWithPipelining(t *testing.T) {
	if *pipelined || testing.Short() {
		t.Skip("once")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-pipelined", "-test.skip=TestPanicOfALeader|Fuzz|Example|TestPipelined")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out[max(0, len(out)-8000):])
	}
}

// A stream is released while storage answers nothing: the callers of what is in flight turn to the next
// owner, where each append is written once.
func TestHandoverWhileStorageIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := logtest.NewMemory(1)
		log := mem.NewClient(1, 50*time.Millisecond)
		h := pipelining(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		openLoop(t, h, 200, time.Second, plain)
		log.SetFaults(logtest.Faults{Stall: true})
		var waits []func() (shard.Outcome, error)
		var reqs []*shard.Request
		for i := range 20 {
			reqs = append(reqs, plain(1000+i))
			waits = append(waits, doLater(t.Context(), h, reqs[i]))
			advance(5 * time.Millisecond)
		}
		began := time.Now()
		_, ok := h.HandOver(stream, 0)
		if d := time.Since(began); ok || d > 600*time.Millisecond {
			t.Errorf("handed over: %t after %v", ok, d)
		}
		heir := pipelining(t, mem)
		for i, wait := range waits {
			out, err := wait()
			again := *reqs[i]
			switch {
			case err == nil:
				t.Errorf("%d: %+v", i, out)
			case errors.Is(err, shard.ErrOutcomeUnknown):
				again.Repeat = true
			case !errors.Is(err, shard.ErrNotOwner):
				t.Errorf("%d: %v", i, err)
			}
			do(t, heir, &again, shard.CodeAppended)
		}
		log.SetFaults(logtest.Faults{})
		advance(10 * time.Second)
		if got := history(t, node(t, mem)); len(got) != 220 {
			t.Errorf("%d messages", len(got))
		}
	})
}
