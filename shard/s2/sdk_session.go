package s2

import (
	"context"
	"errors"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

const (
	// minTailPoll is the time until a session is first asked for the tail that it has observed. The
	// SDK has no signal for a heartbeat. The interval doubles up to maxTailPoll, and is maxTailPoll
	// while the session is at the tail: with thousands of streams, polling would be most of what
	// they cost.
	minTailPoll = 10 * time.Millisecond
	maxTailPoll = 5 * time.Second
	// sessionBuffer bounds the records that wait between the SDK's goroutine and ours. A full
	// buffer blocks the session, and S2 stops sending.
	sessionBuffer = 256
	// sdkSessionBytes is about the memory of an idle session, with its goroutines.
	sdkSessionBytes = 66 << 10
)

// runSession implements service. The pump goroutine takes records from the SDK; deliverPages calls
// fn with all that have arrived.
func (s *sdkService) runSession(
	outer context.Context, basin, name string, from shard.Pos, count uint64, opened func(), fn func(shard.Page) error,
) error {
	o := &s2.ReadOptions{SeqNum: new(uint64(from))}
	if count > 0 {
		o.Count, o.Wait = &count, new(int32)
	}
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	sess, err := s.stream(basin, name).ReadSession(ctx, o)
	if err != nil {
		return err
	}
	opened()
	recs := make(chan shard.Record, sessionBuffer) // closed by the pump, its only sender
	var end error                                  // set before recs is closed
	go func() {
		defer close(recs)
		for sess.Next() {
			select {
			case recs <- fromSDKRecord(sess.Record()):
			case <-ctx.Done():
				return
			}
		}
		end = sess.Err()
	}()
	defer func() {
		cancel()
		_ = sess.Close()
		for range recs { // until the pump has ended
		}
	}()
	if err := deliverPages(ctx, sess, from, recs, s.silence, fn); err != nil {
		return err
	}
	return end
}

// errSessionSilent is the error of a session that was requested, and brought no answer.
var errSessionSilent = errors.New("no word of it")

// deliverPages calls fn with pages, the first at next, until recs is closed. It returns
// errSessionSilent if nothing arrives for as long as patience.
func deliverPages(
	ctx context.Context, sess *s2.ReadSession, next shard.Pos, recs <-chan shard.Record, patience time.Duration, fn func(shard.Page) error,
) error {
	look := time.NewTimer(minTailPoll)
	defer look.Stop()
	every := minTailPoll
	silent := time.NewTimer(patience) // nothing else bounds the wait for the answer's header
	defer silent.Stop()
	for {
		var p shard.Page
		select {
		case r, ok := <-recs:
			if !ok {
				return nil
			}
			silent.Stop()
			p.Records = gatherPage(r, recs)
			next = p.Records[len(p.Records)-1].Pos + 1
			every = minTailPoll
		case <-look.C:
			every = min(2*every, maxTailPoll)
		case <-silent.C:
			if sess.LastObservedTail() == nil {
				return errSessionSilent
			}
			continue
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		switch t := sess.LastObservedTail(); {
		case t == nil:
			every = min(every, 100*time.Millisecond)
		case shard.Pos(t.SeqNum) == next:
			every = maxTailPoll
			fallthrough
		default:
			p.Tail, p.HasTail = shard.Pos(t.SeqNum), true
		}
		look.Reset(every)
		if len(p.Records) == 0 && !p.HasTail {
			continue
		}
		if err := fn(p); err != nil {
			return &callerError{err}
		}
	}
}

// gatherPage returns the records that have arrived, up to a page, without waiting.
func gatherPage(first shard.Record, recs <-chan shard.Record) []shard.Record {
	out := []shard.Record{first}
	for size := first.Size; len(out) < shard.MaxBatchRecords && size < shard.MaxBatchBytes; {
		select {
		case r, ok := <-recs:
			if !ok {
				return out
			}
			out = append(out, r)
			size += r.Size
		default:
			return out
		}
	}
	return out
}
