package sse

import (
	"slices"

	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/shard"
)

// OutputBuffer holds the output that is pending for a reader. An executor of many sessions may
// lend one to each in turn (LendBuffer, ReclaimBuffer).
type OutputBuffer struct {
	pending [][]byte
	written int      // how many of pending are written
	cursor  uint64   // the Stream-Cursor of the moment of rendering
	readers int      // of the stream, at that moment, to be shown; may be readersUnknown
	frames  []*frame // the frames with data in pending
	batches []shard.RecordBatch
}

// newestTime returns S2's time (ms) of the newest message in the buffer; 0: it comes from history, or
// its time is not known, or there is none.
func (o *OutputBuffer) newestTime() shard.Millis {
	if o == nil || len(o.frames) == 0 {
		return 0
	}
	return o.frames[len(o.frames)-1].storedAt
}

// release releases what the buffer holds; false: the buffer is not worth keeping.
func (o *OutputBuffer) release(p *sendbudget.Budget) bool {
	for _, f := range o.frames {
		f.unpin(p)
	}
	clear(o.pending)
	clear(o.frames)
	o.pending, o.frames, o.written = o.pending[:0], o.frames[:0], 0
	return cap(o.pending) <= maxKeptBuffers
}

// clone returns a buffer with the same output, of which nothing is written yet.
func (o *OutputBuffer) clone(p *sendbudget.Budget) *OutputBuffer {
	for _, f := range o.frames {
		f.pin(p)
	}
	return &OutputBuffer{pending: slices.Clone(o.pending), frames: slices.Clone(o.frames)}
}

// maxKeptBuffers bounds the slices of an OutputBuffer that is kept.
const maxKeptBuffers = 64
