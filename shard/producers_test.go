package shard_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// producerAppend is an append of a producer: each call is another request.
func producerAppend(id string, epoch, seq uint64) *shard.Request {
	r := appendReq("text/plain", fmt.Sprintf("%s-%d-%d", id, epoch, seq))
	r.Producer = &shard.Producer{ID: id, Epoch: epoch, Seq: seq}
	return r
}

// The next owner of the stream knows what its producers had accepted: after the owner's death, and
// where the first owner takes the stream back.
func TestProducersSurviveOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		first := node(t, log)
		do(t, first, create("text/plain"), shard.CodeCreated)
		const producers = 40
		owners := []*shard.Manager{first, node(t, log), first, node(t, log)}
		for turn, owner := range owners {
			first.Drop(stream) // what it knew is gone
			for p := range producers {
				id := fmt.Sprint("p", p)
				for seq := range turn * 3 {
					out := do(t, owner, producerAppend(id, 0, uint64(seq)), shard.CodeDuplicate)
					if out.Producer == nil || out.Producer.Seq != uint64(turn*3-1) {
						t.Fatalf("turn %d, %s-%d: highest %+v", turn, id, seq, out.Producer)
					}
				}
				for seq := turn * 3; seq < turn*3+3; seq++ {
					do(t, owner, producerAppend(id, 0, uint64(seq)), shard.CodeAppended)
				}
				do(t, owner, producerAppend(id, 0, uint64(turn*3+4)), shard.CodeSeqGap)
			}
		}
		last := node(t, log)
		do(t, last, producerAppend("p0", 1, 0), shard.CodeAppended)
		do(t, last, producerAppend("p0", 0, 12), shard.CodeEpochStale)
		if n := len(history(t, last)); n != producers*len(owners)*3+1 {
			t.Errorf("%d messages", n)
		}
	})
}

// A duplicate of an append in flight gets the outcome of that append: it is no duplicate of an
// append that was never written.
func TestDuplicateWaitsForTheBatchInFlight(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			log := logtest.NewMemory(1)
			h := node(t, log)
			do(t, h, create("text/plain"), shard.CodeCreated)
			log.Latency = time.Second
			if lost { // a foreign write takes the position: the batch is refused, and decided again
				synctest.Wait()
				log.AppendForeign(stream, "foreign")
			}
			began := time.Now()
			one := doLater(t.Context(), h, producerAppend("p", 0, 0))
			two := doLater(t.Context(), h, producerAppend("p", 0, 0))
			synctest.Wait()
			a, err := one()
			b, err2 := two()
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			if a.Code+b.Code != shard.CodeAppended+shard.CodeDuplicate {
				t.Errorf("lost %v: codes %d and %d", lost, a.Code, b.Code)
			}
			if time.Since(began) < time.Second {
				t.Errorf("lost %v: the duplicate was answered before the append", lost)
			}
			want := []string{"p-0-0"}
			if lost {
				want = []string{"foreign", "p-0-0"}
			}
			equal(t, history(t, h), want)
		})
	}
}

// The append that a duplicate waits for fails: nothing is written, and the duplicate is not
// accepted.
func TestDuplicateOfAFailedAppendIsNotAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		log.Latency = time.Second
		log.SetFaultOdds(logtest.FaultOdds{LoseRequest: 1})
		one := doLater(t.Context(), h, producerAppend("p", 0, 0))
		two := doLater(t.Context(), h, producerAppend("p", 0, 0))
		for _, wait := range []func() (shard.Outcome, error){one, two} {
			if out, err := wait(); err == nil && out.Code.Accepted() {
				t.Errorf("code %d for what is nowhere", out.Code)
			} else if err != nil && !errors.Is(err, shard.ErrStoreDown) && !errors.Is(err, shard.ErrOutcomeUnknown) {
				t.Error(err)
			}
		}
		log.SetFaultOdds(logtest.FaultOdds{})
		equal(t, history(t, node(t, log)), nil)
		advance(shard.ProbeEvery)
		do(t, h, producerAppend("p", 0, 0), shard.CodeAppended)
		equal(t, history(t, h), []string{"p-0-0"})
	})
}

// Ten thousand producers of one stream, and some more: the table in a checkpoint is bounded, and
// holds those that wrote last.
func TestProducerTableIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		const producers = 12_000
		id := func(p int) string { return fmt.Sprintf("producer-%07d", p) } // 16 bytes
		before := heap()
		for p := range producers {
			advance(time.Millisecond)
			do(t, h, producerAppend(id(p), 0, 0), shard.CodeAppended)
		}
		for range 600 { // a checkpoint after the last of them
			do(t, h, appendReq("text/plain", "x"), shard.CodeAppended)
		}
		if used := heap() - before; used > 24<<20 {
			t.Errorf("%d MB for %d producers and their messages", used>>20, producers)
		}
		for name, owner := range map[string]*shard.Manager{"the owner": h, "an heir": node(t, log)} {
			known := 0
			for p := range producers {
				out, err := owner.Do(t.Context(), producerAppend(id(p), 0, 2)) // a gap, and says what is due
				if err != nil || out.Code != shard.CodeSeqGap {
					t.Fatal(out, err)
				}
				switch {
				case out.Expected == 1:
					known++
				case known > 0:
					t.Fatalf("%s knows producers from before %d, and not that one", name, p)
				}
			}
			if known < 10_000 || known > 256<<10/20 { // an entry takes some 25 bytes
				t.Errorf("%s knows %d of %d producers", name, known, producers)
			}
		}
	})
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
