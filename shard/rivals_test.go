package shard_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// faults holds the odds of the rival tests: one append in ten loses its ack, one in twenty never
// arrives, some arrive seconds late.
var faults = logtest.FaultOdds{LoseAck: 0.10, LoseRequest: 0.05, LateAck: 0.01, LateBy: 3 * time.Second}

// Two owners of one stream, and eight writers that retry through either: each accepted write is in
// the log exactly once, in order (I2, I3).
func TestRivalOwnersWriteEachAppendOnce(t *testing.T) { synctest.Test(t, testRivalsWithProducers) }

func testRivalsWithProducers(t *testing.T) {
	rivals(t, func(w, i int) *shard.Request {
		r := appendReq("text/plain", fmt.Sprintf("%d-%d", w, i))
		r.Producer = &shard.Producer{ID: fmt.Sprint("p", w), Seq: uint64(i)}
		return r
	}, func(t *testing.T, got []string) {
		next := map[string]int{}
		for _, m := range got {
			var w string
			var i int
			_, _ = fmt.Sscanf(m, "%1s-%d", &w, &i)
			if next[w] != i {
				t.Fatalf("writer %s: %d where %d is next", w, i, next[w])
			}
			next[w]++
		}
	})
}

// The same with identical bodies and no producers: only the append ids tell the writes apart.
func TestRivalOwnersTellEqualAppendsApart(t *testing.T) { synctest.Test(t, testRivalsIdentical) }

func testRivalsIdentical(t *testing.T) {
	rivals(t, func(int, int) *shard.Request {
		return appendReq("text/plain", "same")
	}, func(*testing.T, []string) {})
}

const (
	writers = 8
	writes  = 400 // each
)

func rivals(t *testing.T, req func(w, i int) *shard.Request, check func(*testing.T, []string)) {
	log := logtest.NewMemory(rand.Uint64())
	log.Latency = 40 * time.Millisecond // S2 Express
	hosts := []*shard.Manager{node(t, log), node(t, log)}
	do(t, hosts[0], create("text/plain"), shard.CodeCreated)
	log.SetFaultOdds(faults)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				retryDo(t, hosts, req(w, i))
			}
		})
	}
	wg.Wait()
	log.SetFaultOdds(logtest.FaultOdds{})
	advance(10 * time.Second) // whatever is late arrives now
	ops := log.Ops()
	if ops.LostAcks == 0 || ops.LostRequests == 0 || ops.LateAcks == 0 {
		t.Fatalf("faults did not fire: %+v", ops)
	}
	for _, h := range append(hosts, node(t, log)) {
		got := history(t, h)
		if len(got) != writers*writes {
			t.Fatalf("%d messages for %d accepted writes", len(got), writers*writes)
		}
		check(t, got)
	}
	onSession, onCall := hosts[0].BatchesOnSessions()
	if *pipelined && onSession == 0 {
		t.Error("nothing was pipelined")
	}
	t.Logf("%+v, %d batches on sessions, %d as calls", ops, onSession, onCall)
}

// retryDo gives the request to random owners until one has a verdict.
func retryDo(t *testing.T, hosts []*shard.Manager, r *shard.Request) {
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rand.N(4000))*time.Millisecond)
		out, err := hosts[rand.N(len(hosts))].Do(ctx, r)
		cancel()
		switch {
		case err == nil && (out.Code == shard.CodeAppended || out.Code == shard.CodeDuplicate):
			return
		case err == nil:
			t.Errorf("refused: %+v", out)
			return
		case try > 100:
			t.Errorf("no verdict: %v", err)
			return
		case errors.Is(err, shard.ErrOutcomeUnknown):
			t.Errorf("the window of ids cannot tell: %v", err)
			return
		}
		again := *r
		again.Repeat = true
		r = &again
	}
}

// A session brings another owner's records a moment late. With InfoRequireFresh the answer rests on
// a tail check.
func TestRequireFreshChecksTheTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		a, b := node(t, log), node(t, log.NewClient(1, 100*time.Millisecond))
		do(t, a, create("text/plain"), shard.CodeCreated)
		_, release, err := b.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		advance(time.Second)
		tail := do(t, a, appendReq("text/plain", "m"), shard.CodeAppended).Info.Tail
		info, err := b.Info(t.Context(), stream, 0)
		if err != nil || info.Tail == tail {
			t.Fatalf("the session is not late: %+v, %v", info, err)
		}
		if info, err = b.Info(t.Context(), stream, shard.InfoRequireFresh); err != nil || info.Tail != tail {
			t.Errorf("%+v, %v; the tail is %d", info, err, tail)
		}
	})
}
