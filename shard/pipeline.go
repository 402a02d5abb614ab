package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// A pipeline sends the batches of one stream over an append session, several at a time:
//
//	run:
//	    takeAcks                      folds what is acknowledged, and answers its callers
//	        the session has ended:    leaveFailed: what is not acknowledged is resolved
//	    settleRefusals                answers refusals that wait for nothing any more
//	    sendDue                       composes and sends what may be sent now
//	        compose                   decides callers against the predicted State
//	    wait for acknowledgements, callers, or the time at which the next batch may be sent
//
// # What a batch stands on
//
// The first batch on the session stands on the fold: on what was read or acknowledged. Each later
// one stands on the prediction of the batch before it, and its position is where that batch will
// end. S2 writes the batches of a session in order, and none after one that it refuses. So a batch is
// written only if all below it is what it was decided on, and its acknowledgement makes its verdicts
// true. By another way, a batch could find its position above another writer's records. So nothing is
// sent by another way while it stands on a prediction.
//
// When the session has ended nothing is speculative any more. Of the batches in flight the first so
// many are written, or still will be. The first that is not found in the log is sent again alone, as
// a call. If that is acknowledged, or another record stands in its place, no batch behind it can be
// written any more, and their callers go back to the head of the queue, in order.
//
// A verdict that writes nothing has no batch to prove it. It waits until everything that it rests
// on is acknowledged, and for a proof that the log ended there after its caller came: a tail check,
// or the acknowledgement of the batch behind it.
//
// A batch that changes more than messages (a create, a delete, a fork's reference) is sent as a call,
// when nothing is in flight.
//
// A pipeline is owned by the goroutine in the write loop, except for what Stream.mu guards.
type pipeline struct {
	stream  *Stream
	fold    *State // that everything in flight stands on
	session AppendSession
	wakeup  chan struct{} // capacity 1
	evicted atomic.Bool   // its session is to be closed once nothing is in flight

	last    *State       // prediction of the newest batch in flight; nil: none is
	sent    int          // batches in flight
	calls   int          // of them, and of refusals
	bytes   int          // of them
	records int          // of them
	parts   *appendBatch // an append in parts of which the next part is still to be composed
	single  *appendBatch // waits until nothing is in flight
	broken  bool         // nothing more can be sent on the session
	useful  bool         // the session has acknowledged a batch

	stopBy   time.Time // when a stream that is released waits no more; zero: it is not released
	lastSent time.Time
	usedAt   time.Time     // when something was last in flight
	ackTime  time.Duration // moving mean
	acks     []Ack         // scratch
}

// signal wakes the goroutine in the write loop.
func (p *pipeline) signal() {
	select {
	case p.wakeup <- struct{}{}:
	default:
	}
}

// run sends batches until no caller has come for a while, or something has to be done without the
// session. It returns the batch with which the write loop goes on; nil: none.
func (p *pipeline) run(ctx context.Context) *appendBatch {
	defer p.close()
	p.usedAt = time.Now()
	timer := time.NewTimer(pipelineLinger)
	defer timer.Stop()
	for {
		if b, failed := p.takeAcks(); failed {
			return b
		}
		if b, failed := p.settleRefusals(); failed {
			return b
		}
		b, wait := p.sendDue()
		if wait <= 0 {
			return b
		}
		timer.Reset(wait)
		select {
		case <-p.wakeup:
		case <-timer.C:
		case <-ctx.Done():
			return p.leaveFailed(&AppendEnd{Err: errors.Join(ErrAppendUnknown, ErrStopped)})
		}
	}
}

// close ends the session.
func (p *pipeline) close() {
	p.session.Close()
	s := p.stream
	s.manager.pipelines.remove(p)
	s.mu.Lock()
	s.pipeline = nil
	s.mu.Unlock()
}

// takeAcks takes what the session tells. failed: the session has ended with something in flight, and
// the write loop goes on with b.
func (p *pipeline) takeAcks() (b *appendBatch, failed bool) {
	acks, end := p.session.Take(p.acks[:0])
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
		p.session.Close() // Take tells the end
		p.signal()
	}
	return nil, false
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

// pauseAfterEnd has the stream wait before it opens another session, if this one was of no use, under
// mu.
func (p *pipeline) pauseAfterEnd() {
	if !p.useful {
		p.stream.pipelineAfter = time.Now().Add(pipelinePause)
	}
}

// holdsUnsent reports whether callers wait in something that was composed and not sent.
func (p *pipeline) holdsUnsent() bool { return p.parts != nil || p.single != nil }

// takeAck folds a batch that is acknowledged, and answers its callers, and those whose refusals it
// proves: the log ended at its position after they had come.
func (p *pipeline) takeAck(b *appendBatch, ack Ack) error {
	s := p.stream
	now := time.Now()
	took := now.Sub(b.sentAt)
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

// oldestSent returns the oldest batch in flight; nil: none is.
func (p *pipeline) oldestSent() *appendBatch {
	p.stream.mu.Lock()
	defer p.stream.mu.Unlock()
	return p.stream.oldestSent()
}

// settleRefusals answers refusals that rest on nothing that is in flight, once their tail check has
// come. Refusals before a batch in flight are settled by its acknowledgement. failed: the write loop
// has to go on with b, since the log had gone on.
func (p *pipeline) settleRefusals() (b *appendBatch, failed bool) {
	s := p.stream
	for {
		s.mu.Lock()
		if len(s.flights) == 0 || len(s.flights[0].entries) > 0 {
			s.mu.Unlock()
			return nil, false
		}
		b := s.flights[0]
		switch checked, err := b.checked(); {
		case !checked:
			s.mu.Unlock()
			return nil, false
		case err == nil || !isTail(err):
			done := s.takeFlights(b)
			s.mu.Unlock()
			p.calls -= len(b.calls)
			done[0].answerCalls(err)
		case p.sent > 0: // the log may have gone on by the batch behind it, whose end will tell
			s.mu.Unlock()
			return nil, false
		default:
			s.mu.Unlock()
			return p.leaveWith(b, err), true
		}
	}
}

// tailProof is a tail check in the place of a batch: it shows that a refusal rests on the log.
type tailProof struct {
	done bool // guarded by Stream.mu, as err is
	err  error
}

// checked reports whether it is known if the refusals in b stand, under mu. *TailError: the log had
// gone on.
func (b *appendBatch) checked() (known bool, err error) {
	switch {
	case b.proof == nil:
		return true, nil
	case !b.proof.done:
		return false, nil
	}
	return true, b.proof.err
}

// startCheck asks for the tail, for the refusals in b.
func (p *pipeline) startCheck(b *appendBatch) {
	s := p.stream
	if b.irreversible || s.manager.cfg.Mode == ModeExclusive {
		p.signal() // settleRefusals looks at it
		return
	}
	b.proof = &tailProof{}
	proof, pos := b.proof, b.pos
	finish := func(err error) {
		s.mu.Lock()
		proof.done, proof.err = true, err
		s.mu.Unlock()
		p.signal()
	}
	if !s.manager.spawn(func(ctx context.Context) {
		err := s.waitToAskAbsent(ctx)
		tail := pos
		if err == nil {
			if tail, err = s.askTail(ctx); err != nil {
				err = storeErr(err)
			}
		}
		if err == nil && tail > pos {
			err = &TailError{tail}
		}
		finish(err)
	}) {
		proof.done, proof.err = true, ErrStopped
	}
}

// sendDue composes and sends what may be sent now. wait is the time after which something may have
// to be done without news; 0: the pipeline is to be left, with b.
func (p *pipeline) sendDue() (b *appendBatch, wait time.Duration) {
	s := p.stream
	for {
		now := time.Now()
		s.mu.Lock()
		idle := len(s.flights) == 0
		usable := s.opened && !s.stopped && s.state == p.fold && !p.broken
		waiting := p.parts != nil || len(s.queue) > 0
		switch {
		case p.single != nil && idle:
			s.mu.Unlock()
			return p.single, 0
		case idle && p.parts == nil && (!usable || !waiting && p.isOver(now)):
			s.mu.Unlock()
			return nil, 0
		case p.single != nil, !usable, !waiting:
			if s.stopped && p.stopBy.IsZero() {
				p.stopBy = now.Add(p.ackTime + releaseMargin)
			}
			s.mu.Unlock()
			return nil, p.patience(now, idle)
		}
		if pause := p.pauseBeforeNext(now); pause > 0 {
			s.mu.Unlock()
			return nil, min(pause, p.patience(now, idle))
		}
		b := p.compose()
		s.mu.Unlock()
		if b == nil {
			continue // the callers have left
		}
		p.usedAt = now
		if idle {
			s.manager.pipelines.noteUse(p, false, now)
		}
		if len(b.entries) > 0 && p.single == nil {
			p.submit(b, now)
		}
	}
}

// isOver reports whether the session is to be closed, when nothing is in flight.
func (p *pipeline) isOver(now time.Time) bool {
	return p.evicted.Load() || now.Sub(p.usedAt) >= pipelineLinger || !p.stream.manager.pipelines.isWorthwhile()
}

// patience returns how long to wait for news.
func (p *pipeline) patience(now time.Time, idle bool) time.Duration {
	if idle {
		p.stream.manager.pipelines.noteUse(p, true, p.usedAt)
		return max(pipelineLinger-now.Sub(p.usedAt), time.Millisecond)
	}
	p.usedAt = now
	if !p.stopBy.IsZero() {
		return max(min(lookAgainAfter, p.stopBy.Sub(now)+time.Millisecond), time.Millisecond)
	}
	return lookAgainAfter
}

// pauseBeforeNext returns for how long the next batch has to wait; 0: it may be composed. While the
// pipeline is full it waits for an acknowledgement. Under mu.
func (p *pipeline) pauseBeforeNext(now time.Time) time.Duration {
	s := p.stream
	switch {
	case p.sent >= s.pipelineDepth, p.calls >= maxFlightCalls,
		p.bytes+MaxBatchBytes > maxFlightBytes, p.records+MaxBatchRecords > maxFlightRecords:
		return lookAgainAfter
	case p.sent == 0, p.parts != nil, s.queueBytes >= MaxBatchBytes:
		return 0
	}
	return max(minBatchGap, p.ackTime/flightsPerAck) - now.Sub(p.lastSent)
}

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
	c := &composer{now: s.readClocks(), predicts: true}
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
	c := &composer{predicts: true}
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

// submit sends a batch.
func (p *pipeline) submit(b *appendBatch, now time.Time) {
	b.sentAt, b.sentClock, b.attempted = now, p.stream.manager.cfg.Now(), true
	p.lastSent = now
	p.stream.manager.pipelines.inFlight.Add(1)
	if err := p.session.Submit(b.pos, b.entries); err != nil {
		b.unsent, p.broken = true, true
		p.session.Close() // Take tells the end
		p.signal()
	}
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

// end returns the position after the batch.
func (b *appendBatch) end() Pos { return b.pos + Pos(len(b.entries)) }

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
