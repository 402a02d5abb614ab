package main

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/fleet"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// crowd is readers of event streams.
type crowd struct {
	sys    *system
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	got    []*reader
}

// reader follows one stream; when its connection ends it asks the next node for what
// comes after its last event.
type reader struct {
	up       atomic.Bool
	messages atomic.Int64
}

func newCrowd(s *system) *crowd {
	c := &crowd{sys: s}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// add starts a reader at a node.
func (c *crowd) add(path string, node int) {
	r := &reader{}
	c.got = append(c.got, r)
	c.wg.Go(func() {
		for offset := "-1"; c.ctx.Err() == nil; node = (node + 1) % nodeCount {
			offset = r.follow(c.ctx, fleet.HTTP(node)+path+"?live=sse&offset="+offset, offset)
			r.up.Store(false)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-c.ctx.Done():
			}
		}
	})
}

// follow reads until the connection ends and returns the offset to go on from.
func (r *reader) follow(ctx context.Context, url, offset string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return offset
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return offset
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return offset
	}
	r.up.Store(true)
	var id string
	data := false
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "id:"):
			id = strings.TrimSpace(line[len("id:"):])
		case line == "event: data":
			data = true
		case data && strings.HasPrefix(line, "data:"):
			r.messages.Add(1)
		case line == "":
			if id != "" {
				offset = id // the event is complete
			}
			data = false
		}
	}
	return offset
}

// all waits until every reader is connected and has n messages.
func (c *crowd) all(n int) error {
	return wait.For(patience, "each reader has each message once", func() bool {
		for _, r := range c.got {
			if !r.up.Load() || r.messages.Load() != int64(n) {
				return false
			}
		}
		return true
	})
}

func (c *crowd) leave() {
	c.cancel()
	c.wg.Wait()
}
