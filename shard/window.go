package shard

import "slices"

// windowSize is how many appends the fold remembers by id.
const windowSize = 1024

// outcome is the first outcome of an append: what a repeat of it is answered.
type outcome struct {
	id   AppendID
	end  uint64 // the visible tail right after it
	op   Op
	time uint64 // S2 timestamp, ms; 0: this batch's
}

// window remembers the outcomes of the last windowSize appends, in order. The
// oldest leaves when a new one comes; forgot is the S2 time of the newest that
// left: below it nothing can be told.
type window struct {
	ring   []outcome
	ids    []AppendID // the ring's, side by side: each append that comes looks through them all
	head   int        // the oldest, once the ring is full
	forgot uint64
}

func (w *window) add(o outcome) {
	if len(w.ring) < windowSize {
		w.ring, w.ids = append(w.ring, o), append(w.ids, o.id)
		return
	}
	w.forgot = max(w.forgot, w.ring[w.head].time)
	w.ring[w.head], w.ids[w.head] = o, o.id
	w.head = (w.head + 1) % windowSize
}

func (w *window) find(id AppendID) (outcome, bool) {
	if i := slices.Index(w.ids, id); i >= 0 {
		return w.ring[i], true
	}
	return outcome{}, false
}

// all calls fn with every outcome, oldest first.
func (w *window) all(fn func(outcome)) {
	for i := range w.ring {
		fn(w.ring[(w.head+i)%len(w.ring)])
	}
}
