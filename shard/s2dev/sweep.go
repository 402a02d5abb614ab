package s2dev

import (
	"time"
)

const sweepEvery = time.Second

// runSweeper applies retention and delete-on-empty until the server stops.
func (s *Server) runSweeper() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.sweep()
		case <-s.closing.Done():
			return
		}
	}
}

// sweep visits every stream once, by the configured clock.
func (s *Server) sweep() {
	now := s.cfg.Now()
	s.catalogueMu.RLock()
	defer s.catalogueMu.RUnlock()
	store := s.catalogue
	for _, st := range store.allStreams() {
		if err := st.trimExpired(now); err != nil {
			s.cfg.Logger.Error("retention", "stream", st.name, "error", err)
		}
		if st.isEmptyFor(now) {
			if err := store.deleteStream(st.basin, st.name); err != nil {
				s.cfg.Logger.Error("delete on empty", "stream", st.name, "error", err)
			}
		}
	}
}

// trimExpired trims the records that are older than the retention's age.
func (st *stream) trimExpired(now time.Time) error {
	st.mu.Lock()
	age := st.meta.Config.Retention.Age
	tail, trim := st.tail, min(st.trim, st.tail.Seq)
	st.mu.Unlock()
	limit := now.UnixMilli() - int64(age)*1000
	if age == 0 || trim == tail.Seq || limit <= 0 {
		return nil
	}
	seq, bad := st.search(trim, tail.Seq, func(r record) bool { return r.arrived > uint64(limit) })
	if bad != nil || seq == trim {
		return asError(bad)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.deleted || seq <= st.trim {
		return nil
	}
	st.head.trim = max(st.head.trim, seq)
	st.trim = seq
	return st.log.trim(seq, st.head)
}

func asError(e *apiError) error {
	if e == nil {
		return nil
	}
	return e
}

// isEmptyFor reports whether the stream has been empty for its delete-on-empty age.
func (st *stream) isEmptyFor(now time.Time) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.deleted || st.trim < st.tail.Seq || st.head.next.Seq > st.tail.Seq {
		st.emptySince = time.Time{}
		return false
	}
	if st.emptySince.IsZero() {
		st.emptySince = now
	}
	age := time.Duration(st.meta.Config.DeleteOnEmpty.MinAgeSecs) * time.Second
	return age > 0 && now.Sub(st.emptySince) >= age
}
