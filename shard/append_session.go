package shard

import (
	"context"
	"errors"
)

// SessionLog is a Log that has append sessions. A Manager may send several batches of a stream over
// one without waiting for their acknowledgements (Config.Pipelining).
type SessionLog interface {
	Log

	// OpenAppendSession opens an append session. It may wait, within ctx, for a connection, and not
	// for storage's answer. The session does not end with ctx.
	//
	// wake is called, from any goroutine, when there is something to take: the first time, and again
	// after TakeAcks has returned nothing. It does not block. It may be called before the session is
	// returned.
	OpenAppendSession(ctx context.Context, id StreamID, wake func()) (AppendSession, error)

	// KeepsAppendOrder reports whether it is known of this storage, without asking it, that an append
	// session keeps AppendSession's promise. Where it is not, it can be tried (OrderProber).
	KeepsAppendOrder() bool
}

// AppendSession is an append session. Its batches are written in the order of Submit, and none after
// the first that is not written. So a batch that is to stand where the batch before it ends can only
// be written if that batch was written. It is used by one goroutine.
type AppendSession interface {
	// Submit sends a batch, to be written like Log.Append's. It does not wait. An error says that
	// the batch was certainly not sent; the session then takes no more.
	Submit(at Pos, batch []Entry) error
	// TakeAcks adds the acknowledgements that have come to acks, in the order of Submit. Once the
	// session has ended, and all acknowledgements are taken, it also returns how.
	TakeAcks(acks []Ack) ([]Ack, *AppendEnd)
	// Close ends the session immediately. What is in flight may be written or not, now or later.
	Close()
}

// AppendEnd says how an append session ended, and what that means for the batches that it has not
// acknowledged. Of those whose outcome is unknown, the first so many may be written, or may still
// be; none is written after a batch that is not.
type AppendEnd struct {
	// Err ended the session. It is one of Log.Append.
	Err error
	// Refused: Err is storage's refusal of the first batch that is not acknowledged. None of them is
	// written, or will be.
	Refused bool
	// Unsent is the number of batches, the last ones, that were certainly not sent.
	Unsent int
}

func (e *AppendEnd) Error() string { return "append session ended: " + e.Err.Error() }

// Unwrap returns what ended the session.
func (e *AppendEnd) Unwrap() error { return e.Err }

// openAppendSession opens an append session of the Log, which must have some. An unacknowledged batch
// is a call that waits.
func (b *breaker) openAppendSession(ctx context.Context, id StreamID, wake func()) (AppendSession, error) {
	log, ok := b.Log.(SessionLog)
	if !ok {
		return nil, errNoSessions
	}
	b.mu.Lock()
	down := b.isDownLocked()
	b.mu.Unlock()
	if down {
		return nil, errBreakerOpen
	}
	session, err := log.OpenAppendSession(ctx, id, wake)
	if err != nil {
		return nil, err
	}
	return &guardedSession{AppendSession: session, breaker: b, id: id}, nil
}

var errNoSessions = errors.New("the log has no append sessions")

// guardedSession tells the breaker what an append session shows of storage.
type guardedSession struct {
	AppendSession
	breaker  *breaker
	id       StreamID
	inFlight int
	ended    bool
}

func (g *guardedSession) Submit(at Pos, batch []Entry) error {
	err := g.AppendSession.Submit(at, batch)
	if err != nil {
		return err
	}
	g.inFlight++
	b := g.breaker
	b.mu.Lock()
	b.lastAsked = g.id
	b.noteAskedLocked()
	b.mu.Unlock()
	return nil
}

func (g *guardedSession) TakeAcks(acks []Ack) ([]Ack, *AppendEnd) {
	had := len(acks)
	acks, end := g.AppendSession.TakeAcks(acks)
	n := len(acks) - had
	if n == 0 && (end == nil || g.ended) {
		return acks, end
	}
	g.inFlight -= n
	b := g.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > 0 {
		b.noteAnswerLocked(nil)
	}
	switch {
	case end != nil:
		g.ended = true
		b.noteAnswerLocked(end.Err)
	case g.inFlight > 0:
		b.noteAskedLocked() // the others wait
	}
	return acks, end
}
