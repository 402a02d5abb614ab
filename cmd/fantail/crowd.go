package main

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// crowd holds the readers that a developer adds in the playground: event streams over HTTP, spread over
// the nodes, as browsers open them. Each has a goroutine. A reader whose connection ends comes back at
// another node.
type crowd struct {
	origins   func() []string // of the nodes that run
	client    *http.Client
	connected atomic.Int64

	mu      sync.Mutex
	stream  string // the path of the stream that they read
	readers []context.CancelFunc
	wg      sync.WaitGroup
}

const (
	// maxCrowd bounds the readers. Each costs two descriptors and some 50 KB: both ends of its
	// connection are in this process.
	maxCrowd = 1000
	// crowdPause says how long a reader waits before it comes back.
	crowdPause = 300 * time.Millisecond
)

func newCrowd(origins func() []string) *crowd {
	return &crowd{origins: origins, client: &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true, ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10}}}
}

// crowdReport holds how many readers there should be, and are.
type crowdReport struct {
	Wanted    int `json:"wanted"`
	Connected int `json:"connected"`
	Limit     int `json:"limit"`
}

func (c *crowd) report() crowdReport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return crowdReport{len(c.readers), int(c.connected.Load()), maxCrowd}
}

// set has n readers read the stream with that path. Those of another stream end.
func (c *crowd) set(stream string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := min(n, len(c.readers))
	if stream != c.stream {
		keep = 0
	}
	for _, end := range c.readers[keep:] {
		end()
	}
	c.readers, c.stream = c.readers[:keep], stream
	for i := keep; i < n; i++ {
		ctx, cancel := context.WithCancel(context.Background())
		c.readers = append(c.readers, cancel)
		c.wg.Go(func() { c.run(ctx, i, stream) })
	}
	if n == 0 {
		c.wg.Wait()
	}
}

// run reads until ctx ends, at one node after the other.
func (c *crowd) run(ctx context.Context, i int, stream string) {
	for try := i; ctx.Err() == nil; try++ {
		if origins := c.origins(); len(origins) > 0 {
			c.read(ctx, origins[try%len(origins)]+stream+"?live=sse&offset=now")
		}
		select {
		case <-time.After(crowdPause):
		case <-ctx.Done():
		}
	}
}

// read reads events until the connection ends.
func (c *crowd) read(ctx context.Context, url string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	a, err := c.client.Do(r)
	if err != nil {
		return
	}
	defer func() { _ = a.Body.Close() }()
	if a.StatusCode != http.StatusOK {
		return
	}
	c.connected.Add(1)
	defer c.connected.Add(-1)
	_, _ = io.Copy(io.Discard, a.Body)
}
