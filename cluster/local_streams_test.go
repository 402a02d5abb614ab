package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// slowHost needs time to open a stream that it does not have.
type slowHost struct {
	streamManager
	has atomic.Bool
}

func (h *slowHost) HasStream(shard.StreamID) bool { return h.has.Load() }

func (h *slowHost) Info(context.Context, shard.StreamID, shard.InfoOptions) (shard.Info, error) {
	<-time.After(time.Millisecond) // in a bubble: others run before it has the stream
	h.has.Store(true)
	return shard.Info{}, nil
}

// A previous owner that does not answer delays all callers for a stream together, and not one after
// the other.
func TestAllCallersShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetches := 0
		h := newLocalStreams(&slowHost{}, func(context.Context, shard.StreamID) (shard.Handover, bool) {
			fetches++
			<-time.After(handoverTimeout)
			return shard.Handover{}, false
		})
		began := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := h.info(t.Context(), "s/x", 0, false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); fetches != 1 || took > handoverTimeout+time.Second {
			t.Errorf("fetched %d times, in %v", fetches, took)
		}
	})
}
