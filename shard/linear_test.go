package shard_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// logModel is a stream as its clients see it: an append adds to the end, a read
// sees everything so far.
var logModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if m, ok := input.(string); ok { // an append
			return true, state.(string) + m + ","
		}
		return output.(string) == state.(string), state
	},
}

// Two rival owners, clients that append and read through either, and faults: the history is
// linearizable, except that a read may be as old as an answer from memory may be
// (cluster/DESIGN.md, "What memory may answer").
func TestLinearizable(t *testing.T) {
	for range 10 {
		synctest.Test(t, testLinearizable)
	}
}

func testLinearizable(t *testing.T) {
	log := logtest.NewMemory(rand.Uint64())
	log.Latency = 10 * time.Millisecond
	hosts := []*shard.Manager{node(t, log), node(t, log)}
	do(t, hosts[0], create("text/plain"), shard.CodeCreated)
	log.SetFaultOdds(faults)
	var mu sync.Mutex
	var ops []porcupine.Operation
	began := time.Now()
	note := func(client int, in, out any, from time.Time) {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, porcupine.Operation{
			ClientId: client, Input: in, Call: int64(from.Sub(began)), Output: out,
			Return: int64(time.Since(began)),
		})
	}
	var wg sync.WaitGroup
	for c := range 5 {
		wg.Go(func() {
			for i := range 12 {
				advance(rand.N(300 * time.Millisecond))
				from := time.Now()
				if rand.N(2) == 0 {
					m := fmt.Sprintf("%d-%d", c, i)
					retryDo(t, hosts, appendReq("text/plain", m))
					note(c, m, nil, from)
					continue
				}
				h := hosts[rand.N(2)]
				info, err := h.Info(t.Context(), stream, 0)
				if err != nil {
					continue // S2 failed just then: nothing was read
				}
				got, err := readUpTo(h, info)
				if err == nil {
					note(c, nil, strings.Join(append(got, ""), ","), from.Add(-250*time.Millisecond))
				}
			}
		})
	}
	wg.Wait()
	log.SetFaultOdds(logtest.FaultOdds{})
	if !porcupine.CheckOperations(logModel, ops) {
		t.Fatalf("not linearizable: %+v", ops)
	}
}

// readUpTo returns every message below info's tail.
func readUpTo(h *shard.Manager, info shard.Info) (got []string, err error) {
	for at := info.Start; at < info.Tail; {
		r, err := h.ReadPage(context.Background(), stream, info, at)
		if err != nil {
			return nil, err
		}
		for i := r.Search(at); i < r.Len(); i++ {
			if m := r.Message(i); m.Pos < info.Tail {
				got = append(got, string(m.Body))
			}
		}
		at = r.To()
	}
	return got, nil
}
