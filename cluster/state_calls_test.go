package cluster

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// An answer goes only to callers that asked before its call was sent: a caller that asks after a
// write was acknowledged gets an answer that reflects it.
func TestStateCallsShareNoOldAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStateCalls(t.Context())
		var tail, calls atomic.Uint64
		call := func(context.Context) (shard.Info, error) {
			calls.Add(1)
			seen := tail.Load() // what the owner knows when it is asked
			<-time.After(100 * time.Millisecond)
			return shard.Info{Tail: shard.Pos(seen)}, nil
		}
		answers := make(chan error, 200)
		for i := range 200 {
			go func() {
				<-time.After(time.Duration(i) * 3 * time.Millisecond)
				asked := tail.Add(1) // a write was acknowledged, and then:
				info, err := s.callShared(t.Context(), stateCallKey{"s/s", 0}, call)
				if err == nil && info.Tail < shard.Pos(asked) {
					t.Errorf("an answer as of %d to a question at %d", info.Tail, asked)
				}
				answers <- err
			}()
		}
		for range 200 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		s.wg.Wait()
		if n := calls.Load(); n > 9 {
			t.Errorf("%d calls for 200 questions in 600 ms", n)
		}
		if len(s.byKey) != 0 {
			t.Errorf("%d flights left", len(s.byKey))
		}
	})
}

// A call that no caller waits for any more is cancelled.
func TestStateCallWithoutWaitersIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStateCalls(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := s.callShared(ctx, stateCallKey{"s/s", 0}, func(ctx context.Context) (shard.Info, error) {
			<-ctx.Done()
			return shard.Info{}, ctx.Err()
		})
		if err == nil {
			t.Error("no error")
		}
		s.wg.Wait()
	})
}
