package shard

import (
	"context"
)

// settleRefusals answers the refusals in front of all batches in flight, once their tail check has
// come. If the batch behind them is acknowledged first, that settles them, too. failed: another
// writer has appended, and the write loop has to go on with b.
func (p *pipeline) settleRefusals() (b *appendBatch, failed bool) {
	s := p.stream
	for {
		s.mu.Lock()
		if len(s.flights) == 0 || len(s.flights[0].entries) > 0 {
			s.mu.Unlock()
			return nil, false
		}
		b := s.flights[0]
		switch checked, err := b.checked(); {
		case !checked:
			s.mu.Unlock()
			return nil, false
		case err == nil || !isTail(err):
			done := s.takeFlights(b)
			s.mu.Unlock()
			p.calls -= len(b.calls)
			done[0].answerCalls(err)
		case p.sent > 0: // the log may have gone on by the batch behind it, whose end will tell
			s.mu.Unlock()
			return nil, false
		default:
			s.mu.Unlock()
			return p.leaveWith(b, err), true
		}
	}
}

// startCheck asks for the tail, for the refusals in b.
func (p *pipeline) startCheck(b *appendBatch) {
	s := p.stream
	if b.irreversible || s.manager.cfg.Mode == ModeExclusive {
		p.signal() // settleRefusals looks at it
		return
	}
	b.proof = &tailProof{}
	proof, pos := b.proof, b.pos
	finish := func(err error) {
		s.mu.Lock()
		proof.done, proof.err = true, err
		s.mu.Unlock()
		p.signal()
	}
	if !s.manager.spawn(func(ctx context.Context) {
		err := s.waitToAskAbsent(ctx)
		tail := pos
		if err == nil {
			if tail, err = s.askTail(ctx); err != nil {
				err = storeErr(err)
			}
		}
		if err == nil && tail > pos {
			err = &TailError{tail}
		}
		finish(err)
	}) {
		proof.done, proof.err = true, ErrStopped
	}
}
