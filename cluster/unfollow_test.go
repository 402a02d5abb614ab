package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// A second after the last reader the subscription is gone at both ends, with all that it held. A
// reader that comes before finds it as it was.
func TestSubscriptionEndsASecondAfterItsLastReader(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	owner, edge := f.add(), f.add()
	f.awaitAgreement()
	subscriptions := func(s *testNode, side string) float64 { return s.metric(t, "fantail_relay_subscriptions", side) }
	id := f.streamOwnedBy(owner)
	f.mustDo(edge, write(id, shard.OpCreate, "a"), shard.CodeCreated)
	first := f.startReader(edge, id)
	f.awaitMessages(first, []string{"a"})
	first.release()
	second := f.startReader(edge, id) // long before the second is over
	if second.tail != first.tail {
		t.Error("another Tail for a reader that came at once")
	}
	if n, m := subscriptions(edge, "edge"), subscriptions(owner, "owner"); n != 1 || m != 1 {
		t.Errorf("%v subscriptions at the edge, %v at the owner", n, m)
	}
	began := time.Now()
	second.release()
	f.eventually("the subscription is gone", func() bool {
		return subscriptions(edge, "edge") == 0 && subscriptions(owner, "owner") == 0
	})
	if took := time.Since(began); took < unfollowAfter || took > 5*unfollowAfter {
		t.Errorf("gone after %v", took)
	}
	f.eventually("nothing is held", func() bool {
		return edge.tails.Len() == 0 && edge.tails.Bytes() == 0 && !owner.local.hasFeeds(id)
	})
}

// Readers come and go while streams are written to and change their owner: each reads from its
// start without a gap, and in the end nothing is held.
func TestReadersThatComeAndGoMissNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	var ids []shard.StreamID
	for i := range 6 {
		id := shard.StreamID(fmt.Sprintf("default/churn-%d", i))
		f.mustDo(f.nodes[0], write(id, shard.OpCreate, "0"), shard.CodeCreated)
		ids = append(ids, id)
	}
	ctx, stop := context.WithCancel(t.Context())
	first := f.living()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			for _, id := range ids {
				f.appendUntilAcked(first[i%2], write(id, shard.OpAppend, fmt.Sprint(i)))
			}
		}
	})
	reads := make([]int, 6)
	for n := range reads {
		s := first[n%2]
		wg.Go(func() {
			for ctx.Err() == nil {
				id := ids[rand.IntN(len(ids))]
				info, err := s.Info(ctx, id, shard.InfoAllowCached)
				if err != nil {
					continue
				}
				tail, release, err := s.Follow(ctx, id, info.Start)
				if err != nil {
					continue
				}
				r := &streamReader{tail: tail, release: release, node: s, id: id, pos: info.Start}
				err = r.readAvailable(ctx)
				for i, m := range r.got {
					if m != fmt.Sprint(i) {
						t.Errorf("%s on %s: %s at %d", id, s.self, m, i)
						break
					}
				}
				release()
				if err == nil {
					reads[n]++
				} else if ctx.Err() == nil {
					t.Errorf("%s on %s: %v", id, s.self, err)
				}
			}
		})
	}
	third := f.add()
	f.awaitAgreement()
	if err := third.Leave(ctx); err != nil {
		t.Error(err)
	}
	if n := len(third.manager.OwnedStreams()); n != 0 {
		t.Errorf("%d streams are left behind", n)
	}
	stop()
	wg.Wait()
	for n, c := range reads {
		if c == 0 {
			t.Errorf("reader %d read nothing", n)
		}
	}
	defer func() {
		if t.Failed() {
			for _, s := range f.nodes {
				s.local.mu.Lock()
				t.Log(s.self, s.local.feedRefs, s.tails.Len(), s.manager.OwnedStreams(), s.hasMisplaced.Load())
				s.local.mu.Unlock()
				t.Log("  subscriptions of peers", s.metric(t, "fantail_relay_subscriptions", "owner"))
				s.followLoop.mu.Lock()
				for _, fo := range s.followLoop.byStream {
					fo.mu.Lock()
					t.Logf("  follower %s readers %d feed %+v move %+v gone %v", fo.id, fo.readers, fo.feed, fo.move, fo.over)
					fo.mu.Unlock()
				}
				s.followLoop.mu.Unlock()
			}
		}
	}()
	f.eventually("nothing is held", func() bool {
		uses := 0
		for _, s := range f.nodes {
			s.local.mu.Lock()
			uses += len(s.local.feedRefs)
			s.local.mu.Unlock()
		}
		return uses == 0 && third.tails.Len() == 0
	})
	f.eventually("no stream has two sessions", func() bool { return f.log.OpenSessions() <= len(ids) })
}
