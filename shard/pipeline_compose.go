package shard

import (
	"slices"
)

// compose decides what goes into the next batch, and puts it in flight, under mu; nil: no caller
// waits any more.
func (p *pipeline) compose() *appendBatch {
	s := p.stream
	base := p.last
	if base == nil {
		base = p.fold
	}
	if p.parts != nil {
		return p.composePart(base)
	}
	s.dropLeft()
	if len(s.queue) == 0 {
		return nil
	}
	c := p.newComposer(base)
	c.now = s.readClocks()
	b := s.composeFrom(c, base, maxFlightCalls-p.calls)
	b.base, b.flight = p.fold, &flight{}
	p.calls += len(b.calls)
	switch {
	case b.needsLog || b.changesMore():
		p.single = b
		return b
	case b.remaining != nil:
		p.parts = b
		first := &appendBatch{base: p.fold, pos: b.pos, entries: b.entries, bytes: b.bytes, inParts: true, flight: &flight{}}
		return p.putInFlight(first, c)
	case len(b.entries) == 0:
		s.flights = append(s.flights, b)
		p.startCheck(b)
		return b
	}
	return p.putInFlight(b, c)
}

// composePart composes the next part of an append in parts, under mu. Its callers wait for the last
// part.
func (p *pipeline) composePart(base *State) *appendBatch {
	c := p.newComposer(base)
	whole := p.parts
	c.composePart(whole, base)
	b := &appendBatch{base: p.fold, pos: base.Next, entries: c.batch.entries, bytes: c.batch.bytes, inParts: true, flight: &flight{}}
	if whole.remaining == nil {
		b.calls, b.verdicts, p.parts = whole.calls, whole.verdicts, nil
	}
	return p.putInFlight(b, c)
}

// putInFlight adds a batch to those in flight, under mu.
func (p *pipeline) putInFlight(b *appendBatch, c *composer) *appendBatch {
	b.predicted = &c.speculation
	p.last = b.predicted
	p.sent, p.bytes, p.records = p.sent+1, p.bytes+b.bytes, p.records+len(b.entries)
	b.maybeWritten = true
	p.stream.flights = append(p.stream.flights, b)
	return b
}

// changesMore reports whether the batch holds more than messages, closes, touches and checkpoints.
func (b *appendBatch) changesMore() bool {
	return slices.ContainsFunc(b.entries, func(e Entry) bool {
		if e.Trim {
			return true
		}
		if e.decoded == nil {
			return false // a checkpoint
		}
		switch e.decoded.Kind {
		case KindMessage, KindClose, KindTouch:
			return false
		default:
			return true
		}
	})
}
