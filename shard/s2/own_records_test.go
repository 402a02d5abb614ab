package s2

import (
	"sync/atomic"
	"testing"

	"github.com/fantail-dev/fantail/shard"
)

// countingFeeder counts the records that feeds bring.
type countingFeeder struct {
	*Log
	brought atomic.Int64
}

func (c *countingFeeder) Feed(id shard.StreamID, f shard.Follower) (shard.Feed, bool) {
	return c.Log.Feed(id, &countedFollower{f, &c.brought})
}

type countedFollower struct {
	shard.Follower
	brought *atomic.Int64
}

func (f *countedFollower) TakePage(p shard.Page) error {
	f.brought.Add(int64(len(p.Records)))
	return f.Follower.TakePage(p)
}

// What a node wrote itself does not come again through the session.
func TestOwnRecordsDoNotComeTwice(t *testing.T) {
	r := newTestEnv(t)
	log := &countingFeeder{Log: newFeedLog(r)}
	m := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
	t.Cleanup(func() { _ = m.Close() })
	do := func(op shard.Op, bodies ...[]byte) {
		out, err := m.Do(t.Context(), &shard.Request{Op: op, Stream: id, ID: shard.NewAppendID(), Type: "text/plain", Messages: shard.NewMessages(bodies...)})
		if err != nil || !out.Code.Accepted() {
			t.Fatal(out, err)
		}
	}
	do(shard.OpCreate)
	tail, release, err := m.Follow(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	const n = 2000
	for range n {
		do(shard.OpAppend, []byte("own"))
	}
	got := 0
	for at := tail.Info().Start; at < tail.Info().Tail; {
		rs, _ := tail.ReadAt(at, 1<<20, nil)
		if len(rs) == 0 {
			t.Fatalf("nothing at %d", at)
		}
		for _, b := range rs {
			got += b.Len()
			at = b.To()
		}
	}
	if got != n {
		t.Errorf("%d of %d messages are there", got, n)
	}
	t.Logf("%d of %d records came twice; tail %d", log.brought.Load(), n, tail.Info().Tail)
	if log.brought.Load() > n/10 {
		t.Errorf("%d of %d records came twice", log.brought.Load(), n)
	}
}
