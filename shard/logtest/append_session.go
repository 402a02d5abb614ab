package logtest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

var (
	_ shard.SessionLog = (*Memory)(nil)
	_ shard.SessionLog = (*Client)(nil)

	_ shard.OrderProber = (*Memory)(nil)
)

// SessionParts are the parts of an append session in memory. Inputs travel in order, and are written
// in order until the first that is not written.
type SessionParts struct {
	// There and Back are the times that an input and an acknowledgement take.
	There, Back time.Duration
	// Write writes an input once it has arrived. After an error that is an ErrAppendUnknown the
	// session is broken, and not refused; if it is errLate, the input itself may arrive later, and if
	// it is errAckLost, those behind it.
	Write func(ctx context.Context, at shard.Pos, batch []shard.Entry) (shard.Ack, error)
	// Late decides whether the next input of a broken session is written all the same, and when. The
	// first that is not, or that fails, ends that. nil: none is written.
	Late func() (by time.Duration, arrives bool)
	// GoesOn: inputs behind a refused one are written if they fit, as no S2 does.
	GoesOn bool
	// Wake is called when there is something to take.
	Wake func()
}

// appendSession is the client's and the server's end of an append session.
type appendSession struct {
	SessionParts
	ctx  context.Context
	stop context.CancelFunc

	mu     sync.Mutex
	inputs []input
	more   chan struct{} // capacity 1: inputs has more
	acks   []shard.Ack
	woken  bool
	sent   int // batches of Submit
	acked  int
	end    *shard.AppendEnd
}

type input struct {
	at    shard.Pos
	batch []shard.Entry
	due   time.Time
}

// answer is an acknowledgement, or the end, on its way back.
type answer struct {
	ack shard.Ack
	end error
	due time.Time
}

// NewAppendSession opens an append session. Its goroutines end with Close, or with its own end.
func NewAppendSession(p SessionParts) shard.AppendSession {
	s := &appendSession{SessionParts: p, more: make(chan struct{}, 1)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	back := make(chan answer, 1000)
	go s.serve(back)
	go s.deliver(back)
	return s
}

// Submit implements shard.AppendSession.
func (s *appendSession) Submit(at shard.Pos, batch []shard.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return s.end
	}
	s.inputs = append(s.inputs, input{at, batch, time.Now().Add(s.There)})
	s.sent++
	select {
	case s.more <- struct{}{}:
	default:
	}
	return nil
}

// TakeAcks implements shard.AppendSession.
func (s *appendSession) TakeAcks(acks []shard.Ack) ([]shard.Ack, *shard.AppendEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	acks = append(acks, s.acks...)
	s.acks, s.woken = nil, false
	return acks, s.end
}

// Close implements shard.AppendSession.
func (s *appendSession) Close() { s.finish(errors.Join(shard.ErrAppendUnknown, errClosed)) }

// errLate is the error of an input on a session that broke before it arrived.
var errLate = errors.New("connection lost on the way")

// errAckLost is the error of an input that was written, and whose acknowledgement is lost: what was sent
// behind it may be written later. Behind an input that is lost itself nothing is.
var errAckLost = errors.New("connection lost after the write")

var errClosed = errors.New("session closed")

// finish ends the client's end.
func (s *appendSession) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil {
		return
	}
	s.end = &shard.AppendEnd{Err: err, Refused: !errors.Is(err, shard.ErrAppendUnknown) && s.acked < s.sent}
	s.stop()
	s.wake()
}

// wake wakes the user once, under mu.
func (s *appendSession) wake() {
	if !s.woken {
		s.woken = true
		s.Wake()
	}
}

// next returns the oldest input, when it has arrived; false: the session has ended.
func (s *appendSession) next() (input, bool) {
	for {
		s.mu.Lock()
		var in input
		if len(s.inputs) > 0 {
			in = s.inputs[0]
			s.inputs = s.inputs[1:]
		}
		s.mu.Unlock()
		var wait <-chan time.Time
		if in.batch != nil {
			wait = time.After(time.Until(in.due))
		}
		select {
		case <-wait:
			return in, true
		case <-s.ctx.Done():
			if in.batch != nil {
				s.writeLate(in)
			}
			return input{}, false
		case <-s.more:
			if in.batch == nil {
				continue
			}
			<-wait
			return in, true
		}
	}
}

// serve runs the server's end.
func (s *appendSession) serve(back chan<- answer) {
	defer close(back)
	for {
		in, ok := s.next()
		if !ok {
			return
		}
		ack, err := s.Write(s.ctx, in.at, in.batch)
		back <- answer{ack, err, time.Now().Add(s.Back)}
		if err != nil && !s.GoesOn {
			switch {
			case errors.Is(err, errLate):
				s.writeLate(in)
			case errors.Is(err, errAckLost):
				s.writeLate()
			}
			return
		}
	}
}

// writeLate writes inputs that have been sent on a session that is broken.
func (s *appendSession) writeLate(first ...input) {
	if s.Late == nil {
		return
	}
	by, arrives := s.Late()
	s.mu.Lock()
	inputs := append(first, s.inputs...)
	s.inputs = nil
	s.mu.Unlock()
	if !arrives || len(inputs) == 0 {
		return
	}
	time.AfterFunc(by, func() { // as late appends are: no caller waits for them
		for _, in := range inputs {
			if _, err := s.Write(context.Background(), in.at, in.batch); err != nil {
				return
			}
			if _, arrives := s.Late(); !arrives {
				return
			}
		}
	})
}

// deliver carries the answers back to the session.
func (s *appendSession) deliver(back <-chan answer) {
	for a := range back {
		<-time.After(time.Until(a.due))
		if a.end != nil {
			s.finish(a.end)
			continue
		}
		s.mu.Lock()
		if s.end == nil {
			s.acks = append(s.acks, a.ack)
			s.acked++
			s.wake()
		}
		s.mu.Unlock()
	}
}

// OpenAppendSession implements shard.SessionLog. An input whose outcome is unknown breaks the
// session; what was sent behind it may arrive late.
func (m *Memory) OpenAppendSession(_ context.Context, id shard.StreamID, wake func()) (shard.AppendSession, error) {
	m.mu.Lock()
	m.ops.AppendSessions++
	m.mu.Unlock()
	return NewAppendSession(SessionParts{
		There: m.Latency / 2, Back: m.Latency - m.Latency/2, Wake: wake, Late: m.late, GoesOn: m.GoesOn,
		Write: func(_ context.Context, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
			return m.attempt(id, at, batch, true)
		},
	}), nil
}

// late says whether inputs of a broken session arrive, half of them at LateBy.
func (m *Memory) late() (by time.Duration, arrives bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rnd.Float64() < 0.5 {
		by = m.faultOdds.LateBy
	}
	return by, m.rnd.Float64() < 0.7
}

// KeepsAppendOrder implements shard.SessionLog.
func (m *Memory) KeepsAppendOrder() bool { return !m.AsksOrder }

// OrderProbeLog implements shard.OrderProber.
func (m *Memory) OrderProbeLog() (shard.StreamID, error) {
	sites := m.Sites()
	if len(sites) == 0 {
		return "", errNoBasin
	}
	return sites[0].Log, nil
}

var errNoBasin = errors.New("there is no basin")

// OpenAppendSession implements shard.SessionLog.
func (c *Client) OpenAppendSession(ctx context.Context, id shard.StreamID, wake func()) (shard.AppendSession, error) {
	t, err := c.sendRequest(ctx)
	if err != nil {
		return nil, err
	}
	half := (c.latency + t.ExtraLatency) / 2
	c.mu.Lock()
	c.counts.AppendSessions++
	drops := c.sessionDrops
	c.mu.Unlock()
	s := NewAppendSession(SessionParts{
		There: half, Back: half, Wake: wake, Late: c.late,
		Write: func(ctx context.Context, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
			return c.writeOnSession(ctx, id, at, batch)
		},
	})
	own, ok := s.(*appendSession)
	if !ok {
		return s, nil
	}
	go func() {
		select {
		case <-drops:
			own.finish(errors.Join(shard.ErrAppendUnknown, errDropped))
		case <-own.ctx.Done():
		}
	}()
	return s, nil
}

// writeOnSession writes an input of a session, with the faults of an append.
func (c *Client) writeOnSession(ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	t, err := c.sendRequest(ctx)
	switch {
	case errors.Is(err, shard.ErrLogBusy), errors.Is(err, shard.ErrLogDenied):
		return shard.Ack{}, err
	case err != nil:
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, err)
	}
	if t.LateAppend > 0 && c.randomFloat() < t.LateAppend {
		t.report()
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errLate)
	}
	ack, err := c.write(id, at, batch)
	if err == nil && t.LoseAck > 0 && c.randomFloat() < t.LoseAck {
		t.report()
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errAckLost)
	}
	return ack, err
}

// late says whether inputs of a broken session arrive, half of them at LateBy.
func (c *Client) late() (by time.Duration, arrives bool) {
	t, _ := c.currentFaults()
	if c.randomFloat() < 0.5 {
		by = t.LateBy
	}
	return by, c.randomFloat() < 0.7
}

// KeepsAppendOrder implements shard.SessionLog.
func (c *Client) KeepsAppendOrder() bool { return true }
