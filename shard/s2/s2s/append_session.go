package s2s

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/net/http2"
)

// AppendOptions bounds what an append session has in flight.
type AppendOptions struct {
	MaxBatches int // with acknowledgements that are not taken; default 32
	MaxBytes   int // as encoded; default 8 MiB
}

// AppendEnd says how an append session ended. It accounts for every batch that was submitted, in
// order: first those that are acknowledged, then the refused one if there is one, then those whose
// outcome is unknown, then those that were not sent. The batches of unknown outcome that are written
// are the first of them, without a gap: S2 takes batches in order, and none after a failure.
type AppendEnd struct {
	Acknowledged int
	// Refused: Err is S2's refusal of the first batch that is not acknowledged. It is certainly not
	// written.
	Refused bool
	Unknown int
	// Unsent counts batches of which S2 has certainly taken nothing.
	Unsent int
	Err    error
}

func (e *AppendEnd) Error() string {
	return fmt.Sprintf("append session ended after %d acknowledgements (refused: %t, unknown: %d, unsent: %d): %s",
		e.Acknowledged, e.Refused, e.Unknown, e.Unsent, e.Err)
}

// Unwrap returns what ended the session.
func (e *AppendEnd) Unwrap() error { return e.Err }

// AppendSession is an append session. Its batches are written in the order of Submit, and none after
// the first that fails. It is safe for concurrent use, but the order of concurrent Submits is open.
type AppendSession struct {
	stream
	wake       func()
	maxBatches int
	maxBytes   int

	flight   []flying // submitted, and not acknowledged
	bytes    int      // of flight
	begun    int      // of flight: batches of which a part was written
	midway   bool     // the last of these was written in part only
	acks     []Ack    // untaken
	total    int      // acknowledged
	draining bool
	woken    bool
	result   *AppendEnd
}

// flying is a batch in flight.
type flying struct {
	match          uint64
	records, bytes int
}

// OpenAppend opens an append session. It waits for a connection, within ctx, and not for the answer.
//
// wake is called, from any goroutine and with a lock held, when there is something to take again
// after TakeAcks has returned nothing, and the first time. It must not block, and must not call the
// session. It may be called before the session is returned.
func (c *Client) OpenAppend(ctx context.Context, at Target, o AppendOptions, wake func()) (*AppendSession, error) {
	origin, err := c.origin(at.Base)
	if err != nil {
		return nil, err
	}
	a := &AppendSession{wake: wake, maxBatches: o.MaxBatches, maxBytes: o.MaxBytes}
	if a.session = a; a.maxBatches <= 0 {
		a.maxBatches = 32
	}
	if a.maxBytes <= 0 {
		a.maxBytes = 8 << 20
	}
	path := (&ReadOptions{}).path(origin, at.Stream)
	if err := origin.openStream(ctx, &a.stream, request{method: "POST", path: path, basin: at.Basin}); err != nil {
		return nil, err
	}
	return a, nil
}

// Submit sends a batch, to be written if the stream's tail is match then. It does not wait. An error
// says that the batch was not sent: ErrFull if too much is in flight, ErrTooLarge, ErrGoAway if S2
// takes no more batches on this session, or ErrEnded.
func (a *AppendSession) Submit(match uint64, records []AppendRecord) error {
	frame := encodeInput(match, records)
	if len(records) == 0 || len(frame) > frameHead+maxFrameBytes {
		return ErrTooLarge
	}
	c := a.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case a.ended:
		return ErrEnded
	case a.draining:
		return ErrGoAway
	case len(a.flight)+len(a.acks) >= a.maxBatches, len(a.flight) > 0 && a.bytes+len(frame) > a.maxBytes:
		return ErrFull
	}
	if len(a.flight) == 0 {
		a.hear()
	}
	a.flight = append(a.flight, flying{match, len(records), len(frame)})
	a.bytes += len(frame)
	c.send(&a.stream, frame)
	return nil
}

// TakeAcks adds the acknowledgements that have come to acks, in the order of Submit. When the session has
// ended and all is taken, it also returns how.
func (a *AppendSession) TakeAcks(acks []Ack) ([]Ack, *AppendEnd) {
	c := a.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	acks = append(acks, a.acks...)
	a.acks, a.woken = a.acks[:0], false
	return acks, a.result
}

// InFlight returns the number of batches that are not acknowledged.
func (a *AppendSession) InFlight() int {
	a.conn.mu.Lock()
	defer a.conn.mu.Unlock()
	return len(a.flight)
}

// Close ends the session immediately. What is in flight may be written or not.
func (a *AppendSession) Close() {
	c := a.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endStream(&a.stream, ErrClosed, http2.ErrCodeCancel)
}

// takeFrame implements session: a frame is an acknowledgement of the first batch in flight.
func (a *AppendSession) takeFrame(payload []byte, _ bool) error {
	ack, err := decodeAck(payload)
	switch {
	case err != nil:
		return err
	case a.begun == 0 || a.begun == 1 && a.midway:
		return errors.New("acknowledgement of a batch that was not sent")
	}
	first := a.flight[0]
	if ack.Start.SeqNum != first.match || ack.End.SeqNum-ack.Start.SeqNum != uint64(first.records) {
		return fmt.Errorf("acknowledged from %d to %d, and not %d records at %d",
			ack.Start.SeqNum, ack.End.SeqNum, first.records, first.match)
	}
	a.flight = a.flight[1:]
	a.bytes -= first.bytes
	a.begun--
	a.total++
	a.acks = append(a.acks, ack)
	a.wakeUp()
	if a.draining && len(a.flight) == 0 {
		a.conn.endStream(&a.stream, ErrGoAway, http2.ErrCodeCancel)
	}
	return nil
}

func (a *AppendSession) wakeUp() {
	if !a.woken {
		a.woken = true
		a.wake()
	}
}

// noteEnd implements session.
func (a *AppendSession) noteEnd() {
	end := &AppendEnd{Acknowledged: a.total, Unknown: a.begun, Unsent: len(a.flight) - a.begun, Err: a.err}
	refusal, ok := errors.AsType[*Error](a.err)
	switch {
	case errors.Is(a.err, ErrNotTaken):
		end.Unknown, end.Unsent = 0, len(a.flight)
	case ok && refusal.HasNoEffect() && end.Unknown > 0:
		end.Refused = true
		end.Unknown--
	}
	a.result, a.flight, a.begun, a.bytes = end, nil, 0, 0
	a.wakeUp()
}

func (a *AppendSession) isWaiting() bool { return len(a.flight) > 0 || a.status == 0 }
func (a *AppendSession) isHolding() bool { return false }

// drain implements session.
func (a *AppendSession) drain() bool {
	a.draining = true
	return len(a.flight) > 0
}

// sent implements session.
func (a *AppendSession) sent(whole bool) {
	if !a.midway {
		a.begun++
	}
	a.midway = !whole
}
