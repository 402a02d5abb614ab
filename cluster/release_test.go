package cluster

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// While a member of an earlier release is there no stream is forked: as an owner it would create a
// plain stream, and as an edge it would show the fork without its past.
func TestRelayNoForksBesideAnEarlierRelease(t *testing.T) {
	f := newFleet(t, 1)
	a, b := f.nodes[0], f.add(func(c *Config) { c.relayVersion = placement.RelayVersionForks - 1 })
	f.awaitAgreement()
	src := f.streamOwnedBy(a)
	life := f.mustDo(a, write(src, shard.OpCreate, "inherited"), shard.CodeCreated).Info.Generation
	fork := write("default/fork", shard.OpCreate)
	fork.Fork = &shard.Fork{Source: src}
	fork.Source = &shard.ForkSource{Generation: life, Type: "text/plain", Chain: []shard.Ancestor{
		{Stream: src, Generation: life, Start: 1, Bound: 2},
	}}
	knowForks := func(all bool) func() bool {
		return func() bool { return a.View().AllSpeak(placement.RelayVersionForks) == all }
	}
	f.eventually("they know of each other", knowForks(false))
	if out, err := a.Do(f.Context(), fork); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("code %d, %v", out.Code, err)
	}
	f.killNode(b)
	f.eventually("the earlier release is gone", knowForks(true))
	f.mustDo(a, fork, shard.CodeCreated)
}

// Of appends that race for one place through every node one wins, with every node as the owner.
func TestRelayConditionsHoldOnEveryNode(t *testing.T) {
	f := newFleet(t, 3)
	f.awaitAgreement()
	for _, owner := range f.nodes {
		id := f.streamOwnedBy(owner)
		end := f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated).Info
		for round := range 5 {
			var wg sync.WaitGroup
			var won, lost atomic.Int32
			for i := range 30 {
				wg.Go(func() {
					q := write(id, shard.OpAppend, "m")
					q.IfMatch = &shard.TailCondition{Places: []shard.Place{{Generation: end.Generation, Pos: end.Tail}}}
					out, err := f.nodes[i%3].Do(f.Context(), q)
					switch {
					case err != nil || out.Info.Tail != end.Tail+1:
						t.Errorf("round %d: %+v, %v", round, out, err)
					case out.Code == shard.CodeAppended:
						won.Add(1)
					case out.Code == shard.CodeTailMoved:
						lost.Add(1)
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 || lost.Load() != 29 {
				t.Errorf("round %d: %d won, %d lost", round, won.Load(), lost.Load())
			}
			end.Tail++
		}
		empty := write(id, shard.OpAppend, "m")
		empty.IfMatch = &shard.TailCondition{} // no place meets it, and it is a condition all the same
		for _, n := range f.nodes {
			f.mustDo(n, empty, shard.CodeTailMoved)
		}
	}
}
