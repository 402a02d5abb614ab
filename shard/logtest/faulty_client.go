package logtest

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Client is one node's access to a Memory, with its own latency, faults and counts. It is a
// shard.Log. Requests take half of the latency on the way there and half on the way back. A request
// that was sent is carried out even if its caller has ended.
type Client struct {
	memory *Memory
	// Basin is Memory.Basin, or another basin.
	Basin string
	// latency is the time of a call, there and back.
	latency  time.Duration
	sessions atomic.Int64

	mu            sync.Mutex
	rand          *rand.Rand
	faults        Faults
	faultsChanged chan struct{} // closed and replaced whenever faults changes
	sessionDrops  chan struct{} // closed and replaced by DropSessions
	counts        Counts
}

// Faults describes what is wrong between a node and storage.
type Faults struct {
	// Partition lets nothing through. Calls wait for their context, or fail when the partition
	// ends.
	Partition bool
	// Stall lets nothing through. Calls continue when the stall ends.
	Stall bool
	// Down makes calls fail immediately, and breaks sessions.
	Down bool
	// Deny makes storage refuse every call, as it refuses a revoked token.
	Deny bool
	// Busy, Fail, LoseAck and LateAppend are probabilities. Busy: refused, without an effect. Fail:
	// not done, and no answer. LoseAck: done, and no answer. LateAppend: an append without an
	// answer that is done after LateBy. Reads are subject to Busy and Fail only.
	Busy, Fail, LoseAck, LateAppend float64
	LateBy                          time.Duration
	// ExtraLatency is added to the latency of each call and of each page of a session.
	ExtraLatency time.Duration
	// OnFault, if it is not nil, is called whenever a fault hits a call or session.
	OnFault func()
}

// Counts holds what a Client has asked of storage.
type Counts struct {
	// SessionOpens holds the times at which read sessions were opened, including reopened ones and
	// those of Replay.
	SessionOpens []time.Time
	// SessionRecords counts the records that sessions brought, and ReadRecords those of all other
	// calls. TakeoverRecords counts, by stream, those of ReadRecords that Last and Replay brought:
	// they are only called to take over or repair a stream.
	SessionRecords, ReadRecords int
	TakeoverRecords             map[shard.StreamID]int
	Appends, AppendSessions     int
}

// NewClient returns a Client of the Memory. latency is the time of a call, there and back.
func (m *Memory) NewClient(seed uint64, latency time.Duration) *Client {
	return &Client{
		memory: m, Basin: m.Basin, latency: latency, rand: rand.New(rand.NewPCG(seed, 3)),
		faultsChanged: make(chan struct{}), sessionDrops: make(chan struct{}),
	}
}

// SetFaults replaces the current faults. The zero Faults means none.
func (c *Client) SetFaults(t Faults) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = t
	close(c.faultsChanged)
	c.faultsChanged = make(chan struct{})
	if t.Down {
		c.dropLocked()
	}
}

// DropSessions breaks every open session. Followers open new ones.
func (c *Client) DropSessions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked()
}

func (c *Client) dropLocked() {
	close(c.sessionDrops)
	c.sessionDrops = make(chan struct{})
}

// Counts returns the counts so far.
func (c *Client) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts
	n.SessionOpens = append([]time.Time(nil), n.SessionOpens...)
	n.TakeoverRecords = maps.Clone(n.TakeoverRecords)
	return n
}

// currentFaults returns the current faults, and a channel that is closed when they change.
func (c *Client) currentFaults() (Faults, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults, c.faultsChanged
}

func (t *Faults) report() {
	if t.OnFault != nil {
		t.OnFault()
	}
}

func (c *Client) randomFloat() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rand.Float64()
}

// waitHalfway waits for half of a call's latency.
func (c *Client) waitHalfway(ctx context.Context, t Faults) error {
	d := (c.latency + t.ExtraLatency) / 2
	if t.ExtraLatency > 0 {
		t.report()
	}
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitConnection waits while nothing comes through. It returns an error if the call is lost.
func (c *Client) awaitConnection(ctx context.Context) (Faults, error) {
	for {
		t, changed := c.currentFaults()
		switch {
		case t.Down:
			t.report()
			return t, errLost
		case !t.Partition && !t.Stall:
			return t, nil
		}
		t.report()
		select {
		case <-changed:
		case <-ctx.Done():
			return t, context.Cause(ctx)
		}
		if t.Partition {
			return t, errLost
		}
	}
}

// sendRequest applies the faults of a request on its way to storage.
func (c *Client) sendRequest(ctx context.Context) (Faults, error) {
	t, err := c.awaitConnection(ctx)
	if err != nil {
		return t, err
	}
	if t.Deny {
		t.report()
		return t, errors.Join(shard.ErrLogDenied, c.waitHalfway(ctx, t))
	}
	if t.Busy > 0 && c.randomFloat() < t.Busy {
		t.report()
		return t, errors.Join(shard.ErrLogBusy, c.waitHalfway(ctx, t))
	}
	if t.Fail > 0 && c.randomFloat() < t.Fail {
		t.report()
		return t, errors.Join(errLost, c.waitHalfway(ctx, t))
	}
	return t, nil
}

// deliverRequest applies those faults, and waits for half of the latency.
func (c *Client) deliverRequest(ctx context.Context) (Faults, error) {
	t, err := c.sendRequest(ctx)
	if err == nil {
		err = c.waitHalfway(ctx, t)
	}
	return t, err
}

// deliverAnswer applies the faults of an answer, and waits for half of the latency.
func (c *Client) deliverAnswer(ctx context.Context, t Faults) error {
	if err := c.waitHalfway(ctx, t); err != nil {
		return err
	}
	_, err := c.awaitConnection(ctx)
	return err
}

// Create implements shard.Log.
func (c *Client) Create(ctx context.Context, id shard.StreamID) error {
	_, err := roundTrip(ctx, c, func() (struct{}, error) { return struct{}{}, c.memory.Create(ctx, id) })
	return err
}

// CreatesByAppend implements shard.LogMaker.
func (c *Client) CreatesByAppend(id shard.StreamID) bool { return c.memory.CreatesByAppend(id) }

// CreateNew implements shard.LogMaker.
func (c *Client) CreateNew(ctx context.Context, id shard.StreamID) (made bool, err error) {
	return roundTrip(ctx, c, func() (bool, error) { return c.memory.CreateNew(ctx, id) })
}

// EnsureConfig implements shard.LogMaker.
func (c *Client) EnsureConfig(ctx context.Context, id shard.StreamID) (changed bool, err error) {
	return roundTrip(ctx, c, func() (bool, error) { return c.memory.EnsureConfig(ctx, id) })
}

// Append implements shard.Log.
func (c *Client) Append(
	ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry,
) (shard.Ack, error) {
	t, err := c.sendRequest(ctx)
	switch {
	case errors.Is(err, shard.ErrLogBusy), errors.Is(err, shard.ErrLogDenied):
		return shard.Ack{}, err
	case err != nil:
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, err)
	}
	late := t.LateAppend > 0 && c.randomFloat() < t.LateAppend
	sent := time.Now()
	if err = c.waitHalfway(ctx, t); err != nil || late {
		if late {
			t.report()
		}
		by := (c.latency+t.ExtraLatency)/2 - time.Since(sent)
		if late {
			by += t.LateBy
		}
		time.AfterFunc(by, func() { _, _ = c.write(id, at, batch) })
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errLost, err)
	}
	ack, err := c.write(id, at, batch)
	lost := t.LoseAck > 0 && c.randomFloat() < t.LoseAck
	if lost {
		t.report()
	}
	if back := c.deliverAnswer(ctx, t); lost || back != nil {
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errLost, back)
	}
	return ack, err
}

func (c *Client) write(id shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	c.mu.Lock()
	c.counts.Appends++
	c.mu.Unlock()
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	c.memory.ops.Appends++
	return c.memory.writeLocked(id, at, batch)
}

// roundTrip makes a call that may be made again: request, operation and answer.
func roundTrip[T any](ctx context.Context, c *Client, do func() (T, error)) (T, error) {
	var none T
	t, err := c.deliverRequest(ctx)
	if err != nil {
		return none, err
	}
	v, err := do()
	if back := c.deliverAnswer(ctx, t); back != nil {
		return none, back
	}
	return v, err
}

// Read implements shard.Log.
func (c *Client) Read(
	ctx context.Context, id shard.StreamID, from shard.Pos, limit int,
) (shard.Page, error) {
	return c.countRead(roundTrip(ctx, c, func() (shard.Page, error) { return c.memory.Read(ctx, id, from, limit) }))
}

// Last implements shard.Log.
func (c *Client) Last(ctx context.Context, id shard.StreamID, n, maxBytes int) (shard.Page, error) {
	p, err := c.countRead(roundTrip(ctx, c, func() (shard.Page, error) { return c.memory.Last(ctx, id, n, maxBytes) }))
	c.countTakeover(id, p)
	return p, err
}

// FirstSince implements shard.Log.
func (c *Client) FirstSince(ctx context.Context, id shard.StreamID, since shard.Millis) (shard.Page, error) {
	return c.countRead(roundTrip(ctx, c, func() (shard.Page, error) { return c.memory.FirstSince(ctx, id, since) }))
}

func (c *Client) countTakeover(id shard.StreamID, p shard.Page) {
	c.mu.Lock()
	if c.counts.TakeoverRecords == nil {
		c.counts.TakeoverRecords = map[shard.StreamID]int{}
	}
	c.counts.TakeoverRecords[id] += len(p.Records)
	c.mu.Unlock()
}

func (c *Client) countRead(p shard.Page, err error) (shard.Page, error) {
	c.mu.Lock()
	c.counts.ReadRecords += len(p.Records)
	c.mu.Unlock()
	return p, err
}

// Tail implements shard.Log.
func (c *Client) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	return roundTrip(ctx, c, func() (shard.Pos, error) { return c.memory.Tail(ctx, id) })
}

// Replay implements shard.Log.
func (c *Client) Replay(
	ctx context.Context, id shard.StreamID, from, to shard.Pos, fn func(shard.Page) error,
) error {
	t, err := c.deliverRequest(ctx)
	if err != nil {
		return err
	}
	defer c.beginSession()()
	return c.memory.Replay(ctx, id, from, to, func(p shard.Page) error {
		if err := c.deliverAnswer(ctx, t); err != nil {
			return err
		}
		_, _ = c.countRead(p, nil)
		c.countTakeover(id, p)
		return fn(p)
	})
}

// beginSession counts a new session, and returns the function that ends it.
func (c *Client) beginSession() (closed func()) {
	c.mu.Lock()
	c.counts.SessionOpens = append(c.counts.SessionOpens, time.Now())
	c.mu.Unlock()
	c.sessions.Add(1)
	return func() { c.sessions.Add(-1) }
}

// errDropped is the error of a session that DropSessions broke.
var errDropped = errors.New("session dropped")

// Follow implements shard.Log.
func (c *Client) Follow(
	ctx context.Context, id shard.StreamID, from shard.Pos, fn func(shard.Page) error,
) error {
	for {
		err := c.readSession(ctx, id, &from, fn)
		var lost *callerError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &lost):
			return lost.err
		case !errors.Is(err, errDropped) && !errors.Is(err, errLost) && !errors.Is(err, shard.ErrLogBusy):
			return err
		}
		select { // full jitter
		case <-time.After(time.Duration(c.randomFloat() * float64(reopenWithin))):
		case <-ctx.Done():
		}
	}
}

// reopenWithin is the longest pause before a session is reopened.
const reopenWithin = 500 * time.Millisecond

// callerError is an error of the caller's own function.
type callerError struct{ err error }

func (e *callerError) Error() string { return e.err.Error() }

// readSession runs one read session, from its opening to its end.
func (c *Client) readSession(
	ctx context.Context, id shard.StreamID, from *shard.Pos, fn func(shard.Page) error,
) error {
	if _, err := c.deliverRequest(ctx); err != nil {
		return err
	}
	c.memory.mu.Lock()
	c.memory.ops.Follows++
	c.memory.mu.Unlock()
	defer c.beginSession()()
	c.mu.Lock()
	drops := c.sessionDrops
	c.mu.Unlock()
	for {
		c.memory.mu.Lock()
		l, err := c.memory.logAt(id, *from)
		if err != nil {
			c.memory.mu.Unlock()
			return err
		}
		p, news := l.page(*from, shard.MaxBatchRecords), l.changed
		c.memory.mu.Unlock()
		t, _ := c.currentFaults()
		if err := c.deliverAnswer(ctx, t); err != nil {
			return err
		}
		select {
		case <-drops:
			return errDropped
		default:
		}
		c.mu.Lock()
		c.counts.SessionRecords += len(p.Records)
		c.mu.Unlock()
		if err := fn(p); err != nil {
			return &callerError{err}
		}
		if n := len(p.Records); n > 0 {
			*from = p.Records[n-1].Pos + 1
			continue
		}
		select {
		case <-news:
		case <-drops:
			return errDropped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// OpenSessions implements shard.Log.
func (c *Client) OpenSessions() int { return int(c.sessions.Load()) }
