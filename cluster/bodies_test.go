package cluster

import (
	"errors"
	"testing"

	"github.com/fantail-dev/fantail/shard"
)

// What a peer's write costs is counted where it is carried out, its messages' records included.
func TestPeersWritesAreCounted(t *testing.T) {
	f := &fleet{T: t, log: newFleet(t, 0).log}
	edge := f.add()
	owner := f.add(func(c *Config) { c.BodyBytes = 64 << 10 })
	f.settle()
	id := f.owned(owner)
	f.do(edge, write(id, shard.OpCreate), shard.CodeCreated)
	f.do(edge, write(id, shard.OpAppend, "small"), shard.CodeAppended)
	zeros := make([]string, 300)
	for i := range zeros {
		zeros[i] = "0"
	}
	if _, err := edge.Do(t.Context(), write(id, shard.OpAppend, zeros...)); !errors.Is(err, shard.ErrOverloaded) {
		t.Errorf("300 messages of a byte: %v", err)
	}
	f.do(edge, write(id, shard.OpAppend, "small"), shard.CodeAppended)
}
