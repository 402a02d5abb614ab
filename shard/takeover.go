package shard

import (
	"context"
	"errors"
)

// takeOver folds what a new owner needs: the log's last record, then everything from the checkpoint
// that this record points back to. Where others wrote last, it searches backwards for the newest
// record of ours. It holds the tail.Buffer and the fold, and nothing else.
func (s *Stream) takeOver(ctx context.Context) error {
	log, sent := s.manager.log, s.manager.cfg.Now()
	first, cancel := context.WithTimeout(ctx, stallTimeout)
	defer cancel()
	last, err := log.Last(first, s.id, 1)
	noLog := errors.Is(err, ErrNoLog)
	if err != nil && !noLog {
		return err
	}
	var fold *State
	err = foldFromCheckpoint(ctx, log, s.id, last, func(from, tail Pos) (err error) {
		fold, err = s.foldFrom(ctx, from, tail, noLog, last.Records)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	wake := s.openTail()
	if begins := s.firstRecord; s.noteTruncation() {
		defer s.manager.reportTruncatedLog(s.id, begins, true)
	}
	s.graceUntil = 0
	if fold.hasTTL {
		s.graceUntil = fold.lastUsed + touchAhead(fold.ttl) + graceMargin
	}
	s.opened, s.syncedAt, fold.rooted = true, sent, true
	s.noteTakenOver()
	s.startRefTasks()
	s.mu.Unlock()
	wake.WakeAll()
	return nil
}

// foldFromCheckpoint calls foldLog with the position at which the fold of a log may begin, and with
// the log's tail. last is the log's last record, or an empty page with the tail. Where the last
// record points to no checkpoint (errNoCheckpoint) it is not ours: foldLog is called again, from
// the newest checkpoint that a search finds.
func foldFromCheckpoint(ctx context.Context, log Log, id StreamID, last Page, foldLog func(from, tail Pos) error) error {
	from, tail := Pos(0), last.Tail
	if len(last.Records) > 0 {
		tail = last.Records[0].Pos + 1
		var err error
		if from, err = findFoldStart(ctx, log, id, last.Records[0]); err != nil {
			return err
		}
	}
	err := foldLog(from, tail)
	if !errors.Is(err, errNoCheckpoint) {
		return err
	}
	if from, err = searchBack(ctx, log, id, tail, checkpointAt); err != nil {
		return err
	}
	return foldLog(from, tail)
}

// foldFrom folds the log from a position up to tail into a new State. last holds the log's last
// records. errNoCheckpoint: at from there is no checkpoint to begin with.
func (s *Stream) foldFrom(ctx context.Context, from, tail Pos, noLog bool, last []Record) (*State, error) {
	fold := &State{Next: from, rooted: from == 0}
	s.mu.Lock()
	s.noLog, s.state, s.assembler = noLog, fold, assembler{from: from}
	s.firstRecord, s.sawOwnRecord, s.absorbedTo = 0, false, 0
	s.mu.Unlock()
	if from+1 == tail && len(last) > 0 {
		return fold, s.foldFromLog(fold, last)
	}
	return fold, s.catchUp(ctx, fold, tail)
}

var errNoCheckpoint = errors.New("no checkpoint to begin with")

// checkRoot checks that the fold may begin with recs: at the log's start, or at a checkpoint.
func (s *State) checkRoot(recs []Record) error {
	if s.rooted || len(recs) == 0 {
		return nil
	}
	pos, ours, err := checkpointAt(recs[0])
	if err == nil && (!ours || pos != s.Next) {
		err = errNoCheckpoint
	}
	s.rooted = err == nil
	return err
}

// findFoldStart returns where the fold of a log may begin; r is the log's last record.
func findFoldStart(ctx context.Context, log Log, id StreamID, r Record) (Pos, error) {
	start, ours, err := foldStartOf(r)
	if err != nil || ours {
		return start, err
	}
	return searchBack(ctx, log, id, r.Pos, foldStartOf)
}

// foldStartOf returns where the fold may begin, as record r says. ours is false for a foreign
// record, and for one of ours that does not say.
func foldStartOf(r Record) (start Pos, ours bool, err error) {
	if start, ours, err = checkpointAt(r); err != nil || ours {
		return start, ours, err
	}
	h, err := headerOf(r)
	if err == nil && h != nil && h.HasCheckpoint && Pos(h.RecordsSinceCheckpoint) <= r.Pos {
		switch h.Kind {
		case KindCheckpoint, KindTombstone: // damaged: its distance is not used either
		default:
			return r.Pos - Pos(h.RecordsSinceCheckpoint), true, nil
		}
	}
	return 0, false, err
}

// checkpointAt returns the position of record r if it is itself a checkpoint, undamaged.
func checkpointAt(r Record) (start Pos, ours bool, err error) {
	h, err := headerOf(r)
	if err != nil || h == nil || h.Kind != KindCheckpoint && h.Kind != KindTombstone {
		return 0, false, err
	}
	err = (&State{Next: r.Pos + 1}).decode(h.State, r.Time)
	if errors.Is(err, errForeign) {
		return 0, false, nil
	}
	return r.Pos, err == nil, err
}

// searchBack returns where the fold may begin, by the newest record below pos for which startFrom
// knows it. It reads backwards in windows that double. 0: there is none.
func searchBack(
	ctx context.Context, log Log, id StreamID, pos Pos, startFrom func(Record) (Pos, bool, error),
) (Pos, error) {
	for width := Pos(MaxBatchRecords); pos > 0; width *= 2 {
		from := pos - min(pos, width)
		start, found := Pos(0), false
		err := log.Replay(ctx, id, from, pos, func(p Page) error {
			for _, r := range p.Records {
				startFrom, ours, err := startFrom(r)
				if err != nil {
					return err
				}
				if ours {
					start, found = startFrom, true
				}
			}
			return nil
		})
		if err != nil || found {
			return start, err
		}
		pos = from
	}
	return 0, nil
}
