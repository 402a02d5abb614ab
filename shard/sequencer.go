package shard

import (
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

// The sequencer writes a stream's appends. It is one loop over batches, of which each is decided,
// sent and resolved; the loop ends when no caller waits.
//
//	writeLoop:
//	    repeat, until no caller waits:
//	        several could be in flight:  openPipeline, pipeline.run
//	        no batch is in flight:    decideBatch, composeFrom
//	            composer.compose      decides callers from the front of the queue, each against the
//	                                  fold and what the batch holds by then: the predicted State
//	        it is not sent:           sendBatch, one append
//	            confirmTail           if nothing is to be written: a refusal must rest on the log
//	            createLog             if the log is not there
//	            Log.Append            at exactly the position of the fold
//	            foldAck               folds and publishes what is acknowledged; composes the next part
//	        it is sent:               resolveBatch
//	            acknowledged:         answers its callers, or goes on with its next part
//	            refused for its position: resolveLoss reads what another writer wrote, answers the
//	                                  callers found in it, and queues the others again, in order
//	            busy, or unknown:     pauses, and has the same batch sent again, which tells; after
//	                                  resendTimeout its callers get ErrOutcomeUnknown
//	            refused for good:     answers its callers
//
// What the next step is follows from the batch alone, so the loop may be left after any step and
// entered again with the batch. Two goroutines use that. The caller that finds no batch in flight
// enters the loop itself, as the leader (leadWrites): waking another goroutine would cost a tenth of
// an append that is alone. It stays for what costs it one answer of storage: to decide a batch, send
// it, and answer it. Everything else, and the callers that wait by then, it leaves to a goroutine
// that enters the same loop and stays until no caller waits.
//
// Stream.writing is true from the leader's first step to finishWriting, so no two goroutines send
// batches of a stream.
//
// Speculation and fold are the same function, State.foldDecoded, and each record of a batch passes
// it twice. When the batch is decided, it goes into the composer's speculation, against which later
// callers of the batch are decided, and which predicts the fold. Once the batch is acknowledged, it
// goes into the fold itself. A verdict rests on the prediction, and so is given only when the
// prediction has become true: after the acknowledgement.
//
// One batch is in flight because each append is a request of its own, and requests may overtake each
// other: a batch decided on a batch that is not acknowledged may find the position it expects below
// another writer's records. Several batches need a session that keeps their order. Where callers wait
// and storage is far away, the loop has a pipeline send them over one (pipeline.go), and goes on with
// what the pipeline could not resolve.
//
// A batch is written at most once. Its position makes sure: of several sendings of one batch one can
// succeed, and none after another record stands there. The order of appends is the order of the
// queue; a batch that loses its position is queued again at the front.

// leadWrites enters the loop on the goroutine of the caller that found no batch in flight, within
// the caller's ctx.
func (s *Stream) leadWrites(ctx context.Context) {
	defer crashOnPanic()
	s.writeLoop(ctx, nil, true)
}

// writeLoop decides, sends and resolves batches, one after the other, until no caller waits. b is
// the batch in flight that a leader has left to it; nil: none is. leads: the caller is the leader,
// and leaves after at most one batch.
func (s *Stream) writeLoop(ctx context.Context, b *appendBatch, leads bool) {
	for {
		switch {
		case b == nil:
			if leads && s.leavesToPipeline() {
				break
			}
			if !leads {
				s.prepareToDecide(ctx)
				if p := s.openPipeline(ctx); p != nil {
					b = p.run(ctx)
					break
				}
			}
			var waiting bool
			if b, waiting = s.decideBatch(); !waiting {
				return
			}
		case !b.sent:
			s.sendBatch(ctx, b)
		default:
			many := len(b.calls) > 1
			if b = s.resolveBatch(ctx, b); b == nil && many && !leads {
				// It is busy here: what has arrived and not been run yet joins the next batch.
				runtime.Gosched()
			}
		}
		if leads && !b.isLeadersStep() {
			s.leaveWrites(b)
			return
		}
	}
}

// isLeadersStep reports whether the next step with the batch is one that the leader takes: an append
// with nothing before it, or answers.
func (b *appendBatch) isLeadersStep() bool {
	switch {
	case b == nil:
		return false
	case b.sent:
		return b.err == nil
	case b.isWritten():
		return b.irreversible || b.isReadForCalls() // nothing is to be confirmed
	default:
		return !b.needsLog
	}
}

// leaveWrites ends the leader's part in the loop: a goroutine goes on with b and with the callers
// that wait, if there are any.
func (s *Stream) leaveWrites(b *appendBatch) {
	s.mu.Lock()
	if b == nil && len(s.queue) == 0 {
		s.finishWriting()
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if s.manager.spawn(func(ctx context.Context) { s.writeLoop(ctx, b, false) }) {
		return
	}
	if b != nil {
		b.answerCalls(b.callerError(ErrStopped))
	}
	s.mu.Lock()
	waiting := s.queue
	s.queue = nil
	s.finishWriting()
	s.mu.Unlock()
	for _, c := range waiting {
		c.answer(Outcome{}, ErrStopped)
	}
}

// finishWriting ends the loop, under mu: no caller waits any more.
func (s *Stream) finishWriting() {
	s.queue, s.queueBytes, s.writing = clearForReuse(s.queue), 0, false
	s.writingEnded.Broadcast()
}

// crashOnPanic ends the process if its caller panics, from a goroutine of its own. net/http would
// survive the panic on a request's goroutine, and the lock and the batch that it left behind would
// block the stream, and then the node, forever.
func crashOnPanic() {
	if v := recover(); v != nil {
		crash(v, debug.Stack())
	}
}

// prepareToDecide waits until the log is folded, after a reset, and refuses the callers that wait if
// it cannot be.
func (s *Stream) prepareToDecide(ctx context.Context) {
	err := s.waitReady(withPatience(ctx))
	if err == nil {
		return
	}
	if ctx.Err() != nil {
		err = ErrStopped
	}
	s.refuseQueue(err)
}

// decideBatch composes a batch from the callers that wait; false: none waits, and the loop has ended.
// Without a batch the log has to be opened first.
func (s *Stream) decideBatch() (*appendBatch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLeft()
	if len(s.queue) == 0 {
		s.finishWriting()
		return nil, false
	}
	if !s.opened {
		return nil, true
	}
	return s.composeFrom(&composer{now: s.readClocks()}, s.state, len(s.queue)), true
}

// dropLeft drops the callers from the queue that have left, under mu.
func (s *Stream) dropLeft() {
	waiting := s.queue[:0]
	for _, c := range s.queue {
		if c.ctx.Err() == nil {
			waiting = append(waiting, c)
		} else {
			s.queueBytes -= c.size
		}
	}
	clear(s.queue[len(waiting):])
	s.queue = waiting
}

// composeFrom has a composer fill a batch that is to stand on base, with at most limit callers from
// the front of the queue, under mu.
func (s *Stream) composeFrom(c *composer, base *State, limit int) *appendBatch {
	first := s.queue[:min(limit, len(s.queue))]
	for _, call := range first {
		s.setCallTimes(call, c.now)
	}
	b, n := c.compose(base, first)
	for _, call := range first[:n] {
		s.queueBytes -= call.size
		call.trace.noteBatch()
	}
	s.queue = slices.Delete(s.queue, 0, n)
	b.foreignBefore = s.foreignRecords
	b.needsLog = s.noLog || !s.logConfigured && base.generation == 0 && !base.ended && b.hasCreate()
	return b
}

// leavesToPipeline reports whether the leader's append takes several batches that can be pipelined.
func (s *Stream) leavesToPipeline() bool {
	if !s.manager.pipelines.isWorthwhile() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queueBytes > MaxBatchBytes && s.opened && !s.noLog && s.state.exists
}

// setCallTimes sets the times of a call's request by the clocks that it is decided by, under mu.
func (s *Stream) setCallTimes(c *call, at clockReading) {
	if c.req == nil {
		return
	}
	if c.req.Repeat {
		c.mintedMillis = s.mintedAt(c.req)
	}
	if !c.heldSince.IsZero() {
		c.req.HeldAt = at.wall - min(at.wall, Millis(time.Since(c.heldSince).Milliseconds()))
	}
}
