package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// inLog returns the messages that the log holds.
func (f *fleet) inLog(id shard.StreamID) (all []string) {
	for _, rec := range f.log.Records(id) {
		if len(rec.Body) > 0 {
			all = append(all, string(rec.Body))
		}
	}
	return all
}

// relayAddr returns the address of a node's server.
func (s *testNode) relayAddr() string {
	_, addr := s.ListenAddrs()
	return addr
}

// An append with an answer that is lost with the connection is repeated with its id, and written
// once.
func TestAppendWithALostReplyIsWrittenOnce(t *testing.T) {
	t.Parallel()
	f, c := newFleet(t, 1), newFaultyDialer()
	edge := f.add(c.useIn)
	f.awaitAgreement()
	owner := f.nodes[0]
	id := f.streamOwnedBy(owner)
	f.mustDo(edge, write(id, shard.OpCreate), shard.CodeCreated)
	c.changeConns(owner.relayAddr(), func(cc *faultyConn) { cc.dropsReads = true })
	done := make(chan error, 1)
	go func() {
		out, err := edge.Do(t.Context(), write(id, shard.OpAppend, "once"))
		if err == nil && out.Code != shard.CodeAppended {
			err = fmt.Errorf("code %d", out.Code)
		}
		done <- err
	}()
	f.eventually("the append is written", func() bool { return len(f.inLog(id)) > 0 })
	select {
	case err := <-done:
		t.Fatalf("answered over a connection that brings nothing: %v", err)
	default:
	}
	c.sever(owner.relayAddr())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := f.inLog(id); len(got) != 1 {
		t.Errorf("%q in the log", got)
	}
}

// The connection breaks in the middle of a body: the append is sent again, whole.
func TestBrokenBodyIsSentAgain(t *testing.T) {
	t.Parallel()
	f, c := newFleet(t, 1), newFaultyDialer()
	edge := f.add(c.useIn)
	f.awaitAgreement()
	owner := f.nodes[0]
	id := f.streamOwnedBy(owner)
	f.mustDo(edge, write(id, shard.OpCreate), shard.CodeCreated)
	before := edge.peers.link(owner.self)
	c.changeConns(owner.relayAddr(), func(cc *faultyConn) { cc.cut, cc.left = true, 600<<10 })
	body := strings.Repeat("0123456789abcdef", 1<<16)
	f.mustDo(edge, write(id, shard.OpAppend, body[:1<<19], body[1<<19:]), shard.CodeAppended)
	f.awaitMessages(f.startReader(edge, id), []string{body[:1<<19], body[1<<19:]})
	if edge.peers.link(owner.self) == before {
		t.Error("the link did not break")
	}
}

// One node does not reach the owner that all others reach: the successor says so once and then must
// serve. Two nodes write one log, and it still holds each append once.
func TestTwoOwnersWriteEachAppendOnce(t *testing.T) {
	t.Parallel()
	f, c := newFleet(t, 2), newFaultyDialer()
	edge := f.add(c.useIn)
	f.awaitAgreement()
	owner := f.nodes[1]
	id := f.streamOwnedBy(owner)
	for i := 0; edge.currentTable().Without([]string{owner.self}).Owner(id).Name == edge.self ||
		edge.currentTable().Owner(id).Name != owner.self; i++ {
		id = shard.StreamID(fmt.Sprintf("default/two-%d", i))
	}
	f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
	var readers []*streamReader
	for _, s := range f.nodes {
		readers = append(readers, f.startReader(s, id))
	}
	c.refuse(owner.relayAddr(), true)
	c.sever(owner.relayAddr())
	const writes = 25
	var wg sync.WaitGroup
	for w, s := range []*testNode{edge, owner, f.nodes[0]} {
		wg.Go(func() {
			for i := range writes {
				f.insistAmongOthers(s, write(id, shard.OpAppend, fmt.Sprintf("%d-%d", w, i)))
			}
		})
	}
	wg.Wait()
	want := f.inLog(id)
	next := map[string]int{}
	for _, m := range want {
		w, i, _ := strings.Cut(m, "-")
		if i != fmt.Sprint(next[w]) {
			t.Fatalf("writer %s: %s in the log, %d is due", w, i, next[w])
		}
		next[w]++
	}
	if len(want) != 3*writes {
		t.Fatalf("%d records in the log of %d", len(want), 3*writes)
	}
	for _, r := range readers {
		f.awaitMessages(r, want)
	}
	if !slices.Contains(f.nodes[0].manager.OwnedStreams(), id) {
		t.Error("the successor never served")
	}
	c.refuse(owner.relayAddr(), false)
	f.awaitAgreement()
	f.eventually("one owner again", func() bool {
		return f.log.OpenSessions() == 1 && len(f.nodes[0].manager.OwnedStreams()) == 0
	})
	f.mustDo(edge, write(id, shard.OpAppend, "healed"), shard.CodeAppended)
	for _, r := range readers {
		f.awaitMessages(r, slices.Concat(want, []string{"healed"}))
	}
}

// insistAmongOthers is appendUntilAcked for a stream that others write to as well.
func (f *fleet) insistAmongOthers(s *testNode, q *shard.Request) {
	for f.Context().Err() == nil {
		out, err := s.Do(f.Context(), q)
		if err == nil {
			if out.Code != shard.CodeAppended {
				f.Errorf("append: %+v", out)
			}
			return
		}
		again := *q
		again.Repeat, q = true, &again
	}
}

// A connection falls silent without breaking: pages are read here after a second, and the link is
// dead after three. Readers lose nothing.
func TestSilentOwnerLosesItsLink(t *testing.T) {
	t.Parallel()
	f, c := newFleet(t, 1), newFaultyDialer()
	edge := f.add(c.useIn)
	f.awaitAgreement()
	owner := f.nodes[0]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate, "a"), shard.CodeCreated)
	r := f.startReader(edge, id)
	f.awaitMessages(r, []string{"a"})
	other := f.otherOwned(owner, id)
	f.mustDo(owner, write(other, shard.OpCreate, "x"), shard.CodeCreated)
	info, err := edge.Info(t.Context(), other, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.refuse(owner.relayAddr(), true)
	c.changeConns(owner.relayAddr(), func(cc *faultyConn) { cc.dropsReads, cc.dropsWrites = true, true })
	began := time.Now()
	page, err := edge.ReadPage(t.Context(), other, info, info.Start)
	if took := time.Since(began); err != nil || page.Len() != 1 || took < peerPageTimeout || took > peerPageTimeout+2*time.Second {
		t.Errorf("a page without the owner: %d messages, %v, after %v", page.Len(), err, took)
	}
	f.mustDo(owner, write(id, shard.OpAppend, "b"), shard.CodeAppended)
	f.awaitMessages(r, []string{"a", "b"})
	if took := time.Since(began); took > 3*silenceTimeout {
		t.Errorf("nobody noticed for %v", took)
	}
}

// A stream is deleted and created again before any other node hears of it: readers of the first
// generation see its end, wherever they are, and new readers read the second.
func TestRecreatedStreamEndsTheOldGeneration(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate, "old"), shard.CodeCreated)
	var readers []*streamReader
	for _, s := range f.nodes {
		r := f.startReader(s, id)
		f.awaitMessages(r, []string{"old"})
		readers = append(readers, r)
	}
	f.mustDo(f.nodes[1], write(id, shard.OpDelete), shard.CodeDeleted)
	f.mustDo(f.nodes[2], write(id, shard.OpCreate, "new"), shard.CodeCreated)
	for _, s := range f.nodes {
		f.awaitMessages(f.startReader(s, id), []string{"new"})
	}
	for _, r := range readers {
		f.eventually("the first life ends on "+r.node.self, func() bool {
			return errors.Is(r.tail.EndError(), shard.ErrNotFound)
		})
	}
	f.mustDo(f.nodes[1], write(id, shard.OpAppend, "more"), shard.CodeAppended)
	for _, s := range f.nodes {
		f.awaitMessages(f.startReader(s, id), []string{"new", "more"})
	}
}

// scriptedEdge is a peer that sends exactly what a test has it send.
type scriptedEdge struct {
	control grpc.BidiStreamingClient[relaypb.ToOwner, relaypb.ToEdge]
	frames  chan *relaypb.Frame
	link    uint64
}

// openScriptedEdge opens a link with the given windows.
func (f *fleet) openScriptedEdge(owner *testNode, window, linkWindow uint64) *scriptedEdge {
	f.Helper()
	conn, err := grpc.NewClient("passthrough:///"+owner.relayAddr(),
		grpc.WithTransportCredentials(asPeer(f.T, owner.creds)))
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Context())
	client := relaypb.NewRelayClient(conn)
	e := &scriptedEdge{frames: make(chan *relaypb.Frame), link: 77}
	if e.control, err = client.Control(ctx); err == nil {
		e.say(&relaypb.ToOwner{BulkLane: 1, Hello: &relaypb.Hello{
			Version: placement.RelayVersionNewest, To: wire.Bytes(owner.self), Incarnation: e.link, Window: window, LinkWindow: linkWindow,
			From: &relaypb.PeerAddress{Name: []byte("raw")},
		}})
		_, err = e.control.Recv()
	}
	if err != nil {
		f.Fatal(err)
	}
	bulk, err := client.Bulk(ctx, &relaypb.BulkRequest{Incarnation: e.link, BulkLane: 1})
	if err != nil {
		f.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			m, err := bulk.Recv()
			if err != nil {
				return
			}
			select {
			case e.frames <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	wg.Go(func() { // heartbeats, and nothing else
		tick := time.NewTicker(heartbeatInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				e.say(&relaypb.ToOwner{Heartbeat: 1})
			case <-ctx.Done():
				return
			}
		}
	})
	f.Cleanup(func() {
		cancel()
		_ = conn.Close()
		wg.Wait()
	})
	return e
}

func (e *scriptedEdge) say(m *relaypb.ToOwner) { _ = e.control.Send(m) }

// waitsForCredit reports whether the owner waits for credit of the subscription or of the link.
func (s *testNode) waitsForCredit(link, handle uint64) bool {
	s.server.mu.Lock()
	ses := s.server.sessions[link]
	s.server.mu.Unlock()
	if ses == nil {
		return false
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	u := ses.subs[handle]
	return u != nil && u.flags&(subNeedsCredit|subNeedsLinkCredit) != 0
}

// A peer that returns no credit gets its window and one batch, and delays no other. With credit it
// gets the rest, and nothing is missing.
func TestFrozenPeerHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner := f.nodes[0]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
	const window, linkWindow, size, writes = 64 << 10, 128 << 10, 10 << 10, 60
	e := f.openScriptedEdge(owner, window, linkWindow)
	e.say(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{
		{Handle: 1, Stream: wire.Bytes(id)}, {Handle: 2, Stream: wire.Bytes(id)}, {Handle: 3, Stream: wire.Bytes(id)},
	}})
	healthy := f.startReader(f.nodes[1], id)
	var want []string
	for i := range writes {
		m := fmt.Sprintf("%04d%s", i, strings.Repeat("x", size))
		f.mustDo(owner, write(id, shard.OpAppend, m), shard.CodeAppended)
		want = append(want, m)
	}
	f.awaitMessages(healthy, want)

	got := map[uint64][]string{}
	parts := map[uint64]*wire.BatchAssembler{1: {}, 2: {}, 3: {}}
	bytes := map[uint64]int{}
	take := func(frame *relaypb.Frame) {
		for _, p := range frame.GetParts() {
			if p.GetKind() != relaypb.PartKind_PART_KIND_BATCH {
				continue
			}
			bytes[p.GetHandle()] += len(p.GetData())
			r, whole, err := parts[p.GetHandle()].AddPiece(p.GetData(), p.GetTotal())
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; whole && i < r.Len(); i++ {
				got[p.GetHandle()] = append(got[p.GetHandle()], string(r.Message(i).Body))
			}
		}
	}
	f.eventually("the owner waits for credit", func() bool {
		for {
			select {
			case frame := <-e.frames:
				take(frame)
				continue
			default:
			}
			return owner.waitsForCredit(e.link, 1) && owner.waitsForCredit(e.link, 2) && owner.waitsForCredit(e.link, 3)
		}
	})
	all := bytes[1] + bytes[2] + bytes[3]
	for h, n := range bytes {
		if n > window+2*size {
			t.Errorf("handle %d was sent %d bytes on a window of %d", h, n, window)
		}
	}
	if all > linkWindow+2*size {
		t.Errorf("%d bytes on a link window of %d", all, linkWindow)
	}
	e.say(&relaypb.ToOwner{
		LinkCredit: 10 * writes * size,
		Credit:     []*relaypb.Credit{{Handle: 1, Bytes: window}, {Handle: 9, Bytes: 1}},
	})
	f.eventually("the rest comes", func() bool {
		for {
			select {
			case frame := <-e.frames:
				take(frame)
				continue
			default:
			}
			if len(got[1]) < writes && owner.waitsForCredit(e.link, 1) {
				e.say(&relaypb.ToOwner{Credit: []*relaypb.Credit{{Handle: 1, Bytes: window}}})
			}
			return len(got[1]) == writes
		}
	})
	if strings.Join(got[1], ",") != strings.Join(want, ",") {
		t.Error("not what was written")
	}
}

// Close waits for no peer, ends what is in progress and leaves nothing behind.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var busy sync.WaitGroup
	for i := range 12 {
		s := f.nodes[i%3]
		id := shard.StreamID(fmt.Sprintf("default/busy-%d", i/3))
		busy.Add(1)
		wg.Go(func() {
			started := sync.OnceFunc(busy.Done)
			defer started()
			for n := 0; ctx.Err() == nil; n++ {
				_, _ = s.Do(ctx, write(id, shard.OpCreate))
				_, release, err := s.Follow(ctx, id, 0)
				if err == nil {
					_, _ = s.Do(ctx, write(id, shard.OpAppend, "m"))
					release()
				}
				if n == 3 {
					started()
				}
				if errors.Is(err, shard.ErrStopped) {
					return
				}
			}
		})
	}
	busy.Wait()
	closed := make(chan struct{})
	go func() {
		var all sync.WaitGroup
		for _, s := range f.nodes {
			s.dead = true
			all.Go(func() { _ = s.Close() })
		}
		all.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("Close hangs")
	}
	cancel()
	wg.Wait()
	for _, s := range f.nodes {
		if _, _, err := s.Follow(t.Context(), "default/late", 0); !errors.Is(err, shard.ErrStopped) {
			t.Errorf("%s is followed after Close: %v", s.self, err)
		}
		s.local.mu.Lock()
		if n := len(s.local.feedRefs); n != 0 {
			t.Errorf("%s: %d feeds are not given back", s.self, n)
		}
		s.local.mu.Unlock()
	}
}

// A process that has ended is not waited for: its address refuses connections.
func TestEndedProcessIsNotAwaited(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner, edge := f.nodes[0], f.nodes[1]
	edge.peers.mu.Lock()
	p := edge.peers.byName[owner.self]
	edge.peers.mu.Unlock()
	f.killNode(owner)
	f.eventually("it is known to have ended", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.processGone && p.patienceLeftLocked() == 0
	})
	if _, err := edge.peers.awaitLink(t.Context(), owner.self); !errors.Is(err, placement.ErrUnreachable) {
		t.Error(err)
	}
}
