package s2

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// An append to an S2 that does not answer holds no more memory than the budget counts for it.
func TestAppendHoldsNoMoreThanIsCountedForIt(t *testing.T) {
	came, free := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		came <- struct{}{}
		<-free
	}))
	log, err := Open(Config{Endpoint: srv.URL, Basin: testBasin, timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	for _, c := range []struct{ records, size int }{{1, 1}, {1, 1<<20 - 1024}, {shard.MaxBatchRecords, 1}, {shard.MaxBatchRecords, 900}} {
		const appends = 16
		batch := make([]shard.Entry, c.records)
		for i := range batch {
			batch[i] = shard.Entry{Header: make([]byte, 8), Body: make([]byte, c.size)}
		}
		before := inUse()
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range appends {
			wg.Go(func() { _, _ = log.Append(ctx, id, 0, batch) })
		}
		for range appends {
			<-came
		}
		held := (inUse() - before) / appends
		size := c.records * c.size
		counted := int64(shard.RequestCost(size, c.records) - size)
		t.Logf("%d records of %d bytes: %d bytes are held beside them, %d counted", c.records, c.size, held, counted)
		const connection = 24 << 10 // for both ends of a connection, which stays
		if held > counted+counted/50+connection {
			t.Error("more is held than counted")
		}
		for range appends {
			free <- struct{}{}
		}
		wg.Wait()
		cancel()
	}
	srv.Close()
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
