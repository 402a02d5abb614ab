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

	"github.com/fantail-dev/fantail/cluster/transport"
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
	f, d := newFleet(t, 1), newFaultyDialer()
	edge := f.add(d.useIn)
	f.awaitAgreement()
	owner := f.nodes[0]
	id := f.streamOwnedBy(owner)
	f.mustDo(edge, write(id, shard.OpCreate), shard.CodeCreated)
	d.changeConns(owner.relayAddr(), func(c *faultyConn) { c.dropsReads = true })
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
	d.sever(owner.relayAddr())
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
	f, d := newFleet(t, 1), newFaultyDialer()
	edge := f.add(d.useIn)
	f.awaitAgreement()
	owner := f.nodes[0]
	id := f.streamOwnedBy(owner)
	f.mustDo(edge, write(id, shard.OpCreate), shard.CodeCreated)
	before := edge.peers.Link(owner.self)
	d.changeConns(owner.relayAddr(), func(c *faultyConn) { c.cut, c.left = true, 600<<10 })
	body := strings.Repeat("0123456789abcdef", 1<<16)
	f.mustDo(edge, write(id, shard.OpAppend, body[:1<<19], body[1<<19:]), shard.CodeAppended)
	f.awaitMessages(f.startReader(edge, id), []string{body[:1<<19], body[1<<19:]})
	if edge.peers.Link(owner.self) == before {
		t.Error("the link did not break")
	}
}

// One node does not reach the owner that all others reach: the successor says so once and then must
// serve. Two nodes write one log, and it still holds each append once.
func TestTwoOwnersWriteEachAppendOnce(t *testing.T) {
	t.Parallel()
	f, d := newFleet(t, 2), newFaultyDialer()
	edge := f.add(d.useIn)
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
	d.refuse(owner.relayAddr(), true)
	d.sever(owner.relayAddr())
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
	d.refuse(owner.relayAddr(), false)
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
	f, d := newFleet(t, 1), newFaultyDialer()
	edge := f.add(d.useIn)
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
	d.refuse(owner.relayAddr(), true)
	d.changeConns(owner.relayAddr(), func(c *faultyConn) { c.dropsReads, c.dropsWrites = true, true })
	began := time.Now()
	page, err := edge.ReadPage(t.Context(), other, info, info.Start)
	if took := time.Since(began); err != nil || page.Len() != 1 || took < peerPageTimeout || took > peerPageTimeout+2*time.Second {
		t.Errorf("a page without the owner: %d messages, %v, after %v", page.Len(), err, took)
	}
	f.mustDo(owner, write(id, shard.OpAppend, "b"), shard.CodeAppended)
	f.awaitMessages(r, []string{"a", "b"})
	if took := time.Since(began); took > 3*transport.SilenceTimeout {
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
