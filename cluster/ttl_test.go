package cluster

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// A read on any node extends a TTL, and a description on none does. Once it is over the stream is
// gone on every node, and its followers hear of it.
func TestReadsOnAnyNodeExtendATTL(t *testing.T) {
	t.Parallel()
	var passed atomic.Int64
	began := time.Now()
	f := newFleetAt(t, 3, func() time.Time { return began.Add(time.Duration(passed.Load())) })
	advance := func(d time.Duration) { passed.Add(int64(d)) }
	id := f.streamOwnedBy(f.nodes[0])
	create := write(id, shard.OpCreate, "a")
	create.HasTTL, create.TTL = true, 10
	f.mustDo(f.nodes[1], create, shard.CodeCreated)
	exists := func(s *testNode, a shard.InfoOptions) bool {
		info, err := s.Info(t.Context(), id, a)
		if err != nil {
			t.Fatal(err)
		}
		return info.Exists
	}
	for i := range 9 {
		advance(8 * time.Second)
		if !exists(f.nodes[i%3], shard.InfoTouch) {
			t.Fatalf("expired though it was read (%d)", i)
		}
	}
	r := f.startReader(f.nodes[2], id) // a live reader, on a node that does not own it
	advance(10 * time.Minute)
	if !exists(f.nodes[1], 0) {
		t.Fatal("expired under its reader")
	}
	r.release()
	f.eventually("the owner knows that nobody follows it", func() bool { return !f.nodes[0].local.hasFeeds(id) })
	for range 3 {
		advance(3 * time.Second)
		for _, s := range f.nodes {
			if !exists(s, 0) {
				t.Fatal("expired too early")
			}
		}
	}
	advance(2 * time.Second)
	for _, s := range f.nodes {
		if exists(s, shard.InfoTouch|shard.InfoAllowCached) {
			t.Fatal("still there after its time")
		}
		if _, _, err := s.Follow(t.Context(), id, 0); !errors.Is(err, shard.ErrNotFound) {
			t.Fatalf("follow: %v", err)
		}
	}
	f.mustDo(f.nodes[2], write(id, shard.OpCreate, "new"), shard.CodeCreated)
	f.awaitMessages(f.startReader(f.nodes[1], id), []string{"new"})
}
