package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// traffic writes and reads streams on every node of a fleet.
type traffic struct {
	*fleet
	ids     []shard.StreamID
	readers [][]*streamReader
	stop    context.CancelFunc
	writers sync.WaitGroup
	mu      sync.Mutex
	wrote   [][]string
	longest time.Duration // the longest time that an append took
}

// traffic starts it, with one writer for each node.
func (f *fleet) traffic(streams int) *traffic {
	f.Helper()
	ctx, stop := context.WithCancel(f.Context())
	tr := &traffic{fleet: f, stop: stop, wrote: make([][]string, streams)}
	f.Cleanup(stop)
	for i := range streams {
		id := shard.StreamID(fmt.Sprintf("default/busy-%d", i))
		f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
		tr.ids = append(tr.ids, id)
		var rs []*streamReader
		for _, s := range f.nodes {
			rs = append(rs, f.startReader(s, id))
		}
		tr.readers = append(tr.readers, rs)
	}
	writers := len(f.nodes)
	for w, s := range f.nodes {
		tr.writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				for i, id := range tr.ids {
					if i%writers != w { // each stream has one writer, so its messages are exactly what that wrote
						continue
					}
					m := fmt.Sprintf("%d-%d", i, n)
					began := time.Now()
					f.appendUntilAcked(s, write(id, shard.OpAppend, m))
					tr.mu.Lock()
					tr.wrote[i] = append(tr.wrote[i], m)
					tr.longest = max(tr.longest, time.Since(began))
					tr.mu.Unlock()
				}
			}
		})
	}
	return tr
}

// awaitWritten waits until n more messages were written to each stream.
func (tr *traffic) awaitWritten(n int) {
	tr.Helper()
	tr.mu.Lock()
	goal := make([]int, len(tr.wrote))
	for i := range goal {
		goal[i] = len(tr.wrote[i]) + n
	}
	tr.mu.Unlock()
	tr.eventually("writes go on", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for i := range goal {
			if len(tr.wrote[i]) < goal[i] {
				return false
			}
		}
		return true
	})
}

// checkAndStop stops the writers and compares every reader with what was written.
func (tr *traffic) checkAndStop() {
	tr.Helper()
	tr.stop()
	tr.writers.Wait()
	for i, rs := range tr.readers {
		for _, r := range rs {
			tr.awaitMessages(r, tr.wrote[i])
		}
	}
	tr.Logf("the longest append took %v", tr.longest.Round(time.Millisecond))
}

func announcedDates(c *Config) { c.ChangeNotice = time.Second }

// Nodes join and leave in order under readers and writers everywhere. Streams move with what is
// known of them: S2 is not read, each stream has one read session, and no reader misses anything.
func TestHandoverReadsNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	first := f.add(announcedDates)
	f.awaitAgreement()
	tr := f.traffic(30)
	tr.awaitWritten(5)
	before := f.log.Ops()

	third := f.add(announcedDates)
	f.awaitAgreement()
	f.eventually("the newcomer has its share", func() bool { return len(third.manager.OwnedStreams()) > 0 })
	tr.awaitWritten(5)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	leaving := make(chan error, 1)
	go func() { leaving <- first.Leave(ctx) }()
	tr.awaitWritten(20)
	if err := <-leaving; err != nil {
		t.Fatal(err)
	}
	tr.awaitWritten(5)
	if n := len(first.manager.OwnedStreams()); n != 0 {
		t.Errorf("%d streams are left behind", n)
	}
	after := f.log.Ops()
	if after.Reads != before.Reads || after.Replays != before.Replays {
		t.Errorf("S2 was read: %+v, before %+v", after, before)
	}
	tr.checkAndStop()
	f.eventually("one session for each stream", func() bool { return f.log.OpenSessions() == len(tr.ids) })
}

// A stream with writers and without readers moves in the same way: the node that is asked for it
// first fetches it.
func TestHandoverWithoutReaders(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	last := f.add(announcedDates)
	f.awaitAgreement()
	id := f.streamOwnedBy(last)
	f.mustDo(last, write(id, shard.OpCreate), shard.CodeCreated)
	for i := range 10 {
		q := write(id, shard.OpAppend, fmt.Sprint(i))
		q.Producer = &shard.Producer{ID: "p", Seq: uint64(i)}
		f.mustDo(last, q, shard.CodeAppended)
	}
	before := f.log.Ops()
	if err := last.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := write(id, shard.OpAppend, "9")
	q.Producer = &shard.Producer{ID: "p", Seq: 9}
	f.mustDo(f.nodes[0], q, shard.CodeDuplicate)
	q = write(id, shard.OpAppend, "10")
	q.Producer = &shard.Producer{ID: "p", Seq: 10}
	f.mustDo(f.nodes[1], q, shard.CodeAppended)
	after := f.log.Ops()
	if after.Reads != before.Reads || after.Replays != before.Replays {
		t.Errorf("S2 was read: %+v, before %+v", after, before)
	}
}

// A node that leaves keeps its streams for their new owners from the change of owners on, even
// where it finds them misplaced before it has recorded that change.
func TestLeavingNodeKeepsStreamsAtTheChange(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.awaitAgreement()
	last := f.nodes[1]
	id := f.streamOwnedBy(last)
	f.mustDo(last, write(id, shard.OpCreate), shard.CodeCreated)
	last.history.NoteTable(last.currentTable().Without([]string{last.self}), time.Now().Add(-time.Hour))
	last.leaving.Store(true)
	last.releaseStream(id)
	f.eventually("nothing is being released", func() bool { return len(last.dropSlots) == 0 })
	if !last.local.manager.HasStream(id) {
		t.Error("the stream was released before its new owner could ask for it")
	}
}

// The old owner dies before it has handed anything over: its successors read the log.
func TestHandoverFromADeadOwnerReadsTheLog(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	doomed := f.add(announcedDates)
	f.awaitAgreement()
	tr := f.traffic(12)
	tr.awaitWritten(3)
	var mine int
	for _, id := range tr.ids {
		if doomed.currentTable().Owner(id).Name == doomed.self {
			mine++
		}
	}
	if mine == 0 {
		t.Fatal("it owns nothing")
	}
	doomed.membership.AnnounceLeave() // its end is announced, and it dies before
	tr.stop()
	tr.writers.Wait() // its own writer would die with it
	f.killNode(doomed)
	f.awaitAgreement()
	for i, id := range tr.ids {
		f.appendUntilAcked(f.nodes[0], write(id, shard.OpAppend, "after"))
		tr.wrote[i] = append(tr.wrote[i], "after")
		tr.readers[i] = tr.readers[i][:2]
	}
	tr.checkAndStop()
}

// The successor dies immediately after it received everything: the next one reads the log.
func TestHandoverToADeadOwnerReadsTheLog(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate, "a"), shard.CodeCreated)
	r := f.startReader(f.nodes[0], id)
	successor, last := f.nodes[1], f.nodes[2]
	if f.nodes[0].currentTable().Without([]string{f.nodes[0].self}).Owner(id).Name != successor.self {
		successor, last = last, successor
	}
	l := successor.peers.Link(f.nodes[0].self)
	if _, found, err := l.RequestHandover(t.Context(), id, 0, placement.PeerAddr{Name: successor.self, Address: successor.addr}); err != nil || !found {
		t.Fatal(found, err)
	}
	f.killNode(successor)
	f.appendUntilAcked(last, write(id, shard.OpAppend, "b"))
	f.appendUntilAcked(f.nodes[0], write(id, shard.OpAppend, "c"))
	f.awaitMessages(r, []string{"a", "b", "c"})
}

// All nodes change owners at one announced instant, and not when gossip arrives.
func TestNodesChangeOwnersAtTheAnnouncedSecond(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	last := f.add(announcedDates)
	f.awaitAgreement()
	m := f.nodes[0].View().Member(last.self)
	if m.OwnsFrom == 0 || m.OwnsFrom%1000 != 0 || m.OwnsFrom < m.StartedAt+1000 {
		t.Fatalf("owns from %d, began at %d", m.OwnsFrom, m.StartedAt)
	}
	at := last.membership.AnnounceLeave()
	f.eventually("everybody knows of it", func() bool {
		for _, s := range f.nodes {
			m := s.View().Member(last.self)
			if m == nil || m.OwnsUntil != shard.MillisOf(at) {
				return false
			}
			if now := time.Now(); now.Before(at.Add(-10*time.Millisecond)) && !s.View().TableAt(now).HasOwner(last.self) {
				t.Errorf("%s took it for gone %v early", s.self, at.Sub(now))
			}
			if s.View().TableAt(at).HasOwner(last.self) {
				t.Errorf("%s takes it for an owner at %v", s.self, at)
			}
		}
		return true
	})
}

// However far behind the successor's tail buffer is: what it receives fits in one message.
func TestHandoverFitsInOneMessage(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner, successor := f.nodes[0], f.nodes[1]
	id := f.streamOwnedBy(owner)
	out := f.mustDo(owner, write(id, shard.OpCreate, "a"), shard.CodeCreated)
	f.startReader(owner, id)
	f.mustDo(owner, write(id, shard.OpAppend, strings.Repeat("x", 5<<20)), shard.CodeAppended)
	l := successor.peers.Link(owner.self)
	_, found, err := l.RequestHandover(t.Context(), id, out.Info.LogTail, placement.PeerAddr{Name: successor.self, Address: successor.addr})
	if err != nil || !found {
		t.Fatal(found, err)
	}
}

// newFleetHandingToAny returns a fleet of nodes that hand streams to any node that a test names.
func newFleetHandingToAny(t *testing.T, n int) *fleet {
	t.Helper()
	f := newFleet(t, 0)
	for range n {
		f.add(func(c *Config) { c.handOverToAny = true })
	}
	f.awaitAgreement()
	return f
}

// handOver has one node ask another for a stream as if it owned it.
func (f *fleet) handOver(id shard.StreamID, from, to *testNode) {
	f.Helper()
	_, found, err := to.peers.Link(from.self).RequestHandover(f.Context(), id, 0, placement.PeerAddr{Name: to.self, Address: to.addr})
	if err != nil || !found {
		f.Fatal(found, err)
	}
}

// Three owners within a moment: the last one receives what the first one knew, even if the second
// was never asked for the stream, or is only just fetching it.
func TestStreamHandedOverTwiceKeepsItsState(t *testing.T) {
	t.Parallel()
	f := newFleetHandingToAny(t, 3)
	first, second, last := f.nodes[0], f.nodes[1], f.nodes[2]
	id := f.streamOwnedBy(first)
	for _, c := range []struct {
		name string
		id   shard.StreamID
		busy bool // the second owner is just fetching it
	}{
		{"never asked for", id, false},
		{"just being fetched", f.otherOwned(first, id), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, busy := c.id, c.busy
			f.mustDo(first, write(id, shard.OpCreate, "a"), shard.CodeCreated)
			before := f.log.Ops()
			// As if they owned it one after the other.
			for _, s := range []*testNode{second, last} {
				_, owned := tableOfMember(first)
				s.history.NoteTable(owned, time.Now())
				if s == last {
					_, owned = tableOfMember(second)
					s.history.NoteTable(owned, time.Now())
				}
				s.history.NoteTable(s.currentTable(), time.Now())
			}
			if busy {
				coming := &transfer{make(chan struct{}), true}
				second.local.mu.Lock()
				second.local.transfers[id] = coming
				second.local.mu.Unlock()
				time.AfterFunc(50*time.Millisecond, func() {
					h, _, err := second.peers.Link(first.self).RequestHandover(f.Context(), id, 0, placement.PeerAddr{Name: second.self, Address: second.addr})
					if err != nil || second.manager.InstallHandover(id, h) != nil {
						t.Error(err)
					}
					second.local.endTransfer(id, coming)
				})
			}
			found := false
			for _, l := range last.previousOwners(id) {
				if _, ok, err := l.RequestHandover(t.Context(), id, 0, placement.PeerAddr{Name: last.self, Address: last.addr}); err != nil {
					t.Fatal(err)
				} else if ok {
					if got := l.Peer().Name; got == second.self != busy {
						t.Errorf("given by %s", got)
					}
					found = true
					break
				}
			}
			if after := f.log.Ops(); !found || after.Reads != before.Reads {
				t.Errorf("given %v, %+v", found, after)
			}
		})
	}
}

func tableOfMember(s *testNode) (*placement.View, *placement.OwnerTable) {
	v := placement.NewView([]placement.Member{{Name: s.self, RingKey: s.self, Revision: 1, OwnsUntil: placement.Never, RelayAddr: s.addr}})
	return v, v.TableAt(time.Unix(1, 0))
}

// otherOwned returns another stream that a node owns.
func (f *fleet) otherOwned(s *testNode, not shard.StreamID) shard.StreamID {
	for i := 0; ; i++ {
		id := shard.StreamID(fmt.Sprintf("default/another-%d", i))
		if m := s.currentTable().Owner(id); id != not && m != nil && m.Name == s.self {
			return id
		}
	}
}

// The successor received a stream and does not want it, because it was wrong about the owners or
// they changed again: readers at the old owner are fed by the old owner again.
func TestUnwantedHandoverFeedsReadersAgain(t *testing.T) {
	t.Parallel()
	f := newFleetHandingToAny(t, 2)
	owner, successor := f.nodes[0], f.nodes[1]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate, "a"), shard.CodeCreated)
	r := f.startReader(owner, id)
	f.awaitMessages(r, []string{"a"})
	f.handOver(id, owner, successor)
	f.log.AppendForeign(id, "b")
	f.awaitMessages(r, []string{"a", "b"})
}

// A subscription that was fed while its stream was handed over is fed as long as it lasts, and
// counts as a use of the stream, even if the previous owner still owns it.
func TestUnwantedHandoverKeepsSubscribersFed(t *testing.T) {
	t.Parallel()
	var passed atomic.Int64
	began := time.Now()
	f := newFleetAt(t, 0, func() time.Time { return began.Add(time.Duration(passed.Load())) })
	for range 3 {
		f.add(func(c *Config) { c.handOverToAny = true })
	}
	f.awaitAgreement()
	owner, successor, edge := f.nodes[0], f.nodes[1], f.nodes[2]
	id := f.streamOwnedBy(owner)
	create := write(id, shard.OpCreate, "a")
	create.HasTTL, create.TTL = true, 10
	f.mustDo(owner, create, shard.CodeCreated)
	r := f.startReader(edge, id)
	f.awaitMessages(r, []string{"a"})
	owner.openPool.mu.Lock() // the first attempt to follow it fails
	limit, waiting := owner.openPool.limit, owner.openPool.maxWaiting
	owner.openPool.limit, owner.openPool.maxWaiting = 0, 0
	owner.openPool.mu.Unlock()
	f.handOver(id, owner, successor)
	f.eventually("it fails", func() bool {
		owner.followLoop.mu.Lock()
		defer owner.followLoop.mu.Unlock()
		return owner.followLoop.byStream[id] == nil
	})
	owner.openPool.mu.Lock()
	owner.openPool.limit, owner.openPool.maxWaiting = limit, waiting
	owner.openPool.mu.Unlock()
	f.eventually("the owner has it again and feeds", func() bool {
		owner.closeBridges()
		_, fed := owner.followLoop.localInfo(id) // a use begins before the feed does
		return fed
	})
	passed.Add(int64(10 * time.Minute))
	info, err := edge.Info(t.Context(), id, 0)
	if err != nil || !info.Exists {
		t.Fatalf("expired under its reader: %+v %v", info, err)
	}
	r.release()
	f.eventually("nothing is held", func() bool {
		owner.mu.Lock()
		defer owner.mu.Unlock()
		return len(owner.bridges) == 0 && !owner.local.hasFeeds(id)
	})
}

// A stream is handed only to its owner: by this node's table now or soon, or once this node is
// gone.
func TestStreamsAreHandedOnlyToTheirNextOwner(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	owner := f.nodes[0]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
	successor := owner.currentTable().Without([]string{owner.self}).Owner(id)
	for _, s := range f.nodes[1:] {
		if got := owner.isSuccessor(id, placement.PeerAddr{Name: s.self, Address: s.addr}); got != (s.self == successor.Name) {
			t.Errorf("%s, successor %s: %v", s.self, successor.Name, got)
		}
	}
	for _, to := range []placement.PeerAddr{
		{Name: "evil", Address: "10.0.0.1:1"}, {Name: successor.Name, Address: "10.0.0.1:1"}, {Name: owner.self, Address: owner.addr}, {},
	} {
		if owner.isSuccessor(id, to) {
			t.Errorf("handed to %+v", to)
		}
	}
	l := f.nodes[1].peers.Link(owner.self)
	if _, found, err := l.RequestHandover(t.Context(), id, 0, placement.PeerAddr{Name: "evil", Address: "10.0.0.1:1"}); err == nil || found || !owner.manager.HasStream(id) {
		t.Errorf("given to a stranger: %v, %v", found, err)
	}
}
