package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// waiting is a client of a node that waits for a stream.
type waiting struct {
	creationSignal
	node *testNode
	stop func()
}

// awaitOnAll has a client of each living node wait for a stream, and returns once each is known to the
// owner.
func (f *fleet) awaitOnAll(id shard.StreamID) (all []*waiting) {
	f.Helper()
	for _, s := range f.living() {
		w := &waiting{creationSignal: make(creationSignal, 1), node: s}
		var err error
		if w.stop, err = s.AwaitCreation(id, w); err != nil {
			f.Fatal(err)
		}
		f.Cleanup(w.stop)
		all = append(all, w)
	}
	f.awaitKnown(id)
	return all
}

// awaitKnown waits until the owner of a name knows that clients of every node wait for it: its own, and
// one subscription of each peer.
func (f *fleet) awaitKnown(id shard.StreamID) {
	f.Helper()
	f.eventually("the owner knows of the waits", func() bool {
		all := f.living()
		m := all[0].currentTable().Owner(id)
		for _, s := range all {
			want := 0.0
			if s.self == m.Name {
				want = 1
			}
			if s.metric(f.T, "fantail_awaited_names", "") != want {
				return false
			}
			if want == 1 && s.metric(f.T, "fantail_relay_subscriptions", "owner") != float64(len(all)-1) {
				return false
			}
		}
		return true
	})
}

// mustWake requires that a creation wakes every waiter within a second.
func (f *fleet) mustWake(all []*waiting, what string) {
	f.Helper()
	began := time.Now()
	for _, w := range all {
		select {
		case <-w.creationSignal:
		case <-time.After(20 * time.Second):
			f.Fatalf("%s: a waiter on %s is not woken", what, w.node.self)
		}
	}
	if took := time.Since(began); took > time.Second {
		f.Errorf("%s: it took %v", what, took)
	}
}

func (f *fleet) stopAll(all []*waiting) {
	f.Helper()
	for _, w := range all {
		w.stop()
	}
	f.eventually("nothing is left of the waits", func() bool {
		for _, s := range f.living() {
			if s.metric(f.T, "fantail_awaited_names", "") != 0 || s.metric(f.T, "fantail_relay_subscriptions", "owner") != 0 {
				return false
			}
		}
		return true
	})
}

// A creation through any node wakes the waiters of every node, whichever node owns the name. A wait opens no
// session. One that comes after the creation is woken too.
func TestCreationWakesEveryNode(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	for _, owner := range f.nodes {
		for i, through := range f.nodes {
			id := f.streamOwnedBy(owner) + shard.StreamID(fmt.Sprint("-", i))
			for owner.currentTable().Owner(id).Name != owner.self {
				id += "x"
			}
			all := f.awaitOnAll(id)
			if n := f.log.OpenSessions(); n != 0 {
				t.Errorf("%d sessions", n)
			}
			f.mustDo(through, write(id, shard.OpCreate), shard.CodeCreated)
			what := fmt.Sprintf("%s owns, created through %s", owner.self, through.self)
			f.mustWake(all, what)
			for _, w := range all {
				if info, err := w.node.Info(t.Context(), id, shard.InfoAllowCached); err != nil || !info.Exists {
					t.Errorf("%s: on %s: %+v, %v", what, w.node.self, info, err)
				}
			}
			late := make(creationSignal, 1)
			stop, err := through.AwaitCreation(id, late)
			if err != nil {
				t.Fatal(err)
			}
			f.mustWake([]*waiting{{late, through, stop}}, "a late wait")
			stop()
			f.stopAll(all)
		}
	}
}

// Waiters of one name on one node share a subscription, and its end.
func TestWaitersOfANodeShareASubscription(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	id := f.streamOwnedBy(f.nodes[0])
	all := append(f.awaitOnAll(id), f.awaitOnAll(id)...)
	f.awaitKnown(id)
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	f.mustWake(all, "two on each node")
	f.stopAll(all)
}

// An owner that leaves, or dies, or is new loses no waiter.
func TestOwnersChangeUnderWaiters(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(f *fleet, owner *testNode){
		"leaves": func(f *fleet, owner *testNode) {
			if err := owner.Leave(f.Context()); err != nil {
				f.Error(err)
			}
		},
		"dies": func(f *fleet, owner *testNode) { f.killNode(owner) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 3)
			owner := f.nodes[1]
			id := f.streamOwnedBy(owner)
			all := f.awaitOnAll(id)
			change(f, owner)
			f.eventually("another node owns it", func() bool {
				m := f.nodes[0].currentTable().Owner(id)
				return m != nil && m.Name != owner.self
			})
			// Without waiting until the others have asked there.
			f.mustDo(f.nodes[2], write(id, shard.OpCreate), shard.CodeCreated)
			for _, w := range all {
				if w.node.dead {
					continue
				}
				select {
				case <-w.creationSignal:
				case <-time.After(20 * time.Second):
					t.Fatalf("a waiter on %s is lost", w.node.self)
				}
			}
		})
	}
	t.Run("is new", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 2)
		var ids []shard.StreamID
		var all [][]*waiting
		for i := range 40 {
			ids = append(ids, shard.StreamID(fmt.Sprintf("default/new-%d", i)))
			var ws []*waiting
			for _, s := range f.nodes {
				w := &waiting{creationSignal: make(creationSignal, 1), node: s}
				var err error
				if w.stop, err = s.AwaitCreation(ids[i], w); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(w.stop)
				ws = append(ws, w)
			}
			all = append(all, ws)
		}
		newcomer := f.add()
		f.awaitAgreement()
		moved := 0
		for i, id := range ids {
			if newcomer.currentTable().Owner(id).Name == newcomer.self {
				moved++
			}
			f.mustDo(f.nodes[i%3], write(id, shard.OpCreate), shard.CodeCreated)
		}
		for _, ws := range all {
			f.mustWake(ws, "after a node has joined")
		}
		if moved == 0 {
			t.Error("the newcomer owns none of the names")
		}
	})
}
