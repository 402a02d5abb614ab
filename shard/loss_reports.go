package shard

import (
	"errors"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// lossReports tells of what storage has lost, or had taken away by somebody else: records are
// there for ever, unless a stream is deleted. One line each ten seconds after the first
// few: a store that starts empty loses all streams.
type lossReports struct {
	lost, truncated atomic.Uint64
	logLimit        rate.Sometimes
}

// reportLostRecords is for a log that ends below what it had acknowledged.
func (s *Stream) reportLostRecords(ends, acknowledged uint64) {
	d := &s.manager.lossReports
	d.lost.Add(1)
	d.logLimit.Do(func() {
		s.manager.cfg.Logger.Error("S2 has lost records of a stream, which is read anew: was it restored from a backup, or emptied?",
			"stream", s.id, "log ends at", ends, "acknowledged up to", acknowledged)
	})
}

// reportTruncatedLog is for a log whose beginning somebody else has trimmed; whole: nothing of what the
// stream was is left.
func (m *Manager) reportTruncatedLog(id StreamID, first uint64, whole bool) {
	m.lossReports.truncated.Add(1)
	m.lossReports.logLimit.Do(func() {
		m.cfg.Logger.Warn("the beginning of a stream's log in S2 is gone: has it got a retention age there? It must have none",
			"stream", id, "first record kept", first, "identity lost", whole)
	})
}

// noteFirstRecord notes where the first record stands that a takeover folds, if that is not where it
// was to begin, under mu.
func (s *Stream) noteFirstRecord(recs []Record) {
	for i := range recs {
		s.sawOwnRecord = s.sawOwnRecord || recs[i].Header != nil
	}
	if s.state.Next == 0 && len(recs) > 0 {
		s.firstRecord = recs[0].Pos
	}
}

// noteTruncation looks, at the end of a takeover, whether the stream's beginning was lost, and keeps
// that in its State, under mu: offsets of lives that nobody knows any more are gone, and not
// wrong. Where S2 still has a checkpoint the fold has begun there. A log that only others write
// to may be trimmed as they like.
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

// reportMissingPage notes that a page is not there that the stream is said to have.
func (m *Manager) reportMissingPage(id StreamID, info Info, from uint64, err error) {
	var gone *TrimmedError
	if errors.As(err, &gone) && from >= info.Start && gone.First > from && gone.First < info.Tail {
		m.reportTruncatedLog(id, gone.First, false)
	}
}
