package shard

import (
	"context"
	"errors"
)

// takeOver folds what a new owner needs: the last record, then from the
// checkpoint that it points back to. Where others wrote last, it looks backwards
// for the newest record of ours. Nothing but the Tail and the fold is held.
func (s *Shard) takeOver(ctx context.Context) error {
	log, sent := s.host.log, s.host.cfg.Now()
	first, cancel := context.WithTimeout(ctx, stallTimeout)
	defer cancel()
	last, err := log.Last(first, s.id, 1)
	noLog := errors.Is(err, ErrNoLog)
	if err != nil && !noLog {
		return err
	}
	from, tail := uint64(0), last.Tail
	if len(last.Records) > 0 {
		tail = last.Records[0].Pos + 1
		if from, err = startOf(ctx, log, s.id, last.Records[0]); err != nil {
			return err
		}
	}
	on := &State{Next: from}
	s.mu.Lock()
	s.noLog, s.state, s.asm = noLog, on, assembler{from: from}
	s.mu.Unlock()
	if from+1 == tail {
		err = s.take(on, last.Records)
	} else {
		err = s.catchUp(ctx, on, tail)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	wake := s.attach()
	s.grace = 0
	if on.hasTTL {
		s.grace = on.touched + touchAhead(on.ttl) + graceMargin
	}
	s.opened, s.synced = true, sent
	s.chores()
	s.mu.Unlock()
	wake.run()
	return nil
}

// startOf says where the fold of a log may begin whose last record is r.
func startOf(ctx context.Context, log Log, id StreamID, r Record) (uint64, error) {
	start, ours, err := checkpointOf(r)
	if err != nil || ours {
		return start, err
	}
	return searchBack(ctx, log, id, r.Pos)
}

// checkpointOf says where the fold may begin, as record r tells it; ours is
// false for a foreign record, and for one of ours that does not tell.
func checkpointOf(r Record) (start uint64, ours bool, err error) {
	if r.Command || r.Header == nil {
		return 0, false, nil
	}
	h, err := decodeHeader(r.Pos, r.Header)
	switch {
	case errors.Is(err, errForeign):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case h.Kind == KindCheckpoint || h.Kind == KindTombstone:
		return r.Pos, true, nil
	case h.HasBack && h.BackRecords <= r.Pos:
		return r.Pos - h.BackRecords, true, nil
	default:
		return 0, false, nil
	}
}

// searchBack looks below pos for the newest record of ours that tells where the
// fold may begin, in windows that double. 0: there is none.
func searchBack(ctx context.Context, log Log, id StreamID, pos uint64) (uint64, error) {
	for width := uint64(MaxBatchRecords); pos > 0; width *= 2 {
		from := pos - min(pos, width)
		start, found := uint64(0), false
		err := log.Replay(ctx, id, from, pos, func(p Page) error {
			for _, r := range p.Records {
				at, ours, err := checkpointOf(r)
				if err != nil {
					return err
				}
				if ours {
					start, found = at, true
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
