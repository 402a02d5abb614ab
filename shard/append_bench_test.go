package shard_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/fantail-dev/fantail/shard"
)

// ackingLog is a Log that keeps nothing: appends succeed immediately.
type ackingLog struct {
	tail atomic.Uint64
}

func (*ackingLog) Create(context.Context, shard.StreamID) error { return nil }

func (l *ackingLog) Append(_ context.Context, _ shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	end := at + shard.Pos(len(batch))
	l.tail.Store(uint64(end))
	return shard.Ack{Start: at, End: end, StartTime: 1, EndTime: 1}, nil
}

func (*ackingLog) Read(context.Context, shard.StreamID, shard.Pos, int) (shard.Page, error) {
	return shard.Page{}, nil
}

func (*ackingLog) Last(context.Context, shard.StreamID, int, int) (shard.Page, error) {
	return shard.Page{}, nil
}

func (*ackingLog) FirstSince(context.Context, shard.StreamID, shard.Millis) (shard.Page, error) {
	return shard.Page{}, nil
}

func (*ackingLog) Replay(context.Context, shard.StreamID, shard.Pos, shard.Pos, func(shard.Page) error) error {
	return nil
}

func (l *ackingLog) Tail(context.Context, shard.StreamID) (shard.Pos, error) {
	return shard.Pos(l.tail.Load()), nil
}
func (*ackingLog) OpenSessions() int { return 0 }

func (*ackingLog) Follow(ctx context.Context, _ shard.StreamID, _ shard.Pos, _ func(shard.Page) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func benchmarkAppend(b *testing.B, n int, m string) {
	h := shard.NewManager(&ackingLog{}, shard.NewTailBuffers(1<<20, 0), shard.Config{})
	b.Cleanup(func() { _ = h.Close() })
	do(b, h, create("text/plain"), shard.CodeCreated)
	msgs := make([]string, n)
	for i := range msgs {
		msgs[i] = m
	}
	req := appendReq("text/plain", msgs...)
	b.ReportAllocs()
	for b.Loop() {
		again := *req
		again.ID = shard.NewAppendID()
		if out, err := h.Do(b.Context(), &again); err != nil || out.Code != shard.CodeAppended {
			b.Fatal(out, err)
		}
	}
}

func BenchmarkAppendOne(b *testing.B)      { benchmarkAppend(b, 1, "a message") }
func BenchmarkAppendTen(b *testing.B)      { benchmarkAppend(b, 10, "a message") }
func BenchmarkAppendThousand(b *testing.B) { benchmarkAppend(b, 999, "a message") }
func BenchmarkAppendMost(b *testing.B)     { benchmarkAppend(b, shard.MaxMessages, "0") }
