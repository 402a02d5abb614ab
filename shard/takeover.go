package shard

import (
	"context"
	"errors"
	"time"
)

// The newest records of a log, as many as fit, are read beside the last one: with so few bytes that
// costs no more time, wherever storage is.
const (
	recentRecords = 64
	recentBytes   = 8 << 10
)

// takeOver folds what a new owner needs: the log's last record, then everything from the checkpoint
// that this record points back to. If the newest records reach down to that, nothing else is read.
// Where others wrote last, it searches backwards for the newest record of ours. It holds the
// tail.Buffer and the fold, and nothing else. t is the create request that goes beside the reads; nil:
// none does.
func (s *Stream) takeOver(ctx context.Context, t *createAttempt) error {
	log, sent := s.manager.log, s.manager.cfg.Now()
	recent := s.manager.readAside(ctx, func(ctx context.Context) (Page, error) { return log.Last(ctx, s.id, recentRecords, recentBytes) })
	last := s.manager.readAside(ctx, func(ctx context.Context) (Page, error) { return log.Last(ctx, s.id, 1, 0) })
	if t != nil && s.sendCreate(ctx, t) {
		return s.openCreated(t, sent)
	}
	end, newest := <-last, <-recent
	noLog := errors.Is(end.err, ErrNoLog)
	if end.err != nil && !noLog {
		return end.err
	}
	if t != nil && t.exists {
		noLog = false
	}
	var fold *State
	err := foldFromCheckpoint(ctx, log, s.id, end.page, func(from, tail Pos) (err error) {
		known := newest.page.recordsFrom(from)
		if known == nil {
			known = end.page.recordsFrom(from)
		}
		fold, err = s.foldFrom(ctx, from, tail, noLog, known)
		return err
	})
	if err != nil {
		return err
	}
	if t != nil && t.made {
		s.noteLogConfigured()
	}
	grace := Millis(0)
	if fold.hasTTL {
		grace = fold.lastUsed + touchAhead(fold.ttl) + graceMargin
	}
	s.finishTakeOver(fold, sent, grace)
	return nil
}

// finishTakeOver makes the fold the stream's, as of the time sent. Uses up to grace may be known to the
// previous owner only.
func (s *Stream) finishTakeOver(fold *State, sent time.Time, grace Millis) {
	s.mu.Lock()
	wake := s.openTail()
	if begins := s.firstRecord; s.noteTruncation() {
		defer s.manager.reportTruncatedLog(s.id, begins, true)
	}
	s.graceUntil = grace
	s.opened, s.syncedAt, fold.rooted = true, sent, true
	s.noteTakenOver()
	s.startRefTasks()
	s.mu.Unlock()
	wake.WakeAll()
}

// readResult is the result of a read on a goroutine of its own.
type readResult struct {
	page Page
	err  error
}

// readAside reads on a goroutine of its own.
func (m *Manager) readAside(ctx context.Context, read func(context.Context) (Page, error)) <-chan readResult {
	out := make(chan readResult, 1)
	if !m.spawn(func(context.Context) {
		ctx, cancel := context.WithTimeout(ctx, stallTimeout)
		defer cancel()
		page, err := read(ctx)
		out <- readResult{page, err}
	}) {
		out <- readResult{err: ErrStopped}
	}
	return out
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

// foldFrom folds the log from a position up to tail into a new State. known holds records from there
// on that have been read already. errNoCheckpoint: at from there is no checkpoint to begin with.
func (s *Stream) foldFrom(ctx context.Context, from, tail Pos, noLog bool, known []Record) (*State, error) {
	fold := s.beginFold(from, noLog)
	if len(known) > 0 {
		if err := s.foldFromLog(fold, known); err != nil {
			return fold, err
		}
	}
	return fold, s.catchUp(ctx, fold, tail)
}

// beginFold returns a new State for the fold of the log from a position on.
func (s *Stream) beginFold(from Pos, noLog bool) *State {
	fold := &State{Next: from, rooted: from == 0}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noLog, s.logConfigured, s.state, s.assembler = noLog, false, fold, assembler{from: from}
	s.firstRecord, s.sawOwnRecord, s.absorbedTo = 0, false, 0
	return fold
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
