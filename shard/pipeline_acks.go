package shard

import (
	"fmt"
	"time"
)

// takeAcks takes what the session tells. failed: the session has ended with something in flight, and
// the write loop goes on with b.
func (p *pipeline) takeAcks() (b *appendBatch, failed bool) {
	acks, end := p.session.TakeAcks(p.acks[:0])
	p.acks = acks
	for _, ack := range acks {
		b := p.oldestSent()
		if b == nil || ack.Start != b.pos || ack.End != b.end() {
			end = &AppendEnd{Err: fmt.Errorf("%w: acknowledged from %d to %d", ErrAppendUnknown, ack.Start, ack.End)}
			return p.leaveFailed(end), true
		}
		if err := p.takeAck(b, ack); err != nil {
			return p.leaveWith(b, err), true
		}
	}
	switch {
	case end != nil && (len(p.stream.flights) > 0 || p.holdsUnsent()):
		return p.leaveFailed(end), true
	case end != nil:
		p.stream.mu.Lock()
		p.pauseAfterEnd()
		p.stream.mu.Unlock()
		return nil, true
	case p.sent > 0 && !p.stopBy.IsZero() && time.Now().After(p.stopBy):
		p.abandon()
		return nil, true
	case p.sent > 0 && time.Since(p.oldestSent().sentAt) > appendTimeout:
		p.session.Close() // TakeAcks tells the end
		p.signal()
	}
	return nil, false
}

// takeAck folds a batch that is acknowledged, and answers its callers, and those whose refusals it
// proves: the log ended at its position after they had come.
func (p *pipeline) takeAck(b *appendBatch, ack Ack) error {
	s := p.stream
	now := time.Now()
	took := now.Sub(b.sentAt)
	b.noteSending(b.sentAt, nil)
	s.manager.pipelines.acks.note(now, took)
	p.ackTime += (took - p.ackTime) / 8
	if err := s.foldFromLog(p.fold, b.recordsAt(ack)); err != nil {
		return err
	}
	s.noteAckTime(ack, b.sentClock)
	s.noteSynced(p.fold, b.sentClock)
	s.mu.Lock()
	done := s.takeFlights(b)
	p.useful = true
	p.sent, p.bytes, p.records = p.sent-1, p.bytes-b.bytes, p.records-len(b.entries)
	s.pipelineDepth = min(s.pipelineDepth+1, maxFlightBatches)
	p.rebase()
	s.mu.Unlock()
	s.manager.pipelines.inFlight.Add(-1)
	s.manager.pipelines.onSession.Add(1)
	p.answer(done)
	return nil
}

// answer answers the callers of batches that are acknowledged.
func (p *pipeline) answer(done []*appendBatch) {
	for _, b := range done {
		p.calls -= len(b.calls)
		b.answerCalls(nil)
	}
}

// rebase lets the oldest prediction stand on the fold, which by now has all below it, under mu.
func (p *pipeline) rebase() {
	if b := p.stream.oldestSent(); b == nil {
		p.last = nil
	} else if b.predicted.base != nil { // else it is whole: the batch ends in a checkpoint
		b.predicted.base = p.fold
	}
}
