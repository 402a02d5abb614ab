package s2

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2/s2s"
)

// s2sService makes its calls with the SDK, and its read sessions with package s2s, where thousands of
// them share a few connections and goroutines.
type s2sService struct {
	*sdkService
	sessions *s2s.Client
	// base returns the URL of a basin's endpoint; nil: the managed S2's.
	base func(basin string) string
}

func newS2SService(sdk *sdkService, cfg *Config, base func(string) string) *s2sService {
	return &s2sService{sdk, s2s.NewClient(s2s.Config{Token: cfg.Token, UserAgent: "fantail", Silence: cfg.silence, WindowBytes: cfg.WindowBytes}), base}
}

func (s *s2sService) target(basin, name string) s2s.Target {
	if s.base == nil {
		return s2s.Target{Base: "https://" + basin + managedBasinSuffix + "/v1", Stream: name}
	}
	return s2s.Target{Base: s.base(basin), Basin: basin, Stream: name}
}

// batches holds scratch memory for sessions that have something to deliver.
var batches = sync.Pool{New: func() any { return new(s2s.Batch) }}

// runSession implements service. The goroutine waits for the session's wake, and takes what has
// arrived.
func (s *s2sService) runSession(
	ctx context.Context, basin, name string, from shard.Pos, count uint64, opened func(), fn func(shard.Page) error,
) error {
	o := s2s.ReadOptions{SeqNum: new(uint64(from))}
	if count > 0 {
		o.Count, o.Wait = &count, new(uint64)
	}
	woken := make(chan struct{}, 1)
	session, err := s.sessions.OpenRead(ctx, s.target(basin, name), o, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	defer session.Close()
	for {
		select {
		case <-woken:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := deliverArrived(session, &opened, fn); err != nil {
			return sessionError(err)
		}
	}
}

// deliverArrived calls fn with all that has arrived on a session, and opened before the first time.
func deliverArrived(session *s2s.ReadSession, opened *func(), fn func(shard.Page) error) error {
	b, ok := batches.Get().(*s2s.Batch)
	if !ok {
		return errors.New("not a batch")
	}
	defer batches.Put(b)
	for {
		more, err := session.TakeBatch(b)
		if (more || errors.Is(err, io.EOF)) && *opened != nil {
			(*opened)()
			*opened = nil
		}
		if !more {
			return err
		}
		if err := fn(fromBatch(b)); err != nil {
			return &callerError{err}
		}
	}
}

// sessionError returns the error of a session as service has it.
func sessionError(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return toSDKError(err)
}

// fromBatch returns what a session brought as a page. It shares the bytes of the records.
func fromBatch(b *s2s.Batch) shard.Page {
	p := shard.Page{Tail: shard.Pos(b.Tail.SeqNum), HasTail: b.HasTail}
	if len(b.Records) > 0 {
		p.Records = make([]shard.Record, len(b.Records))
	}
	for i := range b.Records {
		p.Records[i] = fromS2SRecord(&b.Records[i])
	}
	return p
}
