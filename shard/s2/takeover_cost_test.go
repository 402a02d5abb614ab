package s2

import (
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// readCounts returns how many reads of the stream S2 has served, and how many records they
// returned.
func (r *testEnv) readCounts() (calls, records int64) {
	u := r.server.Usage().Streams[testBasin+"/"+string(id)]
	return u.Ops[s2dev.OpRead] + u.Ops[s2dev.OpReadSession] + u.Ops[s2dev.OpCheckTail], u.RecordsRead
}

// takeOver lets a new node take over the stream and returns the cost. The node's clock stands
// still: a slow takeover would read once more before it answers.
func (r *testEnv) takeOver() (info shard.Info, calls, records int64) {
	r.Helper()
	calls, records = r.readCounts()
	now := time.Now()
	info = r.info(r.newManagerAt(func() time.Time { return now }))
	c, n := r.readCounts()
	return info, c - calls, n - records
}

// appendMany appends n small messages, a thousand at a time.
func (r *testEnv) appendMany(h *shard.Manager, n int) {
	r.Helper()
	for n > 0 {
		q := request(shard.OpAppend, "text/plain")
		for range min(n, 1000) {
			q.Messages.Add([]byte("0123456789"))
		}
		n -= q.Messages.Len()
		r.mustDo(h, q, shard.CodeAppended)
	}
}

// If the last record is ours, a takeover needs at most two reads side by side and one after them,
// whatever the stream's length.
func TestTakeoverTakesThreeReads(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(r *testEnv, h *shard.Manager)
	}{
		{"empty", func(*testEnv, *shard.Manager) {}},
		{"10 records", func(r *testEnv, h *shard.Manager) { r.appendMany(h, 10) }},
		{"499 records", func(r *testEnv, h *shard.Manager) { r.appendMany(h, 499) }},
		{"100,000 records", func(r *testEnv, h *shard.Manager) { r.appendMany(h, 100_000) }},
		{"after 16 MiB in one append", func(r *testEnv, h *shard.Manager) {
			q := request(shard.OpAppend, "text/plain", strings.Repeat("x", shard.MaxBody))
			r.mustDo(h, q, shard.CodeAppended)
		}},
		{"after an array of 32,768", func(r *testEnv, h *shard.Manager) {
			q := request(shard.OpAppend, "text/plain")
			for range shard.MaxMessages {
				q.Messages.Add([]byte("m"))
			}
			r.mustDo(h, q, shard.CodeAppended)
		}},
		{"deleted", func(r *testEnv, h *shard.Manager) {
			r.appendMany(h, 2000)
			r.mustDo(h, request(shard.OpDelete, ""), shard.CodeDeleted)
		}},
		{"closed", func(r *testEnv, h *shard.Manager) {
			r.appendMany(h, 10)
			q := request(shard.OpAppend, "")
			q.Close = true
			r.mustDo(h, q, shard.CodeAppended)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newTestEnv(t)
			h := r.newManager()
			r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
			c.write(r, h)
			want := r.info(h)
			got, calls, records := r.takeOver()
			t.Logf("%d calls, %d records", calls, records)
			if calls > 3 || records > 6000 {
				t.Errorf("%d calls, %d records, want at most 3 and a few batches", calls, records)
			}
			if got.Generation != want.Generation || got.Tail != want.Tail || got.LogTail != want.LogTail || got.Exists != want.Exists {
				t.Errorf("state %+v, want %+v", got, want)
			}
		})
	}
}

// With foreign records at the end, the cost grows with their number, until one of our records is
// last again.
func TestTakeoverCostGrowsWithForeignRecordsAtTheEnd(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	r.appendMany(h, 10)
	bodies := make([]string, 1000)
	for i := range bodies {
		bodies[i] = "foreign"
	}
	for range 100 {
		r.appendForeign(bodies...)
	}
	info, calls, records := r.takeOver()
	t.Logf("after 100,000 foreign records: %d calls, %d records read", calls, records)
	if info.Tail != info.Start+100_010 {
		t.Errorf("tail %d, want %d", info.Tail, info.Start+100_010)
	}
	again := r.newManager()
	r.appendMany(again, 1)
	if _, calls, _ := r.takeOver(); calls > 3 {
		t.Errorf("%d calls after an append of ours, want at most 3", calls)
	}
}
