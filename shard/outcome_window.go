package shard

import "slices"

// outcomeWindowSize is the number of appends that the fold remembers by id.
const outcomeWindowSize = 1024

// outcome is the first outcome of an append, with which a repeat of it is answered.
type outcome struct {
	id   AppendID
	end  Pos // the visible tail right after it
	op   Op
	time Millis // S2 timestamp, ms; 0: this batch's
}

// outcomeWindow remembers the outcomes of the last outcomeWindowSize appends, in order. The oldest
// leaves when a new one comes. Of an append that is not newer than forgottenTime nothing can be
// told.
type outcomeWindow struct {
	ring          []outcome
	ids           []AppendID // the ring's ids side by side: each append searches them all
	oldest        int        // index of the oldest outcome, once the ring is full
	forgottenTime Millis     // S2 time, ms, of the newest outcome that has left; 0: none has
}

// add remembers an outcome.
func (w *outcomeWindow) add(o outcome) {
	if len(w.ring) < outcomeWindowSize {
		w.ring, w.ids = append(w.ring, o), append(w.ids, o.id)
		return
	}
	w.forgottenTime = max(w.forgottenTime, w.ring[w.oldest].time)
	w.ring[w.oldest], w.ids[w.oldest] = o, o.id
	w.oldest = (w.oldest + 1) % outcomeWindowSize
}

// find returns the outcome of an append id.
func (w *outcomeWindow) find(id AppendID) (outcome, bool) {
	if i := slices.Index(w.ids, id); i >= 0 {
		return w.ring[i], true
	}
	return outcome{}, false
}

// each calls fn with every outcome, oldest first.
func (w *outcomeWindow) each(fn func(outcome)) {
	for i := range w.ring {
		fn(w.ring[(w.oldest+i)%len(w.ring)])
	}
}
