package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Whichever nodes write and read: messages arrive once, in order, immediately, and with one read
// session.
func TestRelayDeliversOnceInOrder(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	id := f.streamOwnedBy(f.nodes[1])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	var readers []*streamReader
	for _, s := range f.nodes {
		readers = append(readers, f.startReader(s, id), f.startReader(s, id))
	}
	var want []string
	for i := range 60 {
		m := fmt.Sprint(i)
		out := f.mustDo(f.nodes[i%3], write(id, shard.OpAppend, m), shard.CodeAppended)
		want = append(want, m)
		info, err := f.nodes[(i+1)%3].Info(t.Context(), id, 0)
		if err != nil || info.Tail < out.Info.Tail {
			t.Fatalf("state on another node: tail %d (%v), acknowledged %d", info.Tail, err, out.Info.Tail)
		}
	}
	for _, r := range readers {
		f.awaitMessages(r, want)
	}
	if n := f.log.OpenSessions(); n != 1 {
		t.Errorf("%d read sessions for one followed stream", n)
	}
	for _, r := range readers {
		r.release()
	}
	f.eventually("nobody follows any more", func() bool {
		n := 0
		for _, s := range f.nodes {
			s.followLoop.mu.Lock()
			n += len(s.followLoop.byStream)
			s.followLoop.mu.Unlock()
			n += int(s.metric(t, "fantail_relay_subscriptions", "owner"))
		}
		return n == 0 && f.nodes[0].tails.Len() == 0 && f.nodes[2].tails.Len() == 0
	})
}

// The largest append passes in chunks, and returns in pieces, through a much smaller window.
func TestRelayDeliversTheLargestAppend(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[1], write(id, shard.OpCreate), shard.CodeCreated)
	r := f.startReader(f.nodes[1], id)
	body := strings.Repeat("0123456789abcdef", shard.MaxBody/16)
	f.mustDo(f.nodes[1], write(id, shard.OpAppend, "small", body[:shard.MaxBody-5]), shard.CodeAppended)
	f.mustDo(f.nodes[1], write(id, shard.OpAppend, "after"), shard.CodeAppended)
	f.awaitMessages(r, []string{"small", body[:shard.MaxBody-5], "after"})
}

// The owner dies under writers and readers: no tail buffer ends, nothing is lost, repeated or
// reordered, and there is one session again.
func TestRelayLosesNothingWhenAnOwnerDies(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	owner := f.nodes[1]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
	r0, r2 := f.startReader(f.nodes[0], id), f.startReader(f.nodes[2], id)
	const writers, writes = 6, 40
	var wg sync.WaitGroup
	half := make(chan struct{}, writers)
	for w := range writers {
		s := f.nodes[(w%2)*2]
		wg.Go(func() {
			for i := range writes {
				f.appendUntilAcked(s, write(id, shard.OpAppend, fmt.Sprintf("%d-%d", w, i)))
				if i == writes/3 {
					half <- struct{}{}
				}
			}
		})
	}
	for range writers {
		<-half
	}
	f.killNode(owner)
	wg.Wait()
	var want []string
	for _, rec := range f.log.Records(id) {
		if len(rec.Body) > 0 {
			want = append(want, string(rec.Body))
		}
	}
	next := map[string]int{}
	for _, m := range want {
		w, i, _ := strings.Cut(m, "-")
		if i != fmt.Sprint(next[w]) {
			t.Fatalf("writer %s: %s in the log, %d is due", w, i, next[w])
		}
		next[w]++
	}
	if len(want) != writers*writes {
		t.Fatalf("%d records in the log, %d were acknowledged", len(want), writers*writes)
	}
	f.awaitMessages(r0, want)
	f.awaitMessages(r2, want)
	f.eventually("one session again", func() bool { return f.log.OpenSessions() == 1 })
}

// appendUntilAcked repeats an append, with its id, until it is acknowledged.
func (f *fleet) appendUntilAcked(s *testNode, q *shard.Request) {
	for f.Context().Err() == nil {
		out, err := s.Do(f.Context(), q)
		if err == nil && out.Code == shard.CodeAppended {
			return
		}
		if err == nil || errors.Is(err, shard.ErrContended) {
			f.Errorf("append: %+v %v", out, err)
			return
		}
		again := *q
		again.Repeat, q = true, &again
	}
}

// Nodes join and leave in order: their streams move, and their readers do not notice.
func TestRelayReadersSurviveJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	var ids []shard.StreamID
	var readers [][]*streamReader
	var want []string
	for i := range 12 {
		id := shard.StreamID(fmt.Sprintf("default/move-%d", i))
		f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
		ids = append(ids, id)
		readers = append(readers, []*streamReader{f.startReader(f.nodes[0], id), f.startReader(f.nodes[1], id)})
	}
	round := func(by *testNode) {
		t.Helper()
		m := fmt.Sprint(len(want))
		want = append(want, m)
		for i, id := range ids {
			f.mustDo(by, write(id, shard.OpAppend, m), shard.CodeAppended)
			for _, r := range readers[i] {
				f.awaitMessages(r, want)
			}
		}
	}
	round(f.nodes[0])
	third := f.add()
	round(f.nodes[0])
	f.awaitAgreement()
	round(third)
	f.eventually("one session for each stream, at its owner", func() bool {
		return f.log.OpenSessions() == len(ids) && len(third.manager.OwnedStreams()) > 0
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	first := f.nodes[0] // with readers of its own, which continue while it owns nothing
	if err := first.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(first.manager.OwnedStreams()); n != 0 {
		t.Errorf("%d streams are left behind", n)
	}
	round(first)
	round(third)
	f.eventually("one session for each stream", func() bool { return f.log.OpenSessions() == len(ids) })
}

// A stream that is deleted and created again is another one for all its followers.
func TestRelayDeletedStreamIsAnotherOne(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[1], write(id, shard.OpCreate, "old"), shard.CodeCreated)
	r := f.startReader(f.nodes[1], id)
	f.awaitMessages(r, []string{"old"})
	f.mustDo(f.nodes[1], write(id, shard.OpDelete), shard.CodeDeleted)
	f.eventually("the follower hears of it", func() bool { return errors.Is(r.tail.EndError(), shard.ErrNotFound) })
	if info, err := f.nodes[1].Info(t.Context(), id, shard.InfoAllowCached); err != nil || info.Exists {
		t.Fatalf("%+v %v", info, err)
	}
	f.mustDo(f.nodes[0], write(id, shard.OpCreate, "new"), shard.CodeCreated)
	f.awaitMessages(f.startReader(f.nodes[1], id), []string{"new"})
}

// A closed stream is closed everywhere.
func TestRelayClosedStreamIsClosedEverywhere(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	r := f.startReader(f.nodes[1], id)
	q := write(id, shard.OpAppend, "last")
	q.Close = true
	f.mustDo(f.nodes[1], q, shard.CodeAppended)
	f.awaitMessages(r, []string{"last"})
	f.eventually("the follower hears of it", func() bool { return r.tail.Info().Closed })
	late := f.startReader(f.nodes[1], id)
	f.awaitMessages(late, []string{"last"})
	f.mustDo(f.nodes[1], write(id, shard.OpAppend, "late"), shard.CodeClosed)
}

// History comes from the owner and is cached, and from the Log if the owner does not answer.
func TestRelayPagesComeFromTheOwner(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	var want []string
	for i := range 5 {
		var ms []string
		for j := range 700 {
			ms = append(ms, fmt.Sprintf("%d-%d", i, j))
		}
		f.mustDo(f.nodes[0], write(id, shard.OpAppend, ms...), shard.CodeAppended)
		want = append(want, ms...)
	}
	all := func(s *testNode) {
		t.Helper()
		info, err := s.Info(t.Context(), id, 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for at := info.Start; at < info.Tail; {
			p, err := s.ReadPage(t.Context(), id, info, at)
			if err != nil {
				t.Fatal(err)
			}
			for i := p.Search(at); i < p.Len(); i++ {
				got = append(got, string(p.Message(i).Body))
			}
			at = p.To()
		}
		if strings.Join(got, ",") != strings.Join(want, ",") {
			t.Fatalf("%s: %d messages, want %d", s.self, len(got), len(want))
		}
	}
	relayed := func() float64 { return f.nodes[1].metric(t, "fantail_relay_bytes_total", "edge") }
	before := relayed()
	all(f.nodes[1])
	once, reads := relayed()-before, f.log.Ops().Reads
	if once < 700*5*4 {
		t.Errorf("%v bytes came from the owner", once)
	}
	all(f.nodes[1])
	if twice := relayed() - before; twice != once {
		t.Errorf("%v bytes for the first time, %v with the second", once, twice)
	}
	f.mustDo(f.nodes[0], write(id, shard.OpAppend, "more"), shard.CodeAppended)
	want = append(want, "more")
	all(f.nodes[1]) // the page that ended at the tail has grown
	if n := f.log.Ops().Reads - reads; n > 1 {
		t.Errorf("%d reads of the Log for what was in memory", n)
	}
	f.killNode(f.nodes[0])
	all(f.nodes[2])
	if n := f.log.Ops().Reads - reads; n < 4 {
		t.Errorf("%d reads of the Log without the owner", n)
	}
}

// A slow follower costs the owner a position: it delays no other, and loses nothing.
func TestRelaySlowFollowerHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	slow := f.add(func(c *Config) { c.subscriptionWindow, c.linkWindow = 2<<10, 8<<10 })
	f.awaitAgreement()
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	readers := []*streamReader{f.startReader(f.nodes[1], id), f.startReader(slow, id)}
	var want []string
	for i := range 200 {
		m := fmt.Sprintf("%d-%s", i, strings.Repeat("x", rand.IntN(4000)))
		f.mustDo(f.nodes[0], write(id, shard.OpAppend, m), shard.CodeAppended)
		want = append(want, m)
	}
	for _, r := range readers {
		f.awaitMessages(r, want)
	}
}

// An append with an answer that is lost with the link is repeated with its id, and is in the log
// once.
func TestRelayAppendOverABrokenLinkIsWrittenOnce(t *testing.T) {
	t.Parallel()
	f, d := newFleet(t, 1), newFaultyDialer()
	f.add(d.useIn)
	f.awaitAgreement()
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[1], write(id, shard.OpCreate), shard.CodeCreated)
	f.log.Latency = 5 * time.Millisecond
	stop := make(chan struct{})
	broken := 0
	var breaking sync.WaitGroup
	breaking.Go(func() {
		tick := time.NewTicker(40 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if f.nodes[1].peers.Link(f.nodes[0].self) != nil {
					d.sever(f.nodes[0].relayAddr())
					broken++
				}
			}
		}
	})
	r := f.startReader(f.nodes[1], id)
	var want []string
	for i := range 150 {
		m := fmt.Sprint(i)
		f.appendUntilAcked(f.nodes[1], write(id, shard.OpAppend, m))
		want = append(want, m)
	}
	close(stop)
	breaking.Wait()
	f.awaitMessages(r, want)
	if broken < 3 {
		t.Errorf("the link broke %d times only", broken)
	}
}
