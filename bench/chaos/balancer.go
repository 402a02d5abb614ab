package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
)

// balancer stands for a load balancer with a health check each second: a node that says it is not
// ready gets no new connections, and after two checks without any answer the connections that it
// has are cut.
type balancer struct {
	fleet  *fleet
	ready  atomic.Pointer[[]string] // addresses
	losses atomic.Int64             // times that a node was taken out
	spare  atomic.Bool              // readers are not cut

	mu     sync.Mutex
	failed map[*node]int
	over   map[string]context.CancelCauseFunc // ends the requests to a node
	during map[string]context.Context
	herds  []*herd
}

func startBalancer(f *fleet) *balancer {
	b := &balancer{
		fleet: f, failed: map[*node]int{}, over: map[string]context.CancelCauseFunc{},
		during: map[string]context.Context{},
	}
	b.ready.Store(&[]string{})
	go func() {
		for range time.Tick(time.Second) {
			b.check()
		}
	}()
	return b
}

// check asks every node once. It alone changes what is ready.
func (b *balancer) check() {
	var checks sync.WaitGroup
	var mu sync.Mutex
	var ready []string
	var dead []*node
	was := b.nodes()
	b.fleet.each(func(n *node) {
		checks.Go(func() {
			status, err := b.fleet.ask.Get("http://" + n.admin() + "/readyz")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				b.failed[n] = 0
			} else if b.failed[n]++; b.failed[n] == 2 {
				dead = append(dead, n)
			}
			// One check without an answer says nothing yet.
			if err == nil && status == http.StatusOK || b.failed[n] == 1 && slices.Contains(was, n.http()) {
				ready = append(ready, n.http())
			}
		})
	})
	checks.Wait()
	slices.Sort(ready)
	if !slices.Equal(ready, was) {
		for _, at := range was {
			if !slices.Contains(ready, at) {
				b.losses.Add(1)
			}
		}
		b.ready.Store(&ready)
		for _, h := range b.all() {
			h.offer(ready)
		}
	}
	for _, n := range dead {
		b.cut(n)
	}
}

func (b *balancer) cut(n *node) {
	b.mu.Lock()
	if over := b.over[n.http()]; over != nil {
		over(errCut)
		delete(b.over, n.http())
	}
	b.mu.Unlock()
	if b.spare.Load() {
		return
	}
	for _, h := range b.all() {
		h.cut(n.http())
	}
}

func (b *balancer) all() []*herd {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.herds)
}

// serve adds readers that it offers nodes to.
func (b *balancer) serve(h *herd) {
	b.mu.Lock()
	b.herds = append(b.herds, h)
	b.mu.Unlock()
	h.offer(b.nodes())
}

// leave takes them away again.
func (b *balancer) leave(h *herd) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.herds = slices.DeleteFunc(b.herds, func(o *herd) bool { return o == h })
}

// nodes lists the nodes that are ready.
func (b *balancer) nodes() []string { return *b.ready.Load() }

// connected returns a context that ends when the balancer cuts off a node.
func (b *balancer) connected(at string) context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over[at] == nil {
		b.during[at], b.over[at] = context.WithCancelCause(context.Background())
	}
	return b.during[at]
}

// herd is a crowd in a process of its own.
type herd struct {
	pin string // the only node that it may use; "": any

	mu   sync.Mutex
	peer *child.Peer
}

func (h *herd) ask(line string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peer.Ask(line)
}

func (h *herd) offer(nodes []string) {
	if h.pin != "" {
		nodes = []string{h.pin}
	}
	_, _ = h.ask("ready " + strings.Join(nodes, " "))
}

func (h *herd) cut(at string) { _, _ = h.ask("cut " + at) }
