package sse

import (
	"bytes"
	"testing"

	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
)

// A frame that is being sent to a reader is found by the next that needs it, however many
// came since. A frame that is not being sent goes when the ring is full.
func TestPinnedFramesStay(t *testing.T) {
	t.Parallel()
	c := NewFrameCache(1<<30, sendbudget.New(1<<30))
	set := c.openSet(nil, FramingText)
	body := bytes.Repeat([]byte("x"), maxSetBytes/4)
	ranges := make([]shard.RecordBatch, 3*maxPinnedSkipped)
	for i := range ranges {
		pos := uint64(i)
		ranges[i] = ssetest.Batch(t, shard.Pos(pos), shard.Pos(pos+1), shard.Pos(pos+1), false, []shard.Message{{Pos: shard.Pos(pos), Next: shard.Pos(pos + 1), Body: body}})
	}
	of := func(i int) *frame { return set.frameFor(ranges[i], 0, 7, true, 0) }
	let := of(30)
	held := make([]*frame, 20) // far more than the ring holds
	for i := range held {
		held[i] = of(i)
		held[i].pin(c.budget)
	}
	for i := range held {
		if of(i) != held[i] {
			t.Errorf("frame %d is being written, and was rendered anew", i)
		}
	}
	if of(30) == let {
		t.Error("a frame that nobody is written is kept")
	}
	// With more of them than are passed over, the ring stays bounded all the same.
	for i := range ranges {
		of(i).pin(c.budget)
	}
	if most := (maxPinnedSkipped + 1) * len(body) * 11 / 10; set.history.bytes > most+maxSetBytes {
		t.Errorf("%d bytes, want %d at most", set.history.bytes, most)
	}
	set.close() // while they are still being written
	if n := c.bytes.Load(); n != 0 {
		t.Errorf("%d bytes of a set that nobody reads", n)
	}
}

// A part of a RecordBatch counts for what it holds.
func TestPartOfABatchCountsForItsSize(t *testing.T) {
	t.Parallel()
	c := NewFrameCache(1<<30, sendbudget.New(1<<30))
	set := &FrameSet{cache: c, key: SetKey{Framing: FramingText}}
	var ms []shard.Message
	for i := range uint64(100) {
		ms = append(ms, shard.Message{Pos: shard.Pos(i), Next: shard.Pos(i + 1), Body: []byte("x")})
	}
	ms[99].Body = bytes.Repeat([]byte("x"), 1<<16)
	r := ssetest.Batch(t, 0, 100, 100, false, ms)
	if f := set.frameFor(r, 99, 7, false, 0); f.messages != 1 || f.cacheSize < 1<<16 || !bytes.Contains(f.data, ms[99].Body) {
		t.Errorf("%d messages, %d bytes", f.messages, f.cacheSize)
	}
	if a, b := set.frameFor(r, 50, 7, false, 0), set.frameFor(r, 50, 7, false, 0); a != b || a.messages != 50 {
		t.Errorf("%d messages, shared: %v", a.messages, a == b)
	}
}
