package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2"
)

// nodeFlags holds what a node's process is told.
type nodeFlags struct {
	name, join, endpoint string
	exclusive            bool
}

// beginsFleet is -join of a fleet's first node.
const beginsFleet = "first"

// node is one node: what cmd/fantail puts together, without metrics.
type node struct {
	host  *shard.Manager
	relay *cluster.Node // nil: a lone node
	at    string        // URL of its public address
	ahead atomic.Int64  // how far the clock of its Host is ahead, in ns
}

func runNode(f nodeFlags) error {
	ctx := context.Background()
	log, err := s2.Open(s2.Config{Endpoint: f.endpoint, Basin: basin})
	if err != nil {
		return err
	}
	n := &node{}
	cfg := shard.Config{Now: n.now, ColdOpens: 1e6}
	if f.exclusive {
		cfg.Mode = shard.ModeExclusive
	}
	tails := shard.NewTailBuffers(0, 0)
	n.host = shard.NewManager(log, tails, cfg)
	var all edge.Backend = n.host
	if f.join != "" {
		fleet := cluster.Config{
			Name: f.name, FleetName: "bench", Secrets: [][]byte{[]byte("0123456789abcdef")},
			GossipAddr: "127.0.0.1:0", RelayAddr: "127.0.0.1:0",
		}
		if f.join != beginsFleet {
			fleet.Join = []string{f.join}
		}
		if n.relay, err = cluster.Join(ctx, fleet, n.host, tails); err != nil {
			return err
		}
		all = n.relay
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	n.at = "http://" + l.Addr().String()
	public := edge.New(edge.Config{}, all).HTTPServer()
	served := make(chan error, 1)
	go func() { served <- public.Serve(edge.Listen(l)) }()
	child.Serve(func(line string) (string, error) { return n.answer(ctx, line) })
	errs := []error{public.Close()}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		errs = append(errs, err)
	}
	if n.relay != nil {
		errs = append(errs, n.relay.Close())
	}
	return errors.Join(append(errs, n.host.Close(), log.Close())...)
}

func (n *node) answer(ctx context.Context, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	what, arg, _ := strings.Cut(line, " ")
	count, _ := strconv.Atoi(arg)
	switch what {
	case "http":
		return n.at, nil
	case "gossip":
		gossip, _ := n.relay.ListenAddrs()
		return gossip, nil
	case "await":
		return "", n.relay.AwaitOwners(ctx, count)
	case "owner":
		return n.relay.View().TableAt(time.Now()).Owner(shard.StreamID(arg)).RingKey, nil
	case "warm":
		return "", parallel.Do(count, func(i int) error { return n.create(ctx, "warm", i) })
	case "create":
		return "", parallel.Do(count, func(i int) error { return n.create(ctx, "bench", i) })
	case "follow":
		return "", parallel.Do(count, func(i int) error { return n.follow(ctx, "bench", i) })
	case "idle":
		return "", n.awaitIdle(ctx)
	case "memory":
		return memory()
	}
	return "", fmt.Errorf("%q", line)
}

// memory returns what the process holds after a collection, in bytes: heap and
// stacks, and all that the system counts.
func memory() (string, error) {
	var m runtime.MemStats
	for range 3 {
		debug.FreeOSMemory()
	}
	runtime.ReadMemStats(&m)
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return "", fmt.Errorf("statm: %q", b)
	}
	resident, err := strconv.ParseUint(fields[1], 10, 64)
	return fmt.Sprint(m.HeapAlloc+m.StackInuse, resident*uint64(os.Getpagesize())), err
}

func numbered(project string, i int) shard.StreamID {
	return shard.StreamID(fmt.Sprintf("%s/%d", project, i))
}

func (n *node) create(ctx context.Context, project string, i int) error {
	out, err := n.host.Do(ctx, &shard.Request{
		Stream: numbered(project, i), Op: shard.OpCreate, ID: shard.NewAppendID(),
		MintedMillis: shard.Millis(time.Now().UnixMilli()), Type: "text/plain",
	})
	if err == nil && !out.Code.Accepted() {
		err = errors.New(out.Why)
	}
	return err
}

// follow follows until the process ends.
func (n *node) follow(ctx context.Context, project string, i int) error {
	_, _, err := n.host.Follow(ctx, numbered(project, i), 0)
	return err
}

// now returns the time of the Manager's clock.
func (n *node) now() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) }

// awaitIdle sets the clock ahead by more than an unused stream is kept, and waits
// until the node has released all.
func (n *node) awaitIdle(ctx context.Context) error {
	n.ahead.Add(int64(10 * time.Minute))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for len(n.host.OwnedStreams()) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d streams are still held", len(n.host.OwnedStreams()))
		}
	}
	return nil
}
