package transport

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// newTails returns n streams without records.
func newTails(n int) map[shard.StreamID]*shard.TailBuffer {
	buffers, all := shard.NewTailBuffers(0, 0), map[shard.StreamID]*shard.TailBuffer{}
	for i := range n {
		id := shard.StreamID(fmt.Sprintf("s/%d", i))
		all[id] = buffers.Open(id, shard.Info{Exists: true}, 0)
	}
	return all
}

// A batch that is malformed ends its own subscription. The link and its other subscriptions stay.
func TestMalformedBatchEndsOneSubscription(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, streams := newPipeNetwork(), &testStreams{tails: newTails(2)}
		p.serve(t, "b", streams)
		ps := p.link(t, "a", Config{})
		synctest.Wait()
		l := ps.Link("b")
		bad, good := &recorder{}, &recorder{}
		sub := l.Subscribe(bad, "s/0", 0, placement.Route{})
		l.Subscribe(good, "s/1", 0, placement.Route{})
		synctest.Wait()
		if streams.feeds.Load() != 2 {
			t.Fatalf("%d feeds", streams.feeds.Load())
		}
		l.handlePart(&relaypb.Part{Kind: relaypb.PartKind_PART_KIND_BATCH, Handle: sub.handle, Data: []byte("no range")})
		synctest.Wait()
		if _, _, err := bad.has(); !errors.Is(err, placement.ErrCallFailed) || streams.feeds.Load() != 1 {
			t.Errorf("ended by %v, with %d feeds", err, streams.feeds.Load())
		}
		for id, tail := range streams.tails {
			if err := tail.Extend(batchOf(0, 10)); err != nil {
				t.Fatal(id, err)
			}
		}
		again := &recorder{}
		l.Subscribe(again, "s/0", 0, placement.Route{})
		synctest.Wait()
		for name, r := range map[string]*recorder{"the other": good, "the next": again} {
			if next, gaps, err := r.has(); next != 1 || gaps != 0 || err != nil {
				t.Errorf("%s subscription: next %d, %d gaps, %v", name, next, gaps, err)
			}
		}
		if ps.Link("b") != l || bad.next != 0 {
			t.Error("the link broke, or the subscription that ended got records")
		}
	})
}

// scriptedEdge is a peer that sends exactly what a test has it send, and heartbeats.
type scriptedEdge struct {
	control grpc.BidiStreamingClient[relaypb.ToOwner, relaypb.ToEdge]
	frames  chan *relaypb.Frame // what came and was not taken yet
}

// openScriptedEdge opens a link with the given windows.
func openScriptedEdge(t *testing.T, client relaypb.RelayClient, window, linkWindow uint64) *scriptedEdge {
	t.Helper()
	const incarnation = 77
	e := &scriptedEdge{frames: make(chan *relaypb.Frame, 1000)}
	var err error
	if e.control, err = client.Control(t.Context()); err == nil {
		e.say(&relaypb.ToOwner{BulkLane: 1, Hello: &relaypb.Hello{
			Version: placement.RelayVersionNewest, To: []byte("b"), Incarnation: incarnation, Window: window, LinkWindow: linkWindow,
			From: &relaypb.PeerAddress{Name: []byte("raw")},
		}})
		_, err = e.control.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	bulk, err := client.Bulk(t.Context(), &relaypb.BulkRequest{Incarnation: incarnation, BulkLane: 1})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			m, err := bulk.Recv()
			if err != nil {
				return
			}
			e.frames <- m
		}
	}()
	go func() {
		for e.control.Context().Err() == nil {
			select {
			case <-time.After(heartbeatInterval):
				e.say(&relaypb.ToOwner{Heartbeat: 1})
			case <-e.control.Context().Done():
			}
		}
	}()
	return e
}

func (e *scriptedEdge) say(m *relaypb.ToOwner) { _ = e.control.Send(m) }

// A peer that returns no credit gets its window and one batch, and delays no other. With credit it
// gets the rest, and nothing is missing.
func TestFrozenPeerHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, streams := newPipeNetwork(), &testStreams{tails: newTails(1)}
		p.serve(t, "b", streams)
		const window, linkWindow, size, writes = 64 << 10, 128 << 10, 10 << 10, 60
		e := openScriptedEdge(t, p.client(t), window, linkWindow)
		e.say(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{
			{Handle: 1, Stream: []byte("s/0")}, {Handle: 2, Stream: []byte("s/0")}, {Handle: 3, Stream: []byte("s/0")},
		}})
		ps, healthy := p.link(t, "a", Config{}), &recorder{}
		synctest.Wait()
		ps.Link("b").Subscribe(healthy, "s/0", 0, placement.Route{})
		for i := range uint64(writes) {
			synctest.Wait()
			if err := streams.tails["s/0"].Extend(batchOf(i, size)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if next, gaps, err := healthy.has(); next != writes || gaps != 0 || err != nil {
			t.Errorf("the other peer: next %d, %d gaps, %v", next, gaps, err)
		}

		next := map[uint64]shard.Pos{}
		parts := map[uint64]*wire.BatchAssembler{1: {}, 2: {}, 3: {}}
		bytes := map[uint64]int{}
		take := func() {
			for synctest.Wait(); len(e.frames) > 0; synctest.Wait() {
				for _, q := range (<-e.frames).GetParts() {
					if q.GetKind() != relaypb.PartKind_PART_KIND_BATCH {
						continue
					}
					h := q.GetHandle()
					bytes[h] += len(q.GetData())
					switch r, whole, err := parts[h].AddPiece(q.GetData(), q.GetTotal()); {
					case err != nil:
						t.Fatal(err)
					case whole && r.From() != next[h]:
						t.Fatalf("handle %d: [%d, %d) after %d", h, r.From(), r.To(), next[h])
					case whole:
						next[h] = r.To()
					}
				}
			}
		}
		take()
		for h, n := range bytes {
			if n > window+2*size {
				t.Errorf("handle %d was sent %d bytes on a window of %d", h, n, window)
			}
		}
		if all := bytes[1] + bytes[2] + bytes[3]; all > linkWindow+2*size || all < linkWindow {
			t.Errorf("%d bytes on a link window of %d", all, linkWindow)
		}
		e.say(&relaypb.ToOwner{
			LinkCredit: 10 * writes * size,
			Credit:     []*relaypb.Credit{{Handle: 1, Bytes: window}, {Handle: 9, Bytes: 1}},
		})
		for range writes {
			take()
			e.say(&relaypb.ToOwner{Credit: []*relaypb.Credit{{Handle: 1, Bytes: window}}})
		}
		if take(); next[1] != writes || next[2] == writes {
			t.Errorf("%d batches with credit, and %d without", next[1], next[2])
		}
	})
}
