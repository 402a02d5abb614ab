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

// Client is one node's way to a Memory, with latency, faults and counts of its own. It
// is a shard.Log. Reads, and requests that were sent, take their time on the way there
// and back: a request whose caller is gone lands all the same.
type Client struct {
	mem *Memory
	// Basin is Memory.Basin, or another.
	Basin string
	// Latency is how long a call takes there and back.
	latency  time.Duration
	sessions atomic.Int64

	mu      sync.Mutex
	rnd     *rand.Rand
	trouble Trouble
	changed chan struct{} // closed and replaced whenever trouble changes
	drops   chan struct{} // closed and replaced by DropSessions
	counts  Counts
}

// Trouble is what is wrong between a node and storage.
type Trouble struct {
	// Cut: nothing comes through. Calls wait for their context, or fail once it is over.
	Cut bool
	// Hold: nothing comes through, and goes on where it was once it is over.
	Hold bool
	// Down: calls fail at once, sessions break.
	Down bool
	// Deny: storage refuses every call for good.
	Deny bool
	// Busy, Fail, LoseAck and Late are probabilities: refused without any effect; not
	// done, and no answer; done, and no answer; no answer, and an append that
	// is done LateBy later. Reads are not lost but by Fail.
	Busy, Fail, LoseAck, Late float64
	LateBy                    time.Duration
	// Slow is added to what each call takes, and to each page of a session.
	Slow time.Duration
	// Hit, if not nil, is called whenever a call or session meets the trouble.
	Hit func()
}

// Counts are what a Client has asked of storage.
type Counts struct {
	// Opens are the times at which read sessions were opened, those opened again and
	// Replay's included.
	Opens []time.Time
	// Followed are the records that sessions brought, Read those that all other calls did,
	// TookOver, by stream, those of them that Last and Replay did, which only begin and mend a
	// shard.
	Followed, Read int
	TookOver       map[shard.StreamID]int
	Appends        int
}

// Client is a way to the Memory; latency is what a call takes, there and back.
func (m *Memory) Client(seed uint64, latency time.Duration) *Client {
	return &Client{
		mem: m, Basin: m.Basin, latency: latency, rnd: rand.New(rand.NewPCG(seed, 3)),
		changed: make(chan struct{}), drops: make(chan struct{}),
	}
}

// SetTrouble changes what is wrong from now on; the zero Trouble is none.
func (c *Client) SetTrouble(t Trouble) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = t
	close(c.changed)
	c.changed = make(chan struct{})
	if t.Down {
		c.dropLocked()
	}
}

// DropSessions breaks every session that is open; they are opened again.
func (c *Client) DropSessions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked()
}

func (c *Client) dropLocked() {
	close(c.drops)
	c.drops = make(chan struct{})
}

// Counts returns the counts so far.
func (c *Client) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts
	n.Opens = append([]time.Time(nil), n.Opens...)
	n.TookOver = maps.Clone(n.TookOver)
	return n
}

// now is the trouble of this moment, and what says that it changed.
func (c *Client) now() (Trouble, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble, c.changed
}

func (t *Trouble) hit() {
	if t.Hit != nil {
		t.Hit()
	}
}

func (c *Client) float() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rnd.Float64()
}

// wait is half of a call's way.
func (c *Client) wait(ctx context.Context, t Trouble) error {
	d := (c.latency + t.Slow) / 2
	if t.Slow > 0 {
		t.hit()
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

// pass waits while nothing comes through. An error: it was lost.
func (c *Client) pass(ctx context.Context) (Trouble, error) {
	for {
		t, changed := c.now()
		switch {
		case t.Down:
			t.hit()
			return t, errLost
		case !t.Cut && !t.Hold:
			return t, nil
		}
		t.hit()
		select {
		case <-changed:
		case <-ctx.Done():
			return t, context.Cause(ctx)
		}
		if t.Cut {
			return t, errLost
		}
	}
}

// there takes a call to storage.
func (c *Client) there(ctx context.Context) (Trouble, error) {
	t, err := c.pass(ctx)
	if err != nil {
		return t, err
	}
	if t.Deny {
		t.hit()
		return t, errors.Join(shard.ErrLogDenied, c.wait(ctx, t))
	}
	if t.Busy > 0 && c.float() < t.Busy {
		t.hit()
		return t, errors.Join(shard.ErrLogBusy, c.wait(ctx, t))
	}
	if t.Fail > 0 && c.float() < t.Fail {
		t.hit()
		return t, errors.Join(errLost, c.wait(ctx, t))
	}
	return t, nil
}

// arrive is there, and half of the way.
func (c *Client) arrive(ctx context.Context) (Trouble, error) {
	t, err := c.there(ctx)
	if err == nil {
		err = c.wait(ctx, t)
	}
	return t, err
}

// back brings the answer.
func (c *Client) back(ctx context.Context, t Trouble) error {
	if err := c.wait(ctx, t); err != nil {
		return err
	}
	_, err := c.pass(ctx)
	return err
}

// Create implements shard.Log.
func (c *Client) Create(ctx context.Context, id shard.StreamID) error {
	t, err := c.arrive(ctx)
	if err == nil {
		err = c.mem.Create(ctx, id)
	}
	if err == nil {
		err = c.back(ctx, t)
	}
	return err
}

// Append implements shard.Log.
func (c *Client) Append(
	ctx context.Context, id shard.StreamID, at uint64, batch []shard.Entry,
) (shard.Ack, error) {
	t, err := c.there(ctx)
	switch {
	case errors.Is(err, shard.ErrLogBusy), errors.Is(err, shard.ErrLogDenied):
		return shard.Ack{}, err
	case err != nil:
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, err)
	}
	late := t.Late > 0 && c.float() < t.Late
	sent := time.Now()
	if err = c.wait(ctx, t); err != nil || late {
		if late {
			t.hit()
		}
		by := (c.latency+t.Slow)/2 - time.Since(sent)
		if late {
			by += t.LateBy
		}
		time.AfterFunc(by, func() { _, _ = c.write(id, at, batch) })
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errLost, err)
	}
	ack, err := c.write(id, at, batch)
	lost := t.LoseAck > 0 && c.float() < t.LoseAck
	if lost {
		t.hit()
	}
	if back := c.back(ctx, t); lost || back != nil {
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errLost, back)
	}
	return ack, err
}

func (c *Client) write(id shard.StreamID, at uint64, batch []shard.Entry) (shard.Ack, error) {
	c.mu.Lock()
	c.counts.Appends++
	c.mu.Unlock()
	c.mem.mu.Lock()
	defer c.mem.mu.Unlock()
	c.mem.ops.Appends++
	return c.mem.write(id, at, batch)
}

// call is a read: there, done, and back.
func call[T any](ctx context.Context, c *Client, do func() (T, error)) (T, error) {
	var none T
	t, err := c.arrive(ctx)
	if err != nil {
		return none, err
	}
	v, err := do()
	if back := c.back(ctx, t); back != nil {
		return none, back
	}
	return v, err
}

// Read implements shard.Log.
func (c *Client) Read(
	ctx context.Context, id shard.StreamID, from uint64, limit int,
) (shard.Page, error) {
	return c.count(call(ctx, c, func() (shard.Page, error) { return c.mem.Read(ctx, id, from, limit) }))
}

// Last implements shard.Log.
func (c *Client) Last(ctx context.Context, id shard.StreamID, n int) (shard.Page, error) {
	p, err := c.count(call(ctx, c, func() (shard.Page, error) { return c.mem.Last(ctx, id, n) }))
	c.tookOver(id, p)
	return p, err
}

func (c *Client) tookOver(id shard.StreamID, p shard.Page) {
	c.mu.Lock()
	if c.counts.TookOver == nil {
		c.counts.TookOver = map[shard.StreamID]int{}
	}
	c.counts.TookOver[id] += len(p.Records)
	c.mu.Unlock()
}

func (c *Client) count(p shard.Page, err error) (shard.Page, error) {
	c.mu.Lock()
	c.counts.Read += len(p.Records)
	c.mu.Unlock()
	return p, err
}

// Tail implements shard.Log.
func (c *Client) Tail(ctx context.Context, id shard.StreamID) (uint64, error) {
	return call(ctx, c, func() (uint64, error) { return c.mem.Tail(ctx, id) })
}

// Replay implements shard.Log.
func (c *Client) Replay(
	ctx context.Context, id shard.StreamID, from, to uint64, fn func(shard.Page) error,
) error {
	t, err := c.arrive(ctx)
	if err != nil {
		return err
	}
	defer c.opened()()
	return c.mem.Replay(ctx, id, from, to, func(p shard.Page) error {
		if err := c.back(ctx, t); err != nil {
			return err
		}
		_, _ = c.count(p, nil)
		c.tookOver(id, p)
		return fn(p)
	})
}

// opened counts a session; the result is to be called at its end.
func (c *Client) opened() (closed func()) {
	c.mu.Lock()
	c.counts.Opens = append(c.counts.Opens, time.Now())
	c.mu.Unlock()
	c.sessions.Add(1)
	return func() { c.sessions.Add(-1) }
}

// errDropped: a session broke.
var errDropped = errors.New("session dropped")

// Follow implements shard.Log.
func (c *Client) Follow(
	ctx context.Context, id shard.StreamID, from uint64, fn func(shard.Page) error,
) error {
	for {
		err := c.session(ctx, id, &from, fn)
		var lost *errOfFn
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &lost):
			return lost.err
		case !errors.Is(err, errDropped) && !errors.Is(err, errLost) && !errors.Is(err, shard.ErrLogBusy):
			return err
		}
		select { // full jitter
		case <-time.After(time.Duration(c.float() * float64(reopenWithin))):
		case <-ctx.Done():
		}
	}
}

// reopenWithin is the longest pause before a session is opened again.
const reopenWithin = 500 * time.Millisecond

// errOfFn is an error of the caller's own function.
type errOfFn struct{ err error }

func (e *errOfFn) Error() string { return e.err.Error() }

// session is one read session, from its opening to its end.
func (c *Client) session(
	ctx context.Context, id shard.StreamID, from *uint64, fn func(shard.Page) error,
) error {
	if _, err := c.arrive(ctx); err != nil {
		return err
	}
	c.mem.mu.Lock()
	c.mem.ops.Follows++
	c.mem.mu.Unlock()
	defer c.opened()()
	c.mu.Lock()
	drops := c.drops
	c.mu.Unlock()
	for {
		c.mem.mu.Lock()
		l, err := c.mem.at(id, *from)
		if err != nil {
			c.mem.mu.Unlock()
			return err
		}
		p, news := l.page(*from, shard.MaxBatchRecords), l.news
		c.mem.mu.Unlock()
		t, _ := c.now()
		if err := c.back(ctx, t); err != nil {
			return err
		}
		select {
		case <-drops:
			return errDropped
		default:
		}
		c.mu.Lock()
		c.counts.Followed += len(p.Records)
		c.mu.Unlock()
		if err := fn(p); err != nil {
			return &errOfFn{err}
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
