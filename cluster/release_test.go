package cluster

import (
	"errors"
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
