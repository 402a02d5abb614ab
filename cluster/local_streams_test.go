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

// silentSource stands for previous owners that do not answer.
type silentSource struct {
	noHandover
	fetches int
}

func (s *silentSource) fetchHandover(context.Context, shard.StreamID, bool, func(shard.Handover)) {
	s.fetches++
	<-time.After(handoverTimeout)
}

// A previous owner that does not answer delays all callers for a stream together, and not one after
// the other.
func TestAllCallersShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &silentSource{}
		l := newLocalStreams(&slowHost{}, source)
		began := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := l.info(t.Context(), "s/x", 0, false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); source.fetches != 1 || took > handoverTimeout+time.Second {
			t.Errorf("fetched %d times, in %v", source.fetches, took)
		}
	})
}
