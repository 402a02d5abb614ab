package shard_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// newUnpacedManager is a node that reads any number of streams.
func newUnpacedManager(t testing.TB, log shard.Log, cfg shard.Config) (*shard.Manager, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	cfg.Metrics = reg
	if cfg.ColdOpens == 0 {
		cfg.ColdOpens = 1e9
	}
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), cfg)
	t.Cleanup(func() { _ = h.Close() })
	return h, reg
}

// metric returns the value of a metric without labels.
func metric(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func numberedStream(i int) shard.StreamID { return shard.StreamID(fmt.Sprintf("default/n%d", i)) }

func onStream(id shard.StreamID, q *shard.Request) *shard.Request {
	q.Stream = id
	return q
}

// With room for ten streams a node serves fifty: idle streams are evicted, and clients notice only
// the time of a read. The stream that is followed stays.
func TestIdleStreamsMakeRoom(t *testing.T) { synctest.Test(t, testIdleStreamsMakeRoom) }

func testIdleStreamsMakeRoom(t *testing.T) {
	const streams, room = 50, 10
	log := logtest.NewMemory(1)
	h, reg := newUnpacedManager(t, log, shard.Config{}.WithMaxStreams(room))
	first := do(t, h, create("text/plain"), shard.CodeCreated)
	tail, release, err := h.Follow(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	repeat := map[int]*shard.Request{}
	for i := range streams {
		do(t, h, onStream(numberedStream(i), create("text/plain", "a")), shard.CodeCreated)
		repeat[i] = onStream(numberedStream(i), appendReq("text/plain", fmt.Sprint(i)))
		do(t, h, repeat[i], shard.CodeAppended)
	}
	for i := range streams {
		if info, err := h.Info(t.Context(), numberedStream(i), 0); err != nil || info.Tail != 3 {
			t.Fatalf("stream %d: %+v, %v", i, info, err)
		}
		again := *repeat[i]
		again.Repeat = true
		if out := do(t, h, &again, shard.CodeAppended); out.Info.Tail != 3 {
			t.Fatalf("stream %d: an append that is sent again is written again", i)
		}
		if n := len(h.OwnedStreams()); n > room+1 {
			t.Fatalf("%d streams in memory", n)
		}
	}
	do(t, h, appendReq("text/plain", "x"), shard.CodeAppended)
	equal(t, takeMessages(t, tail, first.Info.Tail, 1), []string{"x"})
	if n := metric(t, reg, "fantail_states_evicted_total"); n < streams {
		t.Errorf("%v evictions", n)
	}
}

// A request is refused only when everything in memory is in use.
func TestNewcomerIsRefusedWhenAllStreamsAreFollowed(t *testing.T) {
	synctest.Test(t, testFullOfFollowed)
}

func testFullOfFollowed(t *testing.T) {
	const room = 5
	h, _ := newUnpacedManager(t, logtest.NewMemory(1), shard.Config{}.WithMaxStreams(room))
	var release func()
	for i := range room + 1 {
		do(t, h, onStream(numberedStream(i), create("text/plain")), shard.CodeCreated)
		_, r, err := h.Follow(t.Context(), numberedStream(i), 0)
		if err != nil {
			t.Fatal(err)
		}
		if release != nil {
			defer release()
		}
		release = r
	}
	late := onStream(numberedStream(room+1), create("text/plain"))
	if _, err := h.Do(t.Context(), late); !errors.Is(err, shard.ErrOverloaded) {
		t.Fatalf("%v", err)
	}
	release()
	advance(2 * time.Minute) // the session's minute
	do(t, h, late, shard.CodeCreated)
}

// States are bounded by their bytes: here by their producers.
func TestStatesAreBoundedByBytes(t *testing.T) { synctest.Test(t, testStatesBounded) }

func testStatesBounded(t *testing.T) {
	const streams, producers, budget = 12, 300, 1 << 20
	h, reg := newUnpacedManager(t, logtest.NewMemory(1), shard.Config{StateBytes: budget})
	claim := func(s, p int, seq uint64) *shard.Request {
		q := onStream(numberedStream(s), appendReq("text/plain", "a"))
		q.Producer = &shard.Producer{ID: fmt.Sprintf("%0200d", p), Seq: seq}
		return q
	}
	for s := range streams {
		do(t, h, onStream(numberedStream(s), create("text/plain")), shard.CodeCreated)
		for p := range producers {
			do(t, h, claim(s, p, 0), shard.CodeAppended)
		}
		if b := metric(t, reg, "fantail_state_bytes"); b > budget+budget/8 {
			t.Fatalf("%v bytes of States after %d streams", b, s+1)
		}
	}
	if n := metric(t, reg, "fantail_states_evicted_total"); n == 0 {
		t.Fatal("nothing was evicted: the States cost less than this test thinks")
	}
	for s := range streams {
		do(t, h, claim(s, producers-1, 0), shard.CodeDuplicate)
		do(t, h, claim(s, 0, 1), shard.CodeAppended)
	}
}

// A flood of invented names evicts no stream, and is itself bounded.
func TestInventedNamesPushOutNoStream(t *testing.T) { synctest.Test(t, testInventedNames) }

func testInventedNames(t *testing.T) {
	const names = 100_000
	log := logtest.NewMemory(1)
	h, reg := newUnpacedManager(t, log, shard.Config{}.WithMaxStreams(3))
	for i := range 3 {
		do(t, h, onStream(numberedStream(i), create("text/plain")), shard.CodeCreated)
	}
	for i := range names {
		if _, err := h.Info(t.Context(), shard.StreamID(fmt.Sprint("default/invented", i)), 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		if !h.HasStream(numberedStream(i)) {
			t.Errorf("stream %d was forgotten", i)
		}
	}
	kept := metric(t, reg, "fantail_absent_names")
	if kept >= names || metric(t, reg, "fantail_absent_names_evicted_total") != names-kept {
		t.Errorf("%v names are kept of %d", kept, names)
	}
	advance(25 * time.Second)
	if n := metric(t, reg, "fantail_absent_names"); n != 0 {
		t.Errorf("%v names are still there", n)
	}
}

// A use that only memory knows of is not lost by eviction: the next owner grants the uses that
// there may have been.
func TestEvictedStreamKeepsItsTTL(t *testing.T) { synctest.Test(t, testEvictedTTL) }

func testEvictedTTL(t *testing.T) {
	h, _ := newUnpacedManager(t, logtest.NewMemory(1), shard.Config{}.WithMaxStreams(1))
	do(t, h, withTTL(300, "a"), shard.CodeCreated)
	advance(70 * time.Second) // less than what memory may be ahead
	if !exists(t, h, shard.InfoTouch) {
		t.Fatal("expired")
	}
	for i := range 3 {
		do(t, h, onStream(numberedStream(i), create("text/plain")), shard.CodeCreated)
	}
	if h.HasStream(stream) {
		t.Fatal("it is still in memory")
	}
	advance(299 * time.Second)
	if !exists(t, h, 0) {
		t.Error("expired before its TTL after the last use")
	}
}

// After a restart streams are opened in turn. Followers' streams all come, the most followed first;
// other requests are refused before they wait for long.
func TestColdOpensArePaced(t *testing.T) { synctest.Test(t, testColdOpens) }

func testColdOpens(t *testing.T) {
	const streams, perSecond = 1000, 50
	log := logtest.NewMemory(1)
	maker, _ := newUnpacedManager(t, log, shard.Config{})
	for i := range streams {
		do(t, maker, onStream(numberedStream(i), create("text/plain")), shard.CodeCreated)
	}
	h, reg := newUnpacedManager(t, log, shard.Config{ColdOpens: perSecond})
	var mu sync.Mutex
	var order []int
	var refused, served int
	var wg sync.WaitGroup
	began := time.Now()
	for i := range streams { // a burst's worth is used up by the first
		for range 1 + i%3 {
			wg.Go(func() {
				_, release, err := h.Follow(t.Context(), numberedStream(i), 0)
				if err != nil {
					t.Errorf("follow: %v", err)
					return
				}
				mu.Lock()
				order = append(order, i%3)
				mu.Unlock()
				release()
			})
		}
		if i%100 == 0 {
			synctest.Wait()
		}
	}
	for i := range 200 {
		wg.Go(func() {
			from := time.Now()
			_, err := h.Info(t.Context(), shard.StreamID(fmt.Sprint("default/no", i)), 0)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case shard.IsColdOpens(err) && errors.Is(err, shard.ErrOverloaded):
				refused++
			case err == nil:
				served++
			default:
				t.Errorf("state: %v", err)
			}
			if d := time.Since(from); d > 1500*time.Millisecond {
				t.Errorf("a request waited for %v", d)
			}
		})
	}
	for i := range 5 {
		wg.Go(func() {
			if _, err := h.Info(t.Context(), shard.StreamID(fmt.Sprint("default/soon", i)), shard.InfoWillFollow); err != nil {
				t.Errorf("who is about to follow is refused: %v", err)
			}
		})
	}
	gone, leave := context.WithCancel(t.Context())
	go func() { _, _, _ = h.Follow(gone, "default/left", 0) }()
	synctest.Wait()
	if n := metric(t, reg, "fantail_cold_opens_waiting"); n < streams-200 {
		t.Errorf("%v wait", n)
	}
	leave()
	wg.Wait()
	if refused < 150 || served == 0 || float64(refused) != metric(t, reg, "fantail_cold_opens_refused_total") {
		t.Errorf("%d refused, %d served", refused, served)
	}
	if d, want := time.Since(began), time.Second*(streams-2*perSecond)/perSecond; d < want || d > want*3/2 {
		t.Errorf("it took %v, want %v", d, want)
	}
	if log.Ops().Reads < streams { // and the stream without a follower any more was not read
		t.Errorf("%d reads", log.Ops().Reads)
	}
	if h.HasStream("default/left") {
		info, err := h.Info(t.Context(), "default/left", 0)
		t.Logf("%v %v", info, err)
	}
	late := slices.Clone(order[len(order)-streams/10:])
	if slices.Contains(late, 2) {
		t.Errorf("the most followed came last: %v", late)
	}
}

// A Stream is counted for its real memory, within a factor of two.
func TestMemoryChargeIsMeasured(t *testing.T) {
	const streams = 400
	log := logtest.NewMemory(1)
	maker, _ := newUnpacedManager(t, log, shard.Config{})
	bare := func(i int) shard.StreamID { return shard.StreamID(fmt.Sprint("bare/", i)) }
	busy := func(i int) shard.StreamID { return shard.StreamID(fmt.Sprint("busy/", i)) }
	many := func(i int) shard.StreamID { return shard.StreamID(fmt.Sprint("many/", i)) }
	for i := range streams {
		do(t, maker, onStream(bare(i), create("text/plain")), shard.CodeCreated)
		do(t, maker, onStream(busy(i), create("text/plain")), shard.CodeCreated)
		for range 100 {
			do(t, maker, onStream(busy(i), appendReq("text/plain", "a")), shard.CodeAppended)
		}
		do(t, maker, onStream(many(i), create("text/plain")), shard.CodeCreated)
		for p := range 100 {
			q := onStream(many(i), appendReq("text/plain", "a"))
			q.Producer = &shard.Producer{ID: fmt.Sprintf("%s-%03d", strings.Repeat("p", 60), p)}
			do(t, maker, q, shard.CodeAppended)
		}
	}
	_ = maker.Close()
	for name, id := range map[string]func(int) shard.StreamID{
		"bare": bare, "busy": busy, "many": many,
		"absent": func(i int) shard.StreamID { return shard.StreamID(fmt.Sprint("absent/", i)) },
	} {
		t.Run(name, func(t *testing.T) {
			tails := shard.NewTailBuffers(0, 0)
			reg := prometheus.NewRegistry()
			h := shard.NewManager(log, tails, shard.Config{ColdOpens: 1e9, Metrics: reg})
			before := heapInUse()
			for i := range streams {
				if _, err := h.Info(t.Context(), id(i), 0); err != nil {
					t.Fatal(err)
				}
			}
			costs := (float64(heapInUse()-before) - float64(tails.Bytes())) / streams
			said := metric(t, reg, "fantail_state_bytes") / streams
			if name == "absent" {
				said = float64(shard.AbsentBytes(h)) / streams
			}
			t.Logf("%s: %.0f bytes, said to be %.0f", name, costs, said)
			if said < costs/2 || said > 2*costs {
				t.Errorf("%s costs %.0f bytes and is said to cost %.0f", name, costs, said)
			}
			_ = h.Close()
		})
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A name without a stream costs S2 a call each time it is asked for; those calls are paced like the
// first.
func TestAbsentNamesAreAskedAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond = 50
		log := logtest.NewMemory(1)
		h, _ := newUnpacedManager(t, log, shard.Config{ColdOpens: perSecond})
		before := log.Ops()
		var refused atomic.Int64
		began := time.Now()
		for range 20 {
			var wg sync.WaitGroup
			for i := range 100 {
				id := shard.StreamID(fmt.Sprint("default/no", i%50))
				wg.Go(func() {
					var err error
					if i < 50 {
						_, err = h.Info(t.Context(), id, 0)
					} else {
						_, err = h.Do(t.Context(), onStream(id, appendReq("text/plain", "a")))
					}
					if shard.IsColdOpens(err) {
						refused.Add(1)
					} else if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			advance(500 * time.Millisecond)
		}
		after := log.Ops()
		may := 2*perSecond + int(perSecond*time.Since(began).Seconds()) + 1
		// An opening reads twice, side by side.
		if n := after.Tails - before.Tails + (after.Reads-before.Reads)/2; n > may || refused.Load() == 0 {
			t.Errorf("%d calls in %v for names without a stream, %d refused", n, time.Since(began), refused.Load())
		}
	})
}
