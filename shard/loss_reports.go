package shard

import (
	"errors"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// lossReports counts and logs records that storage has lost, or that were deleted without Fantail:
// records stay forever, unless their stream is deleted. After the first few lines it logs one every
// ten seconds, because a store that starts empty loses all streams.
type lossReports struct {
	lost, truncated atomic.Uint64
	logLimit        rate.Sometimes
}

// reportLostRecords reports a log that ends below what it had acknowledged.
func (s *Stream) reportLostRecords(ends, acknowledged Pos) {
	d := &s.manager.lossReports
	d.lost.Add(1)
	d.logLimit.Do(func() {
		s.manager.cfg.Logger.Error("S2 has lost records of a stream, which is read again from its start: was it restored from a backup, or emptied?",
			"stream", s.id, "log ends at", ends, "acknowledged up to", acknowledged)
	})
}

// reportTruncatedLog reports a log that was trimmed at its beginning, and not by Fantail. whole:
// nothing is left of what the stream was.
func (m *Manager) reportTruncatedLog(id StreamID, first Pos, whole bool) {
	m.lossReports.truncated.Add(1)
	m.lossReports.logLimit.Do(func() {
		m.cfg.Logger.Warn("the beginning of a stream's log in S2 is gone: has it got a retention age there? It must have none",
			"stream", id, "first record kept", first, "identity lost", whole)
	})
}

// noteFirstRecord notes, under mu, the position of the first record that a takeover folds, if the
// fold began at the log's start.
func (s *Stream) noteFirstRecord(recs []Record) {
	for i := range recs {
		s.sawOwnRecord = s.sawOwnRecord || recs[i].Header != nil
	}
	if s.state.Next == 0 && len(recs) > 0 {
		s.firstRecord = recs[0].Pos
	}
}

// noteTruncation decides, at the end of a takeover and under mu, whether the stream's beginning was
// lost, and keeps that in its State: offsets of generations that are not known any more are then
// gone, and not invalid. Where S2 still has a checkpoint the fold has begun there. A log that only
// others write to may be trimmed as they like, and is not reported.
func (s *Stream) noteTruncation() (cut bool) {
	fold := s.state
	if s.firstRecord == 0 || fold.generation != 0 || fold.ended {
		return false
	}
	if fold.retainedFrom == nil {
		fold.retainedFrom = &trimmedTo{pos: min(s.firstRecord, fold.Next)}
	}
	return s.sawOwnRecord || fold.tail == 0
}

// reportMissingPage reports that a page is missing that the stream should have.
func (m *Manager) reportMissingPage(id StreamID, info Info, from Pos, err error) {
	var gone *TrimmedError
	if errors.As(err, &gone) && from >= info.Start && gone.First > from && gone.First < info.Tail {
		m.reportTruncatedLog(id, gone.First, false)
	}
}
