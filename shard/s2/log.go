package s2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

// Log keeps streams in S2. It implements shard.Log.
type Log struct {
	cfg       Config
	client    *s2.Client
	transport transport
	bridge    *bridge // nil: S2 is reached without a proxy
	sessions  atomic.Int64
	metrics   metrics
	basins    basinCache[*s2.BasinClient]
}

// transport makes unary calls, and keeps connections for them.
type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

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

var _ shard.Log = (*Log)(nil)

// Open returns a Log. It does not call S2 yet.
func Open(cfg Config) (*Log, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("s2: %w", err)
	}
	l := &Log{cfg: cfg, metrics: newMetrics(cfg.Metrics, newHealth(cmp.Or(cfg.Endpoint, managedEndpoint), cfg.Logger))}
	base, err := l.connect()
	if err != nil {
		return nil, err
	}
	opts := &s2.ClientOptions{
		// The SDK repeats nothing: shard resolves an append's outcome, and the SDK's retry budget
		// for a read session counts the failures of its whole life.
		RetryConfig: &s2.RetryConfig{MaxAttempts: 1},
		HTTPClient: &http.Client{
			Transport:     responseValidator{l.transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // S2 sends no redirects
		},
	}
	if base != nil {
		opts.BaseURL, opts.MakeBasinBaseURL = base(""), base
	}
	l.client = s2.New(cfg.Token, opts)
	l.basins.newBasin = l.client.Basin
	return l, nil
}

// Close closes idle connections. Sessions end with their contexts.
func (l *Log) Close() error {
	l.transport.CloseIdleConnections()
	if l.bridge != nil {
		return l.bridge.close()
	}
	return nil
}

func (l *Log) streamClient(id shard.StreamID) (*s2.StreamClient, error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return nil, err
	}
	return l.basins.get(basin).Stream(s2.StreamName(name)), nil
}

// EnsureBasin creates a basin if it does not exist. S2: PUT /basins/{b}.
func (l *Log) EnsureBasin(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	_, err := l.client.Basins.Ensure(ctx, s2.EnsureBasinArgs{Basin: s2.BasinName(name)})
	return classifyError("ensure basin "+name, err)
}

// Create implements shard.Log.
func (l *Log) Create(ctx context.Context, id shard.StreamID) (err error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return err
	}
	ensure := func() error {
		ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
		defer cancel()
		_, err := l.basins.get(basin).Streams.Ensure(ctx, s2.EnsureStreamArgs{
			Stream: s2.StreamName(name),
			Config: &s2.StreamConfig{
				RetentionPolicy: &s2.RetentionPolicy{Infinite: &s2.InfiniteRetention{}},
				Timestamping:    &s2.TimestampingConfig{Mode: new(s2.TimestampingModeClientPrefer), Uncapped: new(false)},
			},
		})
		return err
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
func (l *Log) FleetLog(id shard.StreamID) shard.StreamID { return l.cfg.fleetLog(id) }

// Capped implements shard.Timed. S2: GET /streams/{s}.
func (l *Log) Capped(ctx context.Context, id shard.StreamID) (bool, error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	c, err := l.basins.get(basin).Streams.GetConfig(ctx, s2.StreamName(name))
	if err != nil {
		return false, l.cfg.classifyError("stream config", err)
	}
	if c == nil || c.Timestamping == nil { // S2's default is capped
		return true, nil
	}
	t := c.Timestamping
	return (t.Uncapped == nil || !*t.Uncapped) && (t.Mode == nil || *t.Mode != s2.TimestampingModeClientRequire), nil
}

// Append implements shard.Log.
func (l *Log) Append(
	ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry,
) (shard.Ack, error) {
	st, err := l.streamClient(id)
	if err != nil {
		return shard.Ack{}, err
	}
	in := &s2.AppendInput{Records: make([]s2.AppendRecord, len(batch)), MatchSeqNum: new(uint64(at))}
	for i, e := range batch {
		in.Records[i] = toSDKRecord(e)
	}
	start := time.Now()
	ack, err := st.Append(ctx, in)
	l.metrics.recordCall(opAppend, start, l.cfg.classifyError("append", err))
	if err != nil {
		return shard.Ack{}, l.cfg.classifyAppend(err)
	}
	if shard.Pos(ack.Start.SeqNum) != at || shard.Pos(ack.End.SeqNum) != at+shard.Pos(len(batch)) {
		return shard.Ack{}, fmt.Errorf("%w: acknowledged from %d to %d, and not %d records at %d",
			shard.ErrAppendUnknown, ack.Start.SeqNum, ack.End.SeqNum, len(batch), at)
	}
	return shard.Ack{
		Start: shard.Pos(ack.Start.SeqNum), End: shard.Pos(ack.End.SeqNum),
		StartTime: shard.Millis(ack.Start.Timestamp), EndTime: shard.Millis(ack.End.Timestamp),
	}, nil
}

// Read implements shard.Log.
func (l *Log) Read(
	ctx context.Context, id shard.StreamID, from shard.Pos, limit int,
) (shard.Page, error) {
	count := uint64(pageLimit(limit))
	p, err := l.read(ctx, id, &s2.ReadOptions{SeqNum: new(uint64(from)), Count: &count})
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
func (l *Log) Last(ctx context.Context, id shard.StreamID, n int) (shard.Page, error) {
	offset, count := int64(n), uint64(n)
	p, err := l.read(ctx, id, &s2.ReadOptions{TailOffset: &offset, Count: &count})
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

func (l *Log) read(ctx context.Context, id shard.StreamID, o *s2.ReadOptions) (p shard.Page, err error) {
	st, err := l.streamClient(id)
	if err != nil {
		return shard.Page{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	start := time.Now()
	b, err := st.Read(ctx, o)
	err = l.cfg.classifyError("read", err)
	l.metrics.recordCall(opRead, start, err)
	if err != nil {
		return shard.Page{}, err
	}
	p = shard.Page{Records: make([]shard.Record, len(b.Records))}
	for i, r := range b.Records {
		p.Records[i] = fromSDKRecord(r)
	}
	if b.Tail != nil {
		p.Tail, p.HasTail = shard.Pos(b.Tail.SeqNum), true
	}
	return p, nil
}

// Tail implements shard.Log.
func (l *Log) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	st, err := l.streamClient(id)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	start := time.Now()
	t, err := st.CheckTail(ctx)
	err = l.cfg.classifyError("check tail", err)
	l.metrics.recordCall(opTail, start, err)
	if err != nil {
		return 0, err
	}
	return shard.Pos(t.Tail.SeqNum), nil
}

// OpenSessions implements shard.Log.
func (l *Log) OpenSessions() int { return int(l.sessions.Load()) }
