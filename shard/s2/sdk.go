package s2

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2/s2s"
)

// Log keeps streams in S2, which it reaches over the network: with the SDK for calls, and with package
// s2s for read sessions. It implements shard.Log.
type Log struct {
	logCalls
	client    *s2.Client
	sdk       *sdkService
	creations *creations
	transport transport
	bridge    *bridge                   // nil: S2 is reached without a proxy
	s2s       *s2s.Client               // nil: read sessions are the SDK's
	feeds     *feeds                    // nil: read sessions are the SDK's
	appends   *s2s.Client               // for append sessions
	base      func(basin string) string // the URL of a basin's endpoint; nil: the managed S2's
}

// transport makes unary calls, and keeps connections for them.
type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// Open returns a Log. It does not call S2 yet.
func Open(cfg Config) (*Log, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("s2: %w", err)
	}
	l := &Log{logCalls: logCalls{cfg: cfg, metrics: newMetrics(cfg.Metrics, newHealth(cmp.Or(cfg.Endpoint, managedEndpoint), cfg.Logger))}}
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
	l.base, l.appends = base, s2s.NewClient(s2s.Config{Token: l.cfg.Token, UserAgent: "fantail", Silence: l.cfg.silence, SendBuffer: appendSendBuffer})
	sdk := &sdkService{client: l.client, silence: l.cfg.silence, basins: basinCache[*s2.BasinClient]{newBasin: l.client.Basin}}
	l.sdk, l.creations = sdk, newCreations(l.basinConfig, l.cfg.Logger)
	if l.service = sdk; !cfg.SDKSessions {
		own := newS2SService(sdk, &l.cfg, base)
		l.service, l.s2s = own, own.sessions
		registerWindows(cfg.Metrics, own.sessions)
		l.feeds = &feeds{calls: &l.logCalls, service: own, workers: newWorkers(runtime.GOMAXPROCS(0))}
	}
	return l, nil
}

// Feed implements shard.Feeder.
func (l *Log) Feed(id shard.StreamID, f shard.Follower) (shard.Feed, bool) {
	if l.feeds == nil {
		return nil, false
	}
	return l.feeds.start(id, f), true
}

// FeedBytes implements shard.Feeder.
func (l *Log) FeedBytes() int {
	if l.feeds == nil {
		return sdkSessionBytes
	}
	return feedBytes
}

// Close closes idle connections, and read sessions that still run. Sessions of the SDK end with their
// contexts.
func (l *Log) Close() error {
	l.creations.close()
	l.transport.CloseIdleConnections()
	_ = l.appends.Close()
	if l.s2s != nil {
		_ = l.s2s.Close()
		l.feeds.workers.wait()
	}
	if l.bridge != nil {
		return l.bridge.close()
	}
	return nil
}

// sdkService is the S2 that the SDK calls.
type sdkService struct {
	client  *s2.Client
	basins  basinCache[*s2.BasinClient]
	silence time.Duration // Config.silence
}

func (s *sdkService) stream(basin, name string) *s2.StreamClient {
	return s.basins.get(basin).Stream(s2.StreamName(name))
}

func (s *sdkService) ensureBasin(ctx context.Context, basin string) error {
	// PUT would reset the configuration of a basin that is there.
	_, err := s.client.Basins.Create(ctx, s2.CreateBasinArgs{
		Basin: s2.BasinName(basin), Config: &s2.BasinConfig{CreateStreamOnAppend: new(true), DefaultStreamConfig: neededConfig()},
	})
	if hasCode(err, "resource_already_exists") {
		return nil
	}
	return err
}

func (s *sdkService) ensureStream(ctx context.Context, basin, name string) error {
	_, err := s.basins.get(basin).Streams.Ensure(ctx, s2.EnsureStreamArgs{
		Stream: s2.StreamName(name), Config: neededConfig(),
	})
	return err
}

func (s *sdkService) isCapped(ctx context.Context, basin, name string) (bool, error) {
	c, err := s.basins.get(basin).Streams.GetConfig(ctx, s2.StreamName(name))
	if err != nil {
		return false, err
	}
	return c == nil || isCapped(c.Timestamping), nil
}

func (s *sdkService) append(ctx context.Context, basin, name string, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	in := &s2.AppendInput{Records: make([]s2.AppendRecord, len(batch)), MatchSeqNum: new(uint64(at))}
	for i, e := range batch {
		in.Records[i] = toSDKRecord(e)
	}
	ack, err := s.stream(basin, name).Append(ctx, in)
	if err != nil {
		return shard.Ack{}, err
	}
	return shard.Ack{
		Start: shard.Pos(ack.Start.SeqNum), End: shard.Pos(ack.End.SeqNum),
		StartTime: shard.Millis(ack.Start.Timestamp), EndTime: shard.Millis(ack.End.Timestamp),
	}, nil
}

func (s *sdkService) read(ctx context.Context, basin, name string, start readStart, count int) (shard.Page, error) {
	o := &s2.ReadOptions{Count: new(uint64(count))}
	if start.maxBytes > 0 {
		o.Bytes = new(uint64(start.maxBytes))
	}
	switch {
	case start.fromEnd:
		o.TailOffset = new(int64(count))
	case start.since != nil:
		o.Timestamp = new(uint64(*start.since))
	default:
		o.SeqNum = new(uint64(start.pos))
	}
	b, err := s.stream(basin, name).Read(ctx, o)
	if err != nil {
		return shard.Page{}, err
	}
	p := shard.Page{Records: make([]shard.Record, len(b.Records))}
	for i, r := range b.Records {
		p.Records[i] = fromSDKRecord(r)
	}
	if b.Tail != nil {
		p.Tail, p.HasTail = shard.Pos(b.Tail.SeqNum), true
	}
	return p, nil
}

func (s *sdkService) tail(ctx context.Context, basin, name string) (shard.Pos, error) {
	t, err := s.stream(basin, name).CheckTail(ctx)
	if err != nil {
		return 0, err
	}
	return shard.Pos(t.Tail.SeqNum), nil
}
