package shard

import (
	"context"
)

// describe answers Manager.Info for this stream.
func (s *Stream) describe(ctx context.Context, ask InfoOptions) (Info, error) {
	checked := false
	if ask&InfoAllowCached == 0 {
		var err error
		if checked, err = s.waitFresh(ctx, ask&InfoRequireFresh != 0); err != nil {
			return Info{}, err
		}
	}
	read, err := s.lockFold(ctx)
	if err != nil {
		return Info{}, err
	}
	checked = checked || read
	if s.isConfirmDue() {
		s.mu.Unlock()
		if err := s.confirmChain(ctx); err != nil {
			return Info{}, err
		}
		if err := s.lockReady(ctx); err != nil {
			return Info{}, err
		}
	}
	if err := s.confirmErrorLocked(); err != nil {
		s.mu.Unlock()
		return Info{}, err
	}
	if s.isExpiryUncertain() {
		s.mu.Unlock()
		s.resolveExpiry(ctx)
		if err := s.lockReady(ctx); err != nil {
			return Info{}, err
		}
	}
	m := s.readClocks()
	expired := s.state.isExpired(m.bothClocks, m.lastUse)
	info := s.state.Info()
	info.Checked = checked
	if ask&InfoTouch != 0 && !expired {
		s.unsavedUse = s.manager.cfg.Now()
	}
	due := ask&InfoTouch != 0 && s.isTouchDue(s.manager.cfg.Now())
	s.mu.Unlock()
	if due {
		// The touch is written before the reader is answered, so that the use counts for the next
		// owner too. The reader is answered even if the touch fails; the sweeper tries again.
		_, _ = s.submit(ctx, s.manager.newCall(nil))
	}
	if !expired {
		return info, nil
	}
	// The sequencer ends an expired generation before it decides the next caller, and a touch of a
	// stream that has ended writes nothing.
	if _, err := s.submit(ctx, s.manager.newCall(nil)); err != nil {
		return Info{}, err
	}
	if err := s.lockReady(ctx); err != nil {
		return Info{}, err
	}
	defer s.mu.Unlock()
	info = s.state.Info()
	info.Checked = checked
	return info, nil
}
