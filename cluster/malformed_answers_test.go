package cluster

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// A description from a later or a broken release fails the call, and not the node.
func TestMalformedAnswersFailTheCallAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner, other := f.nodes[0], f.nodes[1]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
	owner.local.manager = &lyingServer{owner.local.manager}
	links := f.links()
	if _, err := other.Info(t.Context(), id, 0); !errors.Is(err, shard.ErrUnavailable) || errors.Is(err, placement.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(links, f.links()) {
		t.Error("links broke")
	}
}

// lyingServer describes streams that cannot exist.
type lyingServer struct{ streamManager }

func (lyingServer) Info(context.Context, shard.StreamID, shard.InfoOptions) (shard.Info, error) {
	return shard.Info{Exists: true, Generation: 1, Tail: 9}, nil
}
