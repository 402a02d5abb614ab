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
//	        no batch is in flight:    decideBatch
//	            composeBatchAt        decides callers from the front of the queue, each against the
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
// Stream.writing is true from the leader's first step to finishWriting, so no two batches of a stream
// are in flight.
//
// Speculation and fold are the same function, State.foldDecoded, and each record of a batch passes
// it twice: when the batch is decided, into the composer's speculation, which later callers of the
// batch are decided against and which predicts the fold; and once it is acknowledged, into the fold
// itself. A verdict rests on the prediction, and so is given only when the prediction has become
// true: after the acknowledgement.
//
// One batch is in flight because each append is a request of its own, and requests may overtake each
// other: a batch decided on one that is not acknowledged may find the position it expects below
// another writer's records. Several batches need a session that keeps their order. The loop then
// holds those in flight, oldest first: decideBatch predicts from the newest, resolveBatch takes the
// oldest, and after a loss all of them go back to the front of the queue together.
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
			if !leads {
				s.prepareToDecide(ctx)
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
		return b.irreversible // nothing is to be confirmed
	default:
		return !b.needsLog
	}
}

// leaveWrites is the leader's way out of the loop: a goroutine goes on with b, and with the callers
// that wait, unless there are none of either.
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
	if len(s.queue) == 0 {
		s.finishWriting()
		return nil, false
	}
	if !s.opened {
		return nil, true
	}
	at := s.readClocks()
	for _, c := range s.queue {
		s.setCallTimes(c, at)
	}
	b, n := composeBatchAt(s.state, s.queue, at)
	for _, c := range s.queue[:n] {
		s.queueBytes -= c.size
	}
	s.queue = slices.Delete(s.queue, 0, n)
	b.needsLog = s.noLog || s.state.generation == 0 && !s.state.ended && b.hasCreate()
	return b, true
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
