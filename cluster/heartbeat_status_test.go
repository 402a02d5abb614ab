package cluster

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// faultyStore is one node's access to the Log, which may be cut.
type faultyStore struct {
	shard.Log
	cut  atomic.Bool
	hold atomic.Pointer[chan struct{}] // appends wait until it is closed
}

var errStoreCut = errors.New("no way to the log")

func (s *faultyStore) Append(ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	if s.cut.Load() {
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errStoreCut)
	}
	if hold := s.hold.Load(); hold != nil {
		<-*hold
	}
	return s.Log.Append(ctx, id, at, batch)
}

func (s *faultyStore) Read(ctx context.Context, id shard.StreamID, from shard.Pos, n int) (shard.Page, error) {
	if s.cut.Load() {
		return shard.Page{}, errStoreCut
	}
	return s.Log.Read(ctx, id, from, n)
}

func (s *faultyStore) Last(ctx context.Context, id shard.StreamID, n, maxBytes int) (shard.Page, error) {
	if s.cut.Load() {
		return shard.Page{}, errStoreCut
	}
	return s.Log.Last(ctx, id, n, maxBytes)
}

func (s *faultyStore) FirstSince(ctx context.Context, id shard.StreamID, since shard.Millis) (shard.Page, error) {
	if s.cut.Load() {
		return shard.Page{}, errStoreCut
	}
	return s.Log.FirstSince(ctx, id, since)
}

func (s *faultyStore) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	if s.cut.Load() {
		return 0, errStoreCut
	}
	return s.Log.Tail(ctx, id)
}

// One node alone is cut off from S2: its streams go to others that are not, and come back. Every
// append is there once and every reader gets it.
func TestNodeCutFromStoreGivesItsStreamsAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	owner, edge := f.nodes[0], f.nodes[1]
	id := f.streamOwnedBy(owner)
	f.mustDo(edge, write(id, shard.OpCreate, "a"), shard.CodeCreated)
	readers := []*streamReader{f.startReader(owner, id), f.startReader(edge, id), f.startReader(f.nodes[2], id)}
	owner.store.cut.Store(true)
	began := time.Now()
	f.insistAmongOthers(edge, write(id, shard.OpAppend, "b"))
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("an append took %v", d)
	}
	f.eventually("the node is no owner", func() bool { return edge.currentTable().Len() == 2 && owner.currentTable().Len() == 2 })
	for _, s := range f.nodes {
		if !s.Ready() != (s == owner) {
			t.Errorf("%s is ready: %v", s.self, s.Ready())
		}
		f.insistAmongOthers(s, write(id, shard.OpAppend, s.self))
	}
	want := f.inLog(id)
	for _, r := range readers {
		f.awaitMessages(r, want)
	}
	owner.store.cut.Store(false)
	f.awaitAgreement()
	f.insistAmongOthers(edge, write(id, shard.OpAppend, "c"))
	for _, r := range readers {
		f.awaitMessages(r, f.inLog(id))
	}
	f.eventually("one session", func() bool { return f.log.OpenSessions() == 1 })
}

// S2 answers no node: no stream moves, whichever node asks first.
func TestStoreDownForAllMovesNothing(t *testing.T) {
	now, s := time.Unix(1_000_000, 0), &storeHealth{}
	for _, c := range []struct {
		name             string
		down, othersUp   bool
		after            time.Duration
		changed, lostNow bool
	}{
		{"well", false, true, 0, false, false},
		{"down here", true, true, time.Second, false, false},
		{"and still", true, true, 2 * time.Second, true, true},
		{"down for all", true, false, time.Second, true, false},
		{"and still", true, false, 5 * time.Second, false, false},
		{"back, for others first", true, true, time.Second, false, false},
		{"and here", false, true, time.Second, false, false},
		{"down here again", true, true, time.Second, false, false},
		{"and still", true, true, 2 * time.Second, true, true},
		{"up", false, true, time.Second, false, true},
		{"and still", false, true, 9 * time.Second, false, true},
		{"for long", false, true, 2 * time.Second, true, false},
	} {
		now = now.Add(c.after)
		if got := s.updateLost(now, c.down, c.othersUp); got != c.changed || s.lost != c.lostNow {
			t.Errorf("%s: changed %v, lost %v", c.name, got, s.lost)
		}
	}
}

// A node cancels its leave, and a node that stood still joins again: both own streams again, all
// agree, and nothing is lost.
func TestCancelledLeaveAndPauseOwnAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	s := f.nodes[1]
	id := f.streamOwnedBy(s)
	f.mustDo(s, write(id, shard.OpCreate, "a"), shard.CodeCreated)
	readers := []*streamReader{f.startReader(s, id), f.startReader(f.nodes[0], id)}
	if err := s.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Ready() {
		t.Error("ready, and has left")
	}
	f.mustDo(s, write(id, shard.OpAppend, "b"), shard.CodeAppended)
	before := f.log.Ops()
	s.CancelLeave()
	f.awaitAgreement()
	f.eventually("ready again", s.Ready)
	if !s.manager.HasStream(id) || f.nodes[0].manager.HasStream(id) || f.nodes[2].manager.HasStream(id) {
		t.Error("ready, and does not have its stream")
	}
	if after := f.log.Ops(); after.Reads != before.Reads || after.Replays != before.Replays {
		t.Errorf("storage was read: %+v, then %+v", before, after)
	}
	f.mustDo(f.nodes[2], write(id, shard.OpAppend, "c"), shard.CodeAppended)
	s.membership.RejoinAfterPause(time.Minute)
	f.eventually("it begins anew", func() bool {
		m := f.nodes[0].View().Member(s.self)
		return m != nil && m.OwnsFrom == s.View().Member(s.self).OwnsFrom && m.Revision == s.View().Member(s.self).Revision
	})
	f.awaitAgreement()
	f.mustDo(f.nodes[2], write(id, shard.OpAppend, "d"), shard.CodeAppended)
	for _, r := range readers {
		f.awaitMessages(r, []string{"a", "b", "c", "d"})
	}
}

// Each node learns how many readers the others have. A node that leaves does not count.
func TestReadersAreCountedByPeer(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	if n := len(f.nodes[0].ExchangeReaders(0)); n != 0 {
		t.Errorf("%d are heard while the fleet changes", n)
	}
	for _, s := range f.nodes {
		s.cfg.StableFor = time.Millisecond
	}
	hears := func(s *testNode, mine int, want ...int) func() bool {
		return func() bool {
			others := s.ExchangeReaders(mine)
			sum := 0
			for _, n := range others {
				sum += n
			}
			all := 0
			for _, n := range want {
				all += n
			}
			return len(others) == len(want) && sum == all
		}
	}
	f.nodes[1].ExchangeReaders(20)
	f.nodes[2].ExchangeReaders(300)
	f.eventually("all are heard", hears(f.nodes[0], 1, 20, 300))
	f.eventually("all are heard", hears(f.nodes[1], 20, 1, 300))
	if err := f.nodes[2].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.eventually("one leaves", hears(f.nodes[0], 1, 20))
}

// A node that serves a write although another owns the stream does not release the stream before
// the write is answered.
func TestProvisionalOwnerKeepsAStreamUntilItAnswers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner, other := f.nodes[0], f.nodes[1]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
	// As if owners had not changed for an hour, so that it drops streams immediately.
	other.history.NoteTable(other.currentTable().Without([]string{other.self}), time.Now().Add(-time.Hour))
	other.history.NoteTable(other.currentTable(), time.Now().Add(-time.Hour))
	hold := make(chan struct{})
	other.store.hold.Store(&hold)
	done := make(chan error, 1)
	go func() {
		_, err := other.local.write(f.Context(), write(id, shard.OpAppend, "a"), true)
		done <- err
	}()
	f.eventually("it has the stream", func() bool { return other.manager.HasStream(id) })
	for range 5 {
		other.hasMisplaced.Store(true)
		other.reconcileStreams()
		if !other.manager.HasStream(id) {
			t.Error("let go of in the middle of a write")
		}
	}
	other.store.hold.Store(nil)
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
	f.eventually("it is let go of", func() bool {
		other.hasMisplaced.Store(true)
		other.reconcileStreams()
		return !other.manager.HasStream(id)
	})
}

// What a peer says of S2 counts if S2 has answered it since it fell silent here.
func TestOldAnswersOfS2SayNothing(t *testing.T) {
	t.Parallel()
	silent := time.Unix(1_000_000, 0)
	for name, row := range map[string]struct {
		report storeReport
		silent time.Time
		want   bool
	}{
		"answered since":          {storeReport{answered: silent.Add(storeLostAfter + time.Millisecond)}, silent, true},
		"answered before":         {storeReport{answered: silent.Add(-time.Second)}, silent, false},
		"as the silence began":    {storeReport{answered: silent.Add(storeLostAfter)}, silent, false},
		"down":                    {storeReport{down: true, answered: silent.Add(time.Minute)}, silent, false},
		"of an earlier release":   {storeReport{}, silent, true},
		"S2 is not silent here":   {storeReport{answered: silent.Add(-time.Hour)}, time.Time{}, true},
		"down, and not silent":    {storeReport{down: true}, time.Time{}, false},
		"of an earlier one, down": {storeReport{down: true}, silent, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := answersOthers([]storeReport{{down: true}, row.report}, row.silent); got != row.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if answersOthers(nil, silent) {
		t.Error("no peer is an answer")
	}
}

// A node probes once for each peer that S2 ceases to answer.
func TestEachDownPeerIsNewOnce(t *testing.T) {
	t.Parallel()
	s := &storeHealth{}
	for n, row := range []struct {
		down []string
		want bool
	}{{nil, false}, {[]string{"a"}, true}, {[]string{"a"}, false}, {[]string{"a", "b"}, true}, {[]string{"b"}, false}, {[]string{"a", "b"}, true}, {nil, false}} {
		var reports []storeReport
		for _, name := range row.down {
			reports = append(reports, storeReport{peer: name, down: true})
		}
		if got := s.noteDownPeers(append(reports, storeReport{peer: "c"})); got != row.want {
			t.Errorf("step %d: %v", n, got)
		}
	}
}
