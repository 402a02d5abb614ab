package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Pipelined appends rest on AppendSession's promise: nothing is written behind a batch that is refused.
// A Manager with PipeliningAuto tries once whether storage keeps it, at its start and in the
// background, and pipelines nothing until it knows (runOrderProbe). On one session it sends a batch that
// fits, one that cannot fit, and some that would fit if the refused one were left out. It costs one
// clock record in the fleet's own log, a session of a moment, and two small reads.

// OrderProber is a SessionLog that does not know whether append sessions keep their order, and names a
// log in which that can be tried. Its first record is the fleet's.
type OrderProber interface {
	// OrderProbeLog returns that log. The error says why it cannot be tried.
	OrderProbeLog() (StreamID, error)
}

// appendOrder tells what is known of storage's append sessions.
type appendOrder int32

// The states, and values of the metric fantail_append_order.
const (
	orderBroken  appendOrder = -1
	orderUnknown appendOrder = 0
	orderKept    appendOrder = 1
)

const (
	// orderProbeBehind is the number of batches behind the one that is refused.
	orderProbeBehind = 4
	// orderProbeTries bounds the sessions of one attempt: other nodes write to the same log.
	orderProbeTries  = 5
	orderProbeWithin = 15 * time.Second
	// orderSettles is the pause before the log is read: by then storage has dealt with all that it has
	// taken.
	orderSettles = 250 * time.Millisecond
	// An attempt that shows nothing is repeated after pauses that double.
	minOrderRetry, maxOrderRetry = 30 * time.Second, time.Hour
)

// startOrderProbe has it tried whether append sessions keep their order, where that decides whether
// appends are pipelined. ready is closed once the fleet's record is there.
func (m *Manager) startOrderProbe(ready <-chan struct{}) {
	if !m.pipelines.asks {
		return
	}
	id, err := m.pipelines.prober.OrderProbeLog()
	if err != nil {
		m.cfg.Logger.Info("appends are not pipelined: whether S2's append sessions keep their order cannot be tried", "why", err)
		return
	}
	m.spawn(func(ctx context.Context) {
		select {
		case <-ready:
			m.runOrderProbe(ctx, id)
		case <-ctx.Done():
		}
	})
}

// runOrderProbe tries until storage has shown whether its append sessions keep their order.
func (m *Manager) runOrderProbe(ctx context.Context, id StreamID) {
	for pause := minOrderRetry; ctx.Err() == nil; pause = min(2*pause, maxOrderRetry) {
		order, err := m.askOrder(ctx, id)
		m.pipelines.order.Store(int32(order))
		switch {
		case order == orderKept:
			m.cfg.Logger.Info("S2's append sessions keep their order: appends are pipelined where an answer takes long")
			return
		case order == orderBroken:
			m.cfg.Logger.Error("S2, or what is on the way to it, writes on an append session what stands behind a refused batch: appends are not pipelined", "why", err)
			return
		case ctx.Err() == nil:
			m.cfg.Logger.Warn("appends are not pipelined yet: it could not be tried whether S2's append sessions keep their order", "err", err, "next", pause)
		}
		sleepFor(ctx, pause)
	}
}

// sleepFor waits for d, or until ctx ends.
func sleepFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// askOrder makes one attempt. The error says why nothing is known, or what was found.
func (m *Manager) askOrder(ctx context.Context, id StreamID) (appendOrder, error) {
	ctx, cancel := context.WithTimeout(ctx, orderProbeWithin)
	defer cancel()
	for range orderProbeTries {
		tail, err := m.log.Tail(ctx, id)
		switch {
		case err != nil:
			return orderUnknown, err
		case tail == 0:
			return orderUnknown, errNoFleetRecord
		}
		p := newOrderProbe(tail)
		if err := p.run(ctx, m.log, id); !errors.Is(err, errLostRace) {
			return p.judgeSession(ctx, m.log, id, err)
		}
	}
	return orderUnknown, errLostRace
}

var (
	errNoFleetRecord = errors.New("the fleet's record is not there")
	errLostRace      = errors.New("others write to the log")
	errNoEnd         = errors.New("the session goes on after a refusal")
)

// orderProbe holds what is sent on one session: a batch that fits, one that does not, and those behind it.
type orderProbe struct {
	at      Pos
	batches [2 + orderProbeBehind][]Entry
	pos     [2 + orderProbeBehind]Pos
	acks    []Ack
}

func newOrderProbe(at Pos) *orderProbe {
	p := &orderProbe{at: at}
	for i := range p.batches {
		switch i {
		case 0:
			p.pos[i] = at
		case 1:
			p.pos[i] = impossiblePos
		default:
			p.pos[i] = at + Pos(i) - 1
		}
		h := Header{Kind: KindClock, Flags: FlagFirst | FlagLast, Append: NewAppendID()}
		p.batches[i] = []Entry{{Header: h.encode(p.pos[i])}}
	}
	return p
}

// run sends the batches, and waits until the session has ended, or has acknowledged more than it may.
// nil: it has acknowledged the first batch, and was refused for the second. errLostRace: another record
// came first.
func (p *orderProbe) run(ctx context.Context, log *breaker, id StreamID) error {
	woken := make(chan struct{}, 1)
	session, err := log.openAppendSession(ctx, id, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	defer session.Close()
	for i, batch := range p.batches {
		if err := session.Submit(p.pos[i], batch); err != nil {
			break // the session has ended, and tells how
		}
	}
	for {
		var end *AppendEnd
		p.acks, end = session.TakeAcks(p.acks)
		switch {
		case len(p.acks) > 1:
			return nil
		case end != nil && !end.Refused:
			return end
		case end != nil && !isTail(end.Err):
			return end
		case end != nil && len(p.acks) == 0:
			return errLostRace
		case end != nil:
			return nil
		}
		select {
		case <-woken:
		case <-ctx.Done():
			if len(p.acks) == 1 {
				return errNoEnd
			}
			return ctx.Err()
		}
	}
}

// judgeSession returns what a session has shown that ended with err.
func (p *orderProbe) judgeSession(ctx context.Context, log *breaker, id StreamID, err error) (appendOrder, error) {
	switch {
	case err != nil:
		return orderUnknown, err
	case len(p.acks) > 1:
		return orderBroken, errors.New("it is acknowledged")
	case p.acks[0].Start != p.at:
		return orderBroken, fmt.Errorf("acknowledged at %d and not at %d", p.acks[0].Start, p.at)
	}
	sleepFor(ctx, orderSettles)
	page, err := log.Read(ctx, id, p.at, 2*len(p.batches))
	if err != nil {
		return orderUnknown, err
	}
	for _, r := range page.Records {
		behind := func(batch []Entry) bool { return slices.Equal(batch[0].Header, r.Header) }
		if slices.ContainsFunc(p.batches[1:], behind) {
			return orderBroken, fmt.Errorf("it stands at %d", r.Pos)
		}
	}
	if len(page.Records) == 0 || !slices.Equal(page.Records[0].Header, p.batches[0][0].Header) {
		return orderUnknown, errors.New("what was acknowledged is not there")
	}
	return orderKept, nil
}
