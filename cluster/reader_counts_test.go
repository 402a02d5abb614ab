package cluster

import (
	"fmt"
	"testing"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// awaitReaders waits until every living node says, if asked, that a stream has so many readers.
func (f *fleet) awaitReaders(id shard.StreamID, want int) {
	f.Helper()
	said := map[string]string{}
	f.eventually(fmt.Sprintf("%d readers are counted", want), func() bool {
		all := true
		for _, s := range f.living() {
			n, known := s.CountReaders(f.Context(), id)
			said[s.self] = fmt.Sprint(n, known)
			all = all && known && n == want
		}
		return all
	})
}

// awaitShown waits until a node that watches the number knows it.
func (f *fleet) awaitShown(s *testNode, id shard.StreamID, want int) {
	f.Helper()
	f.eventually(fmt.Sprintf("%s shows %d readers", s.self, want), func() bool {
		n, known := s.KnownReaders(id)
		return known && n == want
	})
}

// Every node tells how many readers all nodes have, whichever node owns the stream, and those that watch it are
// told of changes. A node that dies takes its readers along.
func TestReadersOfAllNodesAreCounted(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	for _, owner := range f.nodes {
		id := f.streamOwnedBy(owner)
		f.mustDo(owner, write(id, shard.OpCreate, "m"), shard.CodeCreated)
		f.awaitReaders(id, 0)
		var rs []*streamReader
		for i, s := range f.nodes {
			for range i + 1 {
				rs = append(rs, f.startReader(s, id))
			}
		}
		f.awaitReaders(id, 6)
		for _, s := range f.nodes {
			stop := s.WatchReaders(t.Context(), id)
			if n, known := s.KnownReaders(id); !known || n < 1 {
				t.Errorf("%s owns, %s knows %d, %v", owner.self, s.self, n, known)
			}
			f.awaitShown(s, id, 6)
			t.Cleanup(stop)
		}
		more := f.startReader(f.nodes[0], id)
		for _, s := range f.nodes {
			f.awaitShown(s, id, 7)
		}
		more.release()
		rs[5].release()
		for _, s := range f.nodes {
			f.awaitShown(s, id, 5)
		}
		for _, r := range rs[:5] {
			r.release()
		}
		f.awaitReaders(id, 0)
	}
	// A node with readers dies.
	id := f.streamOwnedBy(f.nodes[0])
	for _, s := range f.nodes {
		f.startReader(s, id)
	}
	f.awaitReaders(id, 3)
	f.killNode(f.nodes[2])
	f.awaitReaders(id, 2)
}

// The number is right again soon after the owner has left or died.
func TestReadersAreCountedUnderAnotherOwner(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]struct {
		do   func(f *fleet, owner *testNode)
		left int // of readers
	}{
		"leaves": {func(f *fleet, owner *testNode) {
			if err := owner.Leave(f.Context()); err != nil {
				f.Error(err)
			}
		}, 6},
		"dies": {func(f *fleet, owner *testNode) { f.killNode(owner) }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 3)
			owner := f.nodes[1]
			id := f.streamOwnedBy(owner)
			f.mustDo(owner, write(id, shard.OpCreate, "m"), shard.CodeCreated)
			for _, s := range f.nodes {
				f.startReader(s, id)
				f.startReader(s, id)
				t.Cleanup(s.WatchReaders(t.Context(), id))
			}
			f.awaitReaders(id, 6)
			change.do(f, owner)
			f.awaitReaders(id, change.left)
			for _, s := range f.living() {
				f.awaitShown(s, id, change.left)
			}
		})
	}
}

// Beside a member of a release that does not count, no number is known: it would be too low.
func TestReadersBesideAnEarlierReleaseAreNotKnown(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	a := f.nodes[0]
	id := f.streamOwnedBy(a)
	f.mustDo(a, write(id, shard.OpCreate), shard.CodeCreated)
	f.startReader(a, id)
	f.awaitReaders(id, 1)
	b := f.add(func(c *Config) { c.relayVersion = placement.RelayVersionReaders - 1 })
	f.awaitAgreement()
	f.eventually("the number is not known", func() bool {
		_, known := a.CountReaders(t.Context(), id)
		_, shown := a.KnownReaders(id)
		return !known && !shown
	})
	f.killNode(b)
	f.awaitReaders(id, 1)
}

// The sum is right in whichever order a report and its end arrive, and takes no memory once it is 0.
func TestFedReadersAddUp(t *testing.T) {
	t.Parallel()
	var f fedReaders
	for _, delta := range []int{-2, 5, -3} {
		f.add("p/s", delta)
	}
	if n := f.of("p/s"); n != 0 || len(f.byStream) != 0 {
		t.Errorf("%d, %v", n, f.byStream)
	}
}
