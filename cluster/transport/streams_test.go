package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// testStreams serves streams that are only tail buffers. Those that it does not have are not found.
type testStreams struct {
	tails    map[shard.StreamID]*shard.TailBuffer
	isMember func(peer string) bool // which peers are members; nil: all

	wg        sync.WaitGroup              // the functions of SubmitOpen
	busy      chan struct{}               // SubmitOpen waits until it is closed; nil: it does not
	full      bool                        // SubmitOpen refuses
	follows   atomic.Int64                // calls of StartFeed
	feeds     atomic.Int64                // feeds that were not released
	readers   atomic.Int64                // the sum of AddReaders
	reports   atomic.Int64                // calls of AddReaders
	countless bool                        // no number is known
	awaited   atomic.Int64                // waits for a creation that were not stopped
	created   atomic.Pointer[shard.Waker] // of the last of them
}

// CheckOwnership implements Streams.
func (*testStreams) CheckOwnership(context.Context, shard.StreamID, placement.Route) error {
	return nil
}

// Write implements Streams.
func (*testStreams) Write(context.Context, *shard.Request, bool) (o shard.Outcome, err error) {
	return o, shard.ErrNotFound
}

// Info implements Streams.
func (*testStreams) Info(context.Context, shard.StreamID, shard.InfoOptions, bool) (i shard.Info, err error) {
	return i, shard.ErrNotFound
}

// ReadPage implements Streams.
func (*testStreams) ReadPage(context.Context, shard.StreamID, shard.Info, shard.Pos) (r shard.RecordBatch, err error) {
	return r, shard.ErrNotFound
}

// FindTime implements Streams.
func (*testStreams) FindTime(context.Context, shard.StreamID, shard.Info, shard.Millis) (shard.Pos, error) {
	return 0, shard.ErrNotFound
}

// SubmitOpen implements Streams.
func (s *testStreams) SubmitOpen(_ shard.StreamID, fn func()) bool {
	if s.full {
		return false
	}
	s.wg.Go(func() {
		if s.busy != nil {
			<-s.busy
		}
		fn()
	})
	return true
}

// StartFeed implements Streams.
func (s *testStreams) StartFeed(_ context.Context, id shard.StreamID, _ shard.Pos, _ bool) (*shard.TailBuffer, func(), error) {
	s.follows.Add(1)
	t := s.tails[id]
	if t == nil {
		return nil, nil, shard.ErrNotFound
	}
	s.feeds.Add(1)
	return t, sync.OnceFunc(func() { s.feeds.Add(-1) }), nil
}

// AwaitCreation implements Streams.
func (s *testStreams) AwaitCreation(_ context.Context, id shard.StreamID, _ bool, w shard.Waker) (stop func(), exists bool, err error) {
	if s.tails[id] != nil {
		return nil, true, nil
	}
	s.awaited.Add(1)
	s.created.Store(&w)
	return sync.OnceFunc(func() { s.awaited.Add(-1) }), false, nil
}

// AddReaders implements Streams.
func (s *testStreams) AddReaders(_ shard.StreamID, delta int) {
	s.readers.Add(int64(delta))
	s.reports.Add(1)
}

// KnownReaders implements Streams.
func (s *testStreams) KnownReaders(shard.StreamID) (n int, known bool) {
	return int(s.readers.Load()), !s.countless
}

// ServeOffered implements Streams.
func (*testStreams) ServeOffered(context.Context, shard.StreamID) error { return nil }

// HandOver implements Streams.
func (*testStreams) HandOver(context.Context, shard.StreamID, shard.Pos, placement.PeerAddr) (h shard.Handover, found bool, err error) {
	return h, false, errors.New("not the stream's owner")
}

// IsMember implements Streams.
func (s *testStreams) IsMember(peer string) bool { return s.isMember == nil || s.isMember(peer) }

// Report implements Streams.
func (*testStreams) Report(_ context.Context, question []byte) ([]byte, error) { return question, nil }

// StatusFor implements Streams.
func (*testStreams) StatusFor(string) Status { return Status{} }

// batchOf returns a batch with one message, at one position.
func batchOf(at uint64, size int) shard.RecordBatch {
	b := make([]byte, 52+size)
	b[0] = 1
	binary.BigEndian.PutUint32(b[4:], 1)
	binary.BigEndian.PutUint64(b[8:], at)
	binary.BigEndian.PutUint64(b[16:], at+1)
	binary.BigEndian.PutUint64(b[24:], at+1)
	binary.BigEndian.PutUint32(b[44:], 1)
	binary.BigEndian.PutUint32(b[48:], uint32(size))
	r, err := shard.ParseBatch(b)
	if err != nil {
		panic(err)
	}
	return r
}

// recorder is a Subscriber that records what it gets.
type recorder struct {
	mu         sync.Mutex
	subscribed bool
	next       shard.Pos // everything below it has come
	gaps       int
	end        error
	lost       bool
}

// OnSubscribed implements Subscriber.
func (r *recorder) OnSubscribed(_ *Subscription, _ shard.Info, start shard.Pos) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscribed, r.next = true, max(r.next, start)
}

// OnRecords implements Subscriber.
func (r *recorder) OnRecords(_ *Subscription, b shard.RecordBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.From() > r.next {
		r.gaps++
	}
	r.next = max(r.next, b.To())
}

// OnOwnerMoved implements Subscriber.
func (r *recorder) OnOwnerMoved(*Subscription, placement.PeerAddr) {}

// OnSubscriptionEnd implements Subscriber.
func (r *recorder) OnSubscriptionEnd(_ *Subscription, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = why
}

// OnLinkLost implements Subscriber.
func (r *recorder) OnLinkLost(*Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = true
}

// has returns the position below which everything has come, how many gaps there were, and why it ended.
func (r *recorder) has() (next shard.Pos, gaps int, end error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next, r.gaps, r.end
}
