package s2

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"
	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/shard"
)

// This file makes streams in S2 while they are read for the first time. An append makes its stream where
// the basin's configuration says so (create_stream_on_append). The stream then has the basin's default
// configuration, so that has to be one that keeps records.

const (
	// configEvery is the age from which a basin's configuration is read again.
	configEvery = time.Hour
	// configRetry is the pause after it could not be read.
	configRetry = 10 * time.Second
)

// creations knows in which basins an append makes its stream, and with a configuration that keeps
// records.
type creations struct {
	getConfig func(ctx context.Context, basin string) (*s2.BasinConfig, error)
	log       *slog.Logger
	lines     rate.Sometimes // a template has a basin for each project that clients name
	ctx       context.Context
	stop      context.CancelFunc
	asking    sync.WaitGroup

	mu     sync.Mutex
	basins map[string]*creation // bounded by the number of projects that clients use
	closed bool
}

// creation holds what is known of one basin.
type creation struct {
	problem string    // why appends must not make streams; empty: they may, if it is known
	known   time.Time // when the configuration was read; zero: never
	asked   time.Time // when it was last asked for
	asking  bool
}

func newCreations(getConfig func(context.Context, string) (*s2.BasinConfig, error), log *slog.Logger) *creations {
	c := &creations{getConfig: getConfig, log: log, lines: rate.Sometimes{First: 5, Interval: time.Minute}, basins: map[string]*creation{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// close ends what is being asked, and waits for it.
func (c *creations) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.asking.Wait()
}

// allows reports whether an append makes its stream in a basin. Where that is not known yet, or may have
// changed, it has S2 asked, and does not wait.
func (c *creations) allows(basin string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.basins[basin]
	if b == nil {
		b = &creation{}
		c.basins[basin] = b
	}
	now := time.Now()
	if !b.asking && !c.closed && now.Sub(b.known) >= configEvery && now.Sub(b.asked) >= configRetry {
		b.asking, b.asked = true, now
		c.asking.Go(func() { c.ask(basin, b) })
	}
	return b.problem == "" && now.Sub(b.known) < 2*configEvery
}

// review has S2 asked about each basin that is known, where that is due.
func (c *creations) review() {
	c.mu.Lock()
	names := make([]string, 0, len(c.basins))
	for name := range c.basins {
		names = append(names, name)
	}
	c.mu.Unlock()
	for _, name := range names {
		c.allows(name)
	}
}

// basinConfig reads a basin's configuration.
func (l *Log) basinConfig(ctx context.Context, basin string) (*s2.BasinConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	return l.client.Basins.GetConfig(ctx, s2.BasinName(basin))
}

// forget notes that an append did not make its stream: the configuration has changed.
func (c *creations) forget(basin string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.basins[basin]; b != nil {
		b.known = time.Time{}
	}
}

// ask reads a basin's configuration.
func (c *creations) ask(basin string, b *creation) {
	config, err := c.getConfig(c.ctx, basin)
	problem := ""
	var refused *s2.S2Error
	switch {
	case err == nil:
		problem = creationProblem(config)
	case errors.As(err, &refused) && refused.Status == 403:
		problem = "the token may not read the basin's configuration"
	}
	c.mu.Lock()
	b.asking = false
	if err != nil && problem == "" { // what was known is used for a while yet
		c.mu.Unlock()
		return
	}
	before, first := b.problem, b.known.IsZero()
	b.problem, b.known = problem, time.Now()
	c.mu.Unlock()
	if first || problem != before {
		c.report(basin, problem, !first && before == "")
	}
	if config != nil && config.CreateStreamOnRead != nil && *config.CreateStreamOnRead && first {
		c.log.Warn("reads of names that do not exist make streams in S2: create_stream_on_read of the basin is on", "basin", basin)
	}
}

// howToAllow is the configuration of a basin in which a new stream takes one round trip.
const howToAllow = `{"create_stream_on_append":true,"default_stream_config":{"retention_policy":{"infinite":{}},` +
	`"timestamping":{"mode":"client-prefer","uncapped":false},"delete_on_empty":{"min_age_secs":0}}}`

// report logs what a basin allows. lost: it allowed more before.
func (c *creations) report(basin, problem string, lost bool) {
	level := slog.LevelInfo
	if lost {
		level = slog.LevelWarn
	}
	c.lines.Do(func() {
		if problem == "" {
			c.log.Info("a new stream takes one round trip to S2", "basin", basin)
			return
		}
		c.log.Log(c.ctx, level, "a new stream takes two round trips to S2, and could take one", "basin", basin, "why", problem,
			"to allow it", "PATCH /v1/basins/"+basin+" "+howToAllow)
	})
}

// creationProblem returns why appends must not make streams in a basin; empty: they may.
func creationProblem(c *s2.BasinConfig) string {
	switch {
	case c == nil || c.CreateStreamOnAppend == nil || !*c.CreateStreamOnAppend:
		return "appends make no streams (create_stream_on_append)"
	case c.DefaultStreamConfig == nil || !keepsRecords(c.DefaultStreamConfig):
		return "its streams would not keep their records (default_stream_config)"
	case !isCapped(c.DefaultStreamConfig.Timestamping):
		return "its streams' timestamps would not be S2's own (default_stream_config)"
	}
	return ""
}

// keepsRecords reports whether a stream keeps its records until they are trimmed, and stays when it is
// empty.
func keepsRecords(c *s2.StreamConfig) bool {
	return c.RetentionPolicy != nil && c.RetentionPolicy.Infinite != nil &&
		(c.DeleteOnEmpty == nil || c.DeleteOnEmpty.MinAgeSecs == nil || *c.DeleteOnEmpty.MinAgeSecs == 0)
}

// isCapped reports whether timestamps never exceed S2's clock, which is S2's default.
func isCapped(t *s2.TimestampingConfig) bool {
	return t == nil || (t.Uncapped == nil || !*t.Uncapped) && (t.Mode == nil || *t.Mode != s2.TimestampingModeClientRequire)
}

// neededConfig returns the configuration that a stream needs.
func neededConfig() *s2.StreamConfig {
	return &s2.StreamConfig{
		RetentionPolicy: &s2.RetentionPolicy{Infinite: &s2.InfiniteRetention{}},
		Timestamping:    &s2.TimestampingConfig{Mode: new(s2.TimestampingModeClientPrefer), Uncapped: new(false)},
		DeleteOnEmpty:   &s2.DeleteOnEmptyConfig{MinAgeSecs: new(int64(0))},
	}
}

var _ shard.LogMaker = (*Log)(nil)

// CreatesByAppend implements shard.LogMaker.
func (l *Log) CreatesByAppend(id shard.StreamID) bool {
	basin, _, err := l.cfg.locate(id)
	return err == nil && l.creations.allows(basin)
}

// Append implements shard.Log.
func (l *Log) Append(ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	ack, err := l.logCalls.Append(ctx, id, at, batch)
	if err != nil && at == 0 && hasCode(err, "stream_not_found") {
		if basin, _, err := l.cfg.locate(id); err == nil {
			l.creations.forget(basin)
		}
	}
	return ack, err
}

// CreateNew implements shard.LogMaker.
func (l *Log) CreateNew(ctx context.Context, id shard.StreamID) (made bool, err error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	start := time.Now()
	_, err = l.sdk.basins.get(basin).Streams.Create(ctx, s2.CreateStreamArgs{Stream: s2.StreamName(name), Config: neededConfig()})
	if made = err == nil; hasCode(err, "resource_already_exists") {
		err = nil
	}
	err = l.cfg.classifyError("create", err)
	l.metrics.recordCall(opCreate, start, err)
	return made, err
}

// EnsureConfig implements shard.LogMaker.
func (l *Log) EnsureConfig(ctx context.Context, id shard.StreamID) (changed bool, err error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	config, err := l.sdk.basins.get(basin).Streams.GetConfig(ctx, s2.StreamName(name))
	var refused *s2.S2Error
	switch {
	case err == nil && config != nil && keepsRecords(config) && isCapped(config.Timestamping):
		return false, nil
	case err != nil && (!errors.As(err, &refused) || refused.Status != 403):
		return false, l.cfg.classifyError("stream config", err)
	}
	changed = err == nil
	start := time.Now()
	err = l.cfg.classifyError("create", l.service.ensureStream(ctx, basin, name))
	l.metrics.recordCall(opCreate, start, err)
	return changed && err == nil, err
}
