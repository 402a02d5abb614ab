package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/shard"
)

// A new owner with a clock that is behind is told of its streams before its own date: by Moved, and by
// redirects of requests. It asks the previous owner all the same, and S2 is not read.
func TestSuccessorWithASlowClockReadsNothing(t *testing.T) {
	t.Parallel()
	for name, with := range map[string]struct{ reads, writes bool }{
		"followed": {reads: true}, "written to": {writes: true}, "both": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 0)
			slow := f.add(announcedDates, func(c *Config) {
				c.Now = func() time.Time { return time.Now().Add(-600 * time.Millisecond) }
			})
			owner := f.add(announcedDates)
			f.awaitAgreement()
			var ids []shard.StreamID
			var readers []*streamReader
			wrote := make([][]string, 8)
			for i := 0; len(ids) < len(wrote); i++ {
				id := shard.StreamID(fmt.Sprintf("default/%d", i))
				if owner.currentTable().Owner(id).Name != owner.self {
					continue
				}
				ids = append(ids, id)
				f.mustDo(slow, write(id, shard.OpCreate), shard.CodeCreated)
				if with.reads {
					readers = append(readers, f.startReader(slow, id))
				}
			}
			before := f.log.Ops()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var writers sync.WaitGroup
			for i, id := range ids {
				writers.Go(func() {
					for n := 0; with.writes && ctx.Err() == nil; n++ {
						f.appendUntilAcked(slow, write(id, shard.OpAppend, fmt.Sprint(n)))
						wrote[i] = append(wrote[i], fmt.Sprint(n))
						<-time.After(5 * time.Millisecond)
					}
				})
			}
			leave, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := owner.Leave(leave); err != nil {
				t.Error(err)
			}
			stop()
			writers.Wait()
			for i, r := range readers {
				f.awaitMessages(r, wrote[i])
			}
			after := f.log.Ops()
			given := testutil.ToFloat64(owner.metrics.handovers.given)
			if read := after.Reads + after.Replays - before.Reads - before.Replays; read != 0 || given != float64(len(ids)) {
				t.Errorf("S2 was read %d times; %v of %d streams were handed over", read, given, len(ids))
			}
		})
	}
}

// slowManager needs time to describe a stream.
type slowManager struct {
	streamManager
	latency time.Duration
}

func (m *slowManager) Info(ctx context.Context, id shard.StreamID, a shard.InfoOptions) (shard.Info, error) {
	<-time.After(m.latency)
	return m.streamManager.Info(ctx, id, a)
}

// A node that leaves keeps the streams that it has not offered yet, however long the new owner takes for
// those before them.
func TestStreamsAreKeptUntilTheyAreOffered(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner, next := f.nodes[0], f.nodes[1]
	const streams, latency = 8 * maxOffersPerPeer, 400 * time.Millisecond
	var ids []shard.StreamID
	for i := 0; len(ids) < streams; i++ {
		id := shard.StreamID(fmt.Sprintf("default/%d", i))
		if owner.currentTable().Owner(id).Name == owner.self {
			f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
			ids = append(ids, id)
		}
	}
	next.local.manager = &slowManager{next.local.manager, latency}
	before := f.log.Ops()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := owner.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		f.mustDo(next, write(id, shard.OpAppend, "x"), shard.CodeAppended)
	}
	after := f.log.Ops()
	given := testutil.ToFloat64(owner.metrics.handovers.given)
	if read := after.Reads + after.Replays - before.Reads - before.Replays; read != 0 || given != streams {
		t.Errorf("S2 was read %d times; %v of %d streams were handed over", read, given, streams)
	}
}
