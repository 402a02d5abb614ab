package sse

import (
	"errors"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// WantedPage returns the segment and the position of the page that the reader needs.
func (s *Session) WantedPage() (position.Segment, shard.Pos) {
	if s.lookBacks == 0 {
		return s.position.CurrentSegment(s.tail().Stream(), s.tail().Info()), s.position.Pos
	}
	seg, end, _ := s.segmentBefore()
	return seg, max(seg.Info.Start, end-min(end, 1<<(s.lookBacks-1)))
}

// AcceptPage takes the page that Next asked for, or the error with which it could not be read. It
// returns the error if the reader cannot continue without the page, and its response is to end.
func (s *Session) AcceptPage(r shard.RecordBatch, err error, now Instant) error {
	s.fetching = false
	var trimmed *shard.TrimmedError
	switch {
	case errors.As(err, &trimmed) && s.lookBacks > 0:
		s.endLookBack()
		s.status = stateIdle
	case errors.As(err, &trimmed) && s.fromStart && trimmed.First > s.position.Pos && s.skipToKept(trimmed.First):
	case err != nil && s.departure.rules.isTemporary(err): // storage has the page, and does not answer
		retry := s.departure.rules.PageRetry
		s.pauseUntil = now.Add(retry/2 + s.departure.rules.random(retry))
		return nil
	case err != nil:
		s.EndNow()
		return err
	case !s.acceptPage(r):
		s.EndNow()
		return errPageGap
	default:
		s.fromStart = false
	}
	s.pauseUntil = now.Add(MaxHeldTime) // if something is held
	return nil
}

// errPageGap means that a page does not hold the position for which it was requested. The reader
// is disconnected rather than sent past a hole.
var errPageGap = errors.New("page does not join")

// acceptPage accepts a page; false: it does not contain the reader's position.
func (s *Session) acceptPage(r shard.RecordBatch) bool {
	if s.lookBacks > 0 {
		s.finishLookBack(r)
		s.status = stateIdle
		return true
	}
	if r.IsZero() || r.From() > s.position.Pos || r.To() <= s.position.Pos {
		s.gapCount++
		return false
	}
	s.page = &r
	s.status = stateIdle
	return true
}

// skipToKept moves a reader that began at the start to the first position that is kept. It returns
// false if the reader has received or holds something, because it would miss what comes next.
func (s *Session) skipToKept(pos shard.Pos) bool {
	if s.announcedAny || len(s.heldMessages) > 0 {
		return false
	}
	s.position.Pos = max(s.position.Pos, pos)
	s.boundary = textBoundary{skipBytes: characterRest}
	s.leaveReadSegments()
	s.announced = announcedOffset{s.generation(), s.position.Pos}
	s.status = stateIdle
	return true
}
