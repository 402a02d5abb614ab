package shard

import (
	"bytes"
	"slices"
)

// The batches of a stream's pipeline are in Stream.flights from the moment at which they are decided
// until their callers are answered or wait in the queue again.

// end returns the position after the batch.
func (b *appendBatch) end() Pos { return b.pos + Pos(len(b.entries)) }

// recordsAt returns the records that the batch's entries have become.
func (b *appendBatch) recordsAt(ack Ack) []Record {
	recs := make([]Record, len(b.entries))
	for i, e := range b.entries {
		t := ack.StartTime
		if i == len(b.entries)-1 {
			t = ack.EndTime
		}
		recs[i] = e.record(b.pos+Pos(i), t)
	}
	return recs
}

// oldestSent returns the oldest batch in flight, under mu; nil: none is.
func (s *Stream) oldestSent() *appendBatch {
	for _, b := range s.flights {
		if len(b.entries) > 0 {
			return b
		}
	}
	return nil
}

// isFlight reports whether b is a pipeline's batch, under mu.
func (s *Stream) isFlight(b *appendBatch) bool { return slices.Contains(s.flights, b) }

// takeFlights takes b, and all before it, from those in flight, under mu.
func (s *Stream) takeFlights(b *appendBatch) []*appendBatch {
	n := slices.Index(s.flights, b) + 1
	done := s.flights[:n:n]
	if s.flights = s.flights[n:]; len(s.flights) == 0 {
		s.flights = nil
	}
	return done
}

// matchFlights notes that a record of a batch in flight stands in the log, under mu.
func (s *Stream) matchFlights(r *Record) {
	for _, b := range s.flights {
		if len(b.entries) == 0 || r.Pos >= b.end() {
			continue
		}
		if r.Pos >= b.pos && !r.Command && bytes.Equal(r.Header, b.entries[r.Pos-b.pos].Header) {
			b.found++
		}
		return
	}
}

// skipFlights notes that what stood below a position was trimmed before it was folded, under mu.
func (s *Stream) skipFlights(to Pos) {
	for _, b := range s.flights {
		if b.flight != nil && b.pos < to {
			b.skipped = true
		}
	}
}

// isFound reports whether the whole batch was found in the log.
func (b *appendBatch) isFound() bool {
	return b.flight != nil && len(b.entries) > 0 && b.found == len(b.entries)
}

// settleFound answers the oldest batches of a pipeline, as long as they stand in the log, and the
// refusals before each: the log ended there after their callers had come. Under mu.
func (s *Stream) settleFound() {
	for b := s.oldestSent(); b != nil && b.isFound(); b = s.oldestSent() {
		for _, done := range s.takeFlights(b) {
			done.answerCalls(nil)
		}
	}
}

// requeueFlights queues the callers of batches that are certainly not written, and never will be,
// under mu.
func (s *Stream) requeueFlights() {
	var retry []*call
	for _, b := range s.flights {
		retry = append(retry, b.calls...)
	}
	s.queueAgain(retry)
}

// queueAgain puts callers of the batches in flight back at the head of the queue, under mu. Nothing is
// in flight any more.
func (s *Stream) queueAgain(retry []*call) {
	s.flights = nil
	s.queue = append(retry, s.queue...)
	for _, c := range retry {
		s.queueBytes += c.size
	}
}
