package shard

import (
	"context"
	"errors"
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
// The type is in pipeline_state.go. What the loop does is in files that refer to each other downwards:
// pipeline_acks.go, pipeline_compose.go, pipeline_refusals.go, pipeline_end.go, and flights.go, which
// the write loop uses as well.

// openPipeline opens an append session for the callers that wait, if that is worthwhile and there is
// room; nil: one batch after the other is sent.
func (s *Stream) openPipeline(ctx context.Context) *pipeline {
	all := &s.manager.pipelines
	if !all.isWorthwhile() {
		return nil
	}
	p := &pipeline{stream: s, wakeup: make(chan struct{}, 1), ackTime: all.acks.shortest()}
	s.mu.Lock()
	p.fold = s.state
	ready := s.opened && !s.stopped && !s.noLog && s.state.exists && len(s.queue) > 0 && !time.Now().Before(s.pipelineAfter)
	s.mu.Unlock()
	if !ready || !all.add(p) {
		return nil
	}
	openCtx, cancel := context.WithTimeout(ctx, openSessionWithin)
	defer cancel()
	var err error
	if p.session, err = s.manager.log.openAppendSession(openCtx, s.id, p.signal); err != nil {
		all.remove(p)
		if !errors.Is(err, ErrLogDenied) { // that is about one stream
			all.retryAt.Store(time.Now().Add(sessionRetryAfter).UnixNano())
		}
		s.manager.cfg.Logger.Debug("append session", "stream", s.id, "err", err)
		return nil
	}
	s.mu.Lock()
	s.pipeline = p
	if s.pipelineDepth == 0 {
		s.pipelineDepth = maxFlightBatches
	}
	s.mu.Unlock()
	return p
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

// sendDue composes and sends what may be sent now. wait is the time after which something may have
// to be done without news; 0: the pipeline is to be left, with b.
func (p *pipeline) sendDue() (b *appendBatch, wait time.Duration) {
	s := p.stream
	for {
		now := time.Now()
		s.mu.Lock()
		idle := len(s.flights) == 0
		usable := s.opened && !s.stopped && s.state == p.fold && !p.broken && s.manager.pipelines.isAllowed()
		waiting := p.parts != nil || len(s.queue) > 0
		switch {
		case p.single != nil && idle:
			s.mu.Unlock()
			return p.single, 0
		case idle && !usable:
			p.leaveParts()
			s.mu.Unlock()
			return nil, 0
		case idle && !waiting && p.isOver(now):
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

// submit sends a batch.
func (p *pipeline) submit(b *appendBatch, now time.Time) {
	b.sentAt, b.sentClock, b.attempted = now, p.stream.manager.cfg.Now(), true
	p.lastSent = now
	p.stream.manager.pipelines.inFlight.Add(1)
	if err := p.session.Submit(b.pos, b.entries); err != nil {
		b.unsent, p.broken = true, true
		p.session.Close() // TakeAcks tells the end
		p.signal()
	}
}
