package shard

import (
	"context"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// absorbRecords folds the records that are new and extends the tail.Buffer with them. Every
// record comes in this way: from acknowledgements, the read session and read-back. The caller
// runs the wakers after it has released mu.
func (s *Stream) absorbRecords(recs []Record) (tail.Wakers, error) {
	var wake tail.Wakers
	for _, r := range recs {
		if r.Pos < s.state.Next {
			continue
		}
		if len(s.flights) > 0 {
			s.matchFlights(&r)
		}
		if r.Header == nil && !r.Command {
			s.foreignRecords++
		}
		if r.Pos > s.state.Next {
			wake = append(wake, s.publishBatch()...)
			s.skipFlights(r.Pos)
			s.state.skipTo(r.Pos)
			s.assembler.skipTo(r.Pos)
			if s.buffer != nil {
				wake = append(wake, s.buffer.SkipLater(r.Pos, s.state.tail, s.state.closed)...)
			}
		}
		if s.state.mayChangeGeneration(r) { // the old generation's tail.Buffer gets its own records first
			wake = append(wake, s.publishBatch()...)
		}
		below := s.state.lastBatch
		e, err := s.state.foldRecord(r)
		s.noteBase(r.Pos, e.wrongBase, below)
		if err != nil {
			return append(wake, s.declineLog(err)...), err
		}
		if e.begins || e.ends {
			wake = append(wake, s.changeGeneration(r, e)...)
		}
		s.assembler.addRecord(r, e)
	}
	return append(wake, s.publishBatch()...), nil
}

// declineLog ends the stream here: its log cannot be folded any further.
func (s *Stream) declineLog(err error) tail.Wakers {
	wake := s.publishBatch()
	s.foldErr = err
	if s.buffer == nil {
		return wake
	}
	wake = append(wake, s.buffer.EndLater(err)...)
	s.buffer.Release()
	s.buffer = nil
	return wake
}

// changeGeneration ends the tail.Buffer of the generation that is over, and prepares for the next
// generation.
func (s *Stream) changeGeneration(r Record, e effect) tail.Wakers {
	var wake tail.Wakers
	if s.buffer != nil {
		wake = s.buffer.EndLater(ErrNotFound)
		s.buffer.Release()
		s.buffer = nil
	}
	s.graceUntil, s.unsavedUse = 0, time.Time{}
	s.nextSweep, s.sweptAll, s.forkLimitHit = time.Time{}, false, false
	s.sweepDoublings, s.releaseDoublings, s.nextRelease = 0, 0, time.Time{}
	if held := s.assembler.uncommitted; e.commitsRun { // the new generation's first messages
		s.assembler.skipTo(s.state.start)
		s.assembler.uncommitted = held
	} else {
		s.assembler.skipTo(r.Pos)
	}
	return wake
}

// openTail opens the tail.Buffer of the current generation, if there is none yet.
func (s *Stream) openTail() tail.Wakers {
	if s.buffer != nil || !s.state.exists || s.stopped { // no later call would release it
		return nil
	}
	s.buffer = s.manager.tails.Open(s.id, s.state.Info(), s.assembler.from)
	s.manager.creationWaits.noteExists(s.id)
	// A peer may have fed it so far, and it may lag behind; its readers then find the rest in
	// pages.
	return s.buffer.SkipLater(s.assembler.from, s.state.tail, s.state.closed)
}

// publishBatch extends the tail.Buffer with the records that were folded since the last call.
func (s *Stream) publishBatch() tail.Wakers {
	wake := s.openTail()
	r := s.assembler.flushBatch(s.state)
	if r.IsZero() || s.buffer == nil {
		return wake
	}
	w, err := s.buffer.ExtendLater(r)
	if err != nil {
		panic("shard: own feed left a hole: " + err.Error())
	}
	return append(wake, w...)
}

// foldFromLog folds records that a Log returned, and wakes the readers they concern. *TailError:
// fold is no longer the stream's fold, but the fold of another log. errNoCheckpoint: the takeover
// began at a position where no checkpoint is.
func (s *Stream) foldFromLog(fold *State, recs []Record) error {
	return s.foldRecords(fold, recs, false)
}

// foldRecords does what foldFromLog does; live: a read session brought the records.
func (s *Stream) foldRecords(fold *State, recs []Record, live bool) error {
	s.mu.Lock()
	switch {
	case s.foldErr != nil:
		s.mu.Unlock()
		return s.foldErr
	case s.state != fold:
		s.mu.Unlock()
		return &TailError{0}
	}
	// Here and not in the takeover: the end of a log may be read by two goroutines together.
	if err := fold.checkRoot(recs); err != nil {
		s.mu.Unlock()
		return err
	}
	if !s.opened {
		s.noteFirstRecord(recs)
	} else if live {
		s.noteForeignIn(recs)
	}
	wake, err := s.absorbRecords(recs)
	s.noteGrowth(recs)
	s.startRefTasks()
	wrong := s.wrongBases
	s.wrongBases = nil
	s.mu.Unlock()
	wake.WakeAll()
	s.reportWrongBases(wrong)
	s.manager.tails.Reclaim()
	s.manager.evictIdle()
	return err
}

// resetFold forgets everything, if fold is still the stream's: the log is not the log that was
// folded (it was wiped, or deleted in S2). Readers of the tail.Buffer see their generation end. ends
// is where the new log ends, 0 if there is none.
func (s *Stream) resetFold(fold *State, ends Pos) {
	s.mu.Lock()
	if s.state != fold || !s.opened {
		s.mu.Unlock()
		return
	}
	if known := fold.Next; ends < known {
		defer s.reportLostRecords(ends, known)
	}
	var wake tail.Wakers
	if s.buffer != nil {
		wake = s.buffer.EndLater(ErrNotFound)
		s.buffer.Release()
		s.buffer = nil
	}
	s.opened = false
	s.mu.Unlock()
	wake.WakeAll()
}

// catchUp folds the log's records from fold.Next up to end. It fails once no record has come for
// stallTimeout.
func (s *Stream) catchUp(ctx context.Context, fold *State, end Pos) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stall := time.AfterFunc(stallTimeout, cancel)
	defer stall.Stop()
	foldPage := func(p Page) error {
		stall.Reset(stallTimeout)
		return s.foldFromLog(fold, p.Records)
	}
	for {
		s.mu.Lock()
		next := fold.Next
		s.mu.Unlock()
		if next >= end {
			return nil
		}
		var err error
		if end-next > MaxBatchRecords {
			err = s.manager.log.Replay(ctx, s.id, next, end, foldPage)
		} else {
			var p Page
			if p, err = s.manager.log.Read(ctx, s.id, next, 0); err == nil {
				err = foldPage(p)
			}
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		var wake tail.Wakers
		if fold.Next == next && s.state == fold { // everything was trimmed away
			if next == 0 && !s.opened {
				s.firstRecord = end
			}
			s.skipFlights(end)
			fold.skipTo(end)
			fold.beginUncreated()
			s.assembler.skipTo(end)
			wake = s.openTail()
			if s.buffer != nil {
				wake = append(wake, s.buffer.SkipLater(end, fold.tail, fold.closed)...)
			}
		}
		s.mu.Unlock()
		wake.WakeAll()
	}
}

// stallTimeout bounds how long catching up may go on without a record.
const stallTimeout = 30 * time.Second
