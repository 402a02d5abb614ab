package cluster

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// appendOverTime appends messages until they have several times, and returns those times, by position.
func (f *fleet) appendOverTime(s *testNode, id shard.StreamID) map[shard.Pos]shard.Millis {
	f.Helper()
	f.mustDo(s, write(id, shard.OpCreate), shard.CodeCreated)
	times := map[shard.Pos]shard.Millis{}
	for distinct, last := 0, shard.Millis(0); distinct < 4; {
		info := f.mustDo(s, write(id, shard.OpAppend, fmt.Sprint(len(times))), shard.CodeAppended).Info
		recs := f.log.Records(id)
		at := recs[info.Tail-1].Time
		if at != last {
			distinct++
		}
		times[info.Tail-1], last = at, at
	}
	return times
}

// firstSince returns the first position of a time or later.
func firstSince(times map[shard.Pos]shard.Millis, since shard.Millis, tail shard.Pos) shard.Pos {
	for pos, at := range times {
		if at >= since {
			tail = min(tail, pos)
		}
	}
	return tail
}

// Every node knows where a time begins from the memory of the owner, and from the Log once the owner is
// dead.
func TestRelayTimesComeFromTheOwner(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	f.awaitAgreement()
	id := f.streamOwnedBy(f.nodes[0])
	times := f.appendOverTime(f.nodes[1], id)
	check := func(s *testNode) {
		t.Helper()
		info, err := s.Info(t.Context(), id, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range times {
			for _, since := range []shard.Millis{at - 1, at, at + 1} {
				if pos, err := s.FindTime(t.Context(), id, info, since); err != nil || pos != firstSince(times, since, info.Tail) {
					t.Errorf("%s since %d: %d, %v, want %d", s.self, since, pos, err, firstSince(times, since, info.Tail))
				}
			}
		}
	}
	before := f.log.Ops().TimeReads
	for _, s := range f.nodes {
		check(s)
	}
	if n := f.log.Ops().TimeReads - before; n != 0 {
		t.Errorf("%d reads by timestamp", n)
	}
	f.killNode(f.nodes[0])
	f.awaitAgreement()
	for _, s := range f.nodes[1:] {
		check(s)
	}
}

// While owners change, every node still knows where a time begins.
func TestRelayTimesWhileOwnersChange(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.awaitAgreement()
	ids := []shard.StreamID{f.streamOwnedBy(f.nodes[0]), f.streamOwnedBy(f.nodes[1])}
	var done atomic.Bool
	var asking sync.WaitGroup
	defer asking.Wait()
	defer done.Store(true)
	var asked [2]atomic.Int64
	for _, id := range ids {
		times := f.appendOverTime(f.nodes[0], id)
		info, err := f.nodes[0].Info(t.Context(), id, 0)
		if err != nil {
			t.Fatal(err)
		}
		var all []shard.Millis
		for _, at := range times {
			all = append(all, at)
		}
		slices.Sort(all)
		for i, s := range f.nodes[:2] {
			asking.Go(func() {
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for n := 0; !done.Load(); n++ {
					<-tick.C
					since := all[n%len(all)]
					if pos, err := s.FindTime(f.Context(), id, info, since); err != nil || pos != firstSince(times, since, info.Tail) {
						t.Errorf("%s since %d: %d, %v", s.self, since, pos, err)
						return
					}
					asked[i].Add(1)
				}
			})
		}
	}
	third := f.add()
	f.awaitAgreement()
	f.killNode(third)
	f.awaitAgreement()
	for i := range asked {
		f.eventually("it goes on", func() bool { return asked[i].Load() > 100 })
	}
}
