package shard

import (
	"errors"
	"slices"
	"time"
)

// leaveFailed notes what the end of the session says of the batches in flight, and returns the first
// that is to be resolved; nil: all callers are answered, or wait in the queue again.
func (p *pipeline) leaveFailed(end *AppendEnd) *appendBatch {
	s := p.stream
	p.session.Close()
	s.manager.pipelines.lost.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	unsent := end.Unsent
	for _, b := range slices.Backward(s.flights) {
		switch {
		case len(b.entries) == 0: // only refusals
		case end.Refused:
			b.maybeWritten = false
		case b.unsent:
			b.maybeWritten = false
		case unsent > 0:
			b.maybeWritten = false
			unsent--
		}
	}
	s.pipelineDepth = 1
	if !isTail(end.Err) {
		p.pauseAfterEnd()
	}
	p.leaveUnsent()
	s.settleFound()
	first := s.oldestSent()
	switch {
	case first == nil || !first.maybeWritten && !end.Refused:
		s.requeueFlights()
		return nil
	case end.Refused:
		first.sent, first.err = true, end.Err
	default:
		first.sent = false
	}
	return first
}

// leaveWith ends the session because of what became of b, and returns the batch with which the write
// loop goes on.
func (p *pipeline) leaveWith(b *appendBatch, err error) *appendBatch {
	s := p.stream
	p.session.Close()
	s.mu.Lock()
	p.leaveUnsent()
	s.mu.Unlock()
	b.sent, b.err = true, err
	return b
}

// leaveUnsent puts what was composed and not sent behind the batches in flight, under mu.
func (p *pipeline) leaveUnsent() {
	s := p.stream
	for _, b := range []*appendBatch{p.parts, p.single} {
		if b != nil {
			b.unsent, b.maybeWritten = true, false
			s.flights = append(s.flights, b)
		}
	}
	s.manager.pipelines.inFlight.Add(int64(-p.sent))
	p.parts, p.single, p.last, p.sent = nil, nil, nil, 0
}

// leaveParts gives up an append in parts of which the parts so far are acknowledged, under mu. Without
// their commit they are void. Its callers wait in the queue again, or turn to the next owner.
func (p *pipeline) leaveParts() {
	whole, s := p.parts, p.stream
	if whole == nil {
		return
	}
	p.parts = nil
	if s.stopped {
		whole.answerCalls(ErrNotOwner)
		return
	}
	s.queueAgain(whole.calls)
}

// holdsUnsent reports whether callers wait in something that was composed and not sent.
func (p *pipeline) holdsUnsent() bool { return p.parts != nil || p.single != nil }

// pauseAfterEnd has the stream wait before it opens another session, if this one was of no use, under
// mu.
func (p *pipeline) pauseAfterEnd() {
	if !p.useful {
		p.stream.pipelineAfter = time.Now().Add(pipelinePause)
	}
}

// abandon ends the session of a stream that is released, with batches in flight: the next owner, to
// which their callers turn, finds out what became of them.
func (p *pipeline) abandon() {
	s := p.stream
	p.session.Close()
	s.mu.Lock()
	p.leaveUnsent()
	flights := s.flights
	s.flights, s.abandoned = nil, true
	s.mu.Unlock()
	for _, b := range flights {
		if b.maybeWritten {
			b.answerCalls(b.callerError(errMovedEarly))
		} else {
			b.answerCalls(ErrNotOwner)
		}
	}
}

var errMovedEarly = errors.New("the stream moved before storage had answered")
