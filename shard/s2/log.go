package s2

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// service is an S2 as a Log calls it. Each method is one call of S2's API, attempted once. Errors
// are the SDK's, so that classifyError serves every service.
type service interface {
	ensureBasin(ctx context.Context, basin string) error
	// ensureStream makes a stream that keeps its records, with timestamps that never exceed S2's
	// clock.
	ensureStream(ctx context.Context, basin, name string) error
	// isCapped reports whether the stream's timestamps never exceed S2's clock.
	isCapped(ctx context.Context, basin, name string) (bool, error)
	append(ctx context.Context, basin, name string, at shard.Pos, batch []shard.Entry) (shard.Ack, error)
	// read returns records from start on, at most count of them.
	read(ctx context.Context, basin, name string, start readStart, count int) (shard.Page, error)
	tail(ctx context.Context, basin, name string) (shard.Pos, error)
	// list returns limit names at most that begin with prefix and sort above after, in their order.
	list(ctx context.Context, basin, prefix, after string, limit int) (shard.LogList, error)
	// runSession runs one read session from position from on. It calls opened once S2 has accepted
	// it, and fn, on the caller's goroutine, with records as they come, and without records to tell
	// the tail. With count, the session ends after so many records, or at the tail. The error is
	// fn's (a callerError), ctx's cause, or the SDK's; nil: the session ended cleanly.
	runSession(ctx context.Context, basin, name string, from shard.Pos, count uint64, opened func(), fn func(shard.Page) error) error
}

// readStart says where a read begins, and how large it may become.
type readStart struct {
	pos     shard.Pos     // at this position, unless a field below says otherwise
	fromEnd bool          // as many records before the end as are wanted
	since   *shard.Millis // at the first record of this time or later

	maxBytes int // bounds the metered size of the records; 0: S2's own bound does
}

// logCalls implements shard.Log over a service, for Log and InProcess alike.
type logCalls struct {
	cfg      Config
	service  service
	sessions atomic.Int64
	metrics  metrics
}

var (
	_ shard.Log = (*Log)(nil)
	_ shard.Log = (*InProcess)(nil)
)

// basinCache holds one client for each basin.
type basinCache[T any] struct {
	newBasin func(name string) T

	mu     sync.Mutex
	byName map[string]T // bounded by the number of projects that clients use
}

func (b *basinCache[T]) get(name string) T {
	b.mu.Lock()
	defer b.mu.Unlock()
	one, ok := b.byName[name]
	if !ok {
		one = b.newBasin(name)
		if b.byName == nil {
			b.byName = map[string]T{}
		}
		b.byName[name] = one
	}
	return one
}

// EnsureBasin creates a basin if it does not exist, in which an append makes its stream. S2: POST
// /basins.
func (l *logCalls) EnsureBasin(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	return classifyError("ensure basin "+name, l.service.ensureBasin(ctx, name))
}

// Create implements shard.Log.
func (l *logCalls) Create(ctx context.Context, id shard.StreamID) (err error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return err
	}
	ensure := func() error {
		ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
		defer cancel()
		return l.service.ensureStream(ctx, basin, name)
	}
	start := time.Now()
	err = l.cfg.createStream(basin, ensure, func() error { return l.EnsureBasin(ctx, basin) })
	l.metrics.recordCall(opCreate, start, err)
	return err
}

// createStream calls ensureStream. If the basin does not exist and may be created, it calls
// ensureBasin and tries again.
func (c *Config) createStream(basin string, ensureStream, ensureBasin func() error) error {
	err := ensureStream()
	if c.CreateBasins && hasCode(err, "basin_not_found") {
		if err := c.allowCreation(basin); err != nil {
			return err
		}
		if err := ensureBasin(); err != nil {
			return err
		}
		err = ensureStream()
	}
	return classifyError("create", err)
}

// FleetLog implements shard.Sited.
func (l *logCalls) FleetLog(id shard.StreamID) shard.StreamID { return l.cfg.fleetLog(id) }

// Capped implements shard.Timed. S2: GET /streams/{s}.
func (l *logCalls) Capped(ctx context.Context, id shard.StreamID) (bool, error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	capped, err := l.service.isCapped(ctx, basin, name)
	return capped, l.cfg.classifyError("stream config", err)
}

// Append implements shard.Log.
func (l *logCalls) Append(
	ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry,
) (shard.Ack, error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return shard.Ack{}, err
	}
	start := time.Now()
	ack, err := l.service.append(ctx, basin, name, at, batch)
	l.metrics.recordCall(opAppend, start, l.cfg.classifyError("append", err))
	if err != nil {
		return shard.Ack{}, l.cfg.classifyAppend(err)
	}
	if ack.Start != at || ack.End != at+shard.Pos(len(batch)) {
		return shard.Ack{}, fmt.Errorf("%w: acknowledged from %d to %d, and not %d records at %d",
			shard.ErrAppendUnknown, ack.Start, ack.End, len(batch), at)
	}
	return ack, nil
}

// Read implements shard.Log.
func (l *logCalls) Read(ctx context.Context, id shard.StreamID, from shard.Pos, limit int) (shard.Page, error) {
	p, err := l.read(ctx, id, readStart{pos: from}, pageLimit(limit))
	return emptyAtTail(p, err, from)
}

// pageLimit returns the limit of a read as S2 accepts it.
func pageLimit(limit int) int {
	if limit <= 0 || limit > shard.MaxBatchRecords {
		return shard.MaxBatchRecords
	}
	return limit
}

// emptyAtTail returns a read's result. It is an empty page if S2 refused the read because it began
// at the tail.
func emptyAtTail(p shard.Page, err error, from shard.Pos) (shard.Page, error) {
	if beyond, ok := errors.AsType[*shard.TailError](err); ok && beyond.Tail == from {
		return shard.Page{Tail: from, HasTail: true}, nil
	}
	return p, err
}

// Last implements shard.Log.
func (l *logCalls) Last(ctx context.Context, id shard.StreamID, n, maxBytes int) (shard.Page, error) {
	p, err := l.read(ctx, id, readStart{fromEnd: true, maxBytes: maxBytes}, n)
	if err == nil && maxBytes > 0 {
		return p, nil
	}
	return lastPage(p, err, func() (shard.Pos, error) { return l.Tail(ctx, id) })
}

// lastPage returns the result of a read of the last records. S2 refuses it for an empty log, and
// answers without a tail if all records are trimmed: then lastPage asks tail.
func lastPage(p shard.Page, err error, tail func() (shard.Pos, error)) (shard.Page, error) {
	if empty, ok := errors.AsType[*shard.TailError](err); ok {
		return shard.Page{Tail: empty.Tail, HasTail: true}, nil
	}
	if err == nil && len(p.Records) == 0 && !p.HasTail {
		p.Tail, err = tail()
		p.HasTail = err == nil
	}
	return p, err
}

// FirstSince implements shard.Log. S2 refuses a read that would begin at the tail.
func (l *logCalls) FirstSince(ctx context.Context, id shard.StreamID, since shard.Millis) (shard.Page, error) {
	p, err := l.read(ctx, id, readStart{since: &since}, 1)
	if end, ok := errors.AsType[*shard.TailError](err); ok {
		return shard.Page{Tail: end.Tail, HasTail: true}, nil
	}
	return p, err
}

func (l *logCalls) read(ctx context.Context, id shard.StreamID, from readStart, count int) (shard.Page, error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return shard.Page{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	start := time.Now()
	p, err := l.service.read(ctx, basin, name, from, count)
	err = l.cfg.classifyError("read", err)
	l.metrics.recordCall(opRead, start, err)
	if err != nil {
		return shard.Page{}, err
	}
	return p, nil
}

// Tail implements shard.Log.
func (l *logCalls) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	start := time.Now()
	tail, err := l.service.tail(ctx, basin, name)
	err = l.cfg.classifyError("check tail", err)
	l.metrics.recordCall(opTail, start, err)
	if err != nil {
		return 0, err
	}
	return tail, nil
}

// OpenSessions implements shard.Log.
func (l *logCalls) OpenSessions() int { return int(l.sessions.Load()) }
