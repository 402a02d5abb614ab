// Command relay measures what a relayed stream costs while nothing happens: two
// nodes, each a process of its own; one owns the streams, the other follows them
// all. The owner's sessions at S2 are taken out of it by a Log in memory, and
// counted apart: first the owner follows every stream itself (that opens what
// stands for the session), then the other node follows.
//
//	go run ./bench/relay
//	go run ./bench/relay -load                 (records that flow, with TLS and without)
//	go run ./bench/relay -s2 -streams 2000     (with the SDK's real sessions)
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
	"github.com/fantail-dev/fantail/shard/s2"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

const basin = "fantail-bench"

func main() {
	streams := flag.Int("streams", 10_000, "relayed streams")
	withS2 := flag.Bool("s2", false, "keep the streams in an embedded S2, with the SDK's real sessions")
	node := flag.String("node", "", "run as this node, on behalf of the bench")
	join := flag.String("join", "", "gossip address of the first node")
	endpoint := flag.String("endpoint", "", "S2 of this node")
	plaintext := flag.String("plaintext", "never", "when this node speaks plaintext: always or never")
	withLoad := flag.Bool("load", false, "measure records that flow, with TLS and without, instead")
	rounds := flag.Int("rounds", 5, "rounds of -load")
	each := flag.Duration("for", 4*time.Second, "how long each measurement of -load takes")
	flag.Parse()
	var err error
	switch {
	case *node != "":
		err = runNode(*node, *join, *endpoint, *plaintext)
	case *withLoad:
		err = load(*rounds, *each)
	default:
		err = run(*streams, *withS2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

func run(streams int, withS2 bool) error {
	store, endpoint := "a Log in memory", ""
	if withS2 {
		s, err := s2dev.Open(s2dev.Config{Listen: "127.0.0.1:0", Basins: []string{basin}})
		if err != nil {
			return err
		}
		defer s.Close()
		store, endpoint = "an embedded S2, through the SDK", s.URL()
	}
	owner, err := start("owner", "", endpoint, "never")
	if err != nil {
		return err
	}
	defer owner.Stop()
	gossip, err := owner.Ask("gossip")
	if err != nil {
		return err
	}
	edge, err := start("edge", gossip, endpoint, "never")
	if err != nil {
		return err
	}
	defer edge.Stop()
	var stages [4]struct{ owner, edge int }
	for i, s := range []struct{ who, what string }{
		{}, {"owner", "create"}, {"owner", "follow"}, {"edge", "follow"},
	} {
		switch s.who {
		case "owner":
			_, err = owner.Ask(fmt.Sprintf("%s %d", s.what, streams))
		case "edge":
			_, err = edge.Ask(fmt.Sprintf("%s %d", s.what, streams))
		}
		if err != nil {
			return err
		}
		if stages[i].owner, err = memoryOf(owner); err != nil {
			return err
		}
		if stages[i].edge, err = memoryOf(edge); err != nil {
			return err
		}
	}
	per := func(after, before int) float64 { return float64(after-before) / float64(streams) }
	fmt.Printf("%d idle streams, kept in %s; bytes of heap and stacks for each\n\n", streams, store)
	fmt.Printf("%-58s %8.0f\n", "owner: the stream in memory", per(stages[1].owner, stages[0].owner))
	fmt.Printf("%-58s %8.0f\n", "owner: its Tail and its session", per(stages[2].owner, stages[1].owner))
	fmt.Printf("%-58s %8.0f\n", "owner: its subscription by the other node", per(stages[3].owner, stages[2].owner))
	fmt.Printf("%-58s %8.0f\n", "edge: its Tail and its subscription", per(stages[3].edge, stages[2].edge))
	return nil
}

func start(name, join, endpoint, plaintext string) (*child.Peer, error) {
	return child.Self("-node", name, "-join", join, "-endpoint", endpoint, "-plaintext", plaintext)
}

// memoryOf returns what a node's process holds, in bytes.
func memoryOf(p *child.Peer) (int, error) {
	s, err := p.Ask("memory")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(s)
}

// node is one of the two.
type node struct {
	host  *shard.Manager
	relay *cluster.Node
	ids   []shard.StreamID // those that the first node owns
	sink  sink
}

func runNode(name, join, endpoint, plaintext string) error {
	ctx := context.Background()
	var log shard.Log = logtest.NewMemory(1)
	if endpoint != "" {
		l, err := s2.Open(s2.Config{Endpoint: endpoint, Basin: basin})
		if err != nil {
			return err
		}
		log = l
	}
	tails := shard.NewTailBuffers(0, 0)
	n := &node{host: shard.NewManager(log, tails, shard.Config{IdleAfter: time.Hour, ColdOpens: 1e6})}
	cfg := cluster.Config{
		Name: name, FleetName: "bench", Secrets: [][]byte{[]byte("0123456789abcdef")},
		GossipAddr: "127.0.0.1:0", RelayAddr: "127.0.0.1:0", PlaintextMode: ways[plaintext],
	}
	if join != "" {
		cfg.Join = []string{join}
	}
	var err error
	if n.relay, err = cluster.Join(ctx, cfg, n.host, tails); err != nil {
		return err
	}
	child.Serve(func(line string) (string, error) { return n.answer(ctx, line) })
	return errors.Join(n.relay.Close(), n.host.Close())
}

func (n *node) answer(ctx context.Context, line string) (string, error) {
	what, arg, _ := strings.Cut(line, " ")
	count, _ := strconv.Atoi(arg)
	switch what {
	case "gossip":
		gossip, _ := n.relay.ListenAddrs()
		return gossip, nil
	case "memory":
		return strconv.Itoa(memory()), nil
	case "create":
		return "", n.each(ctx, count, n.create)
	case "follow":
		return "", n.each(ctx, count, n.follow)
	case "sink":
		return "", n.each(ctx, count, n.drain)
	case "latency":
		return n.sink.latencies(), nil
	case "bytes":
		return strconv.FormatInt(n.sink.bytes.Load(), 10), nil
	case "cpu":
		return fmt.Sprint(cpuTime()), nil
	case "send":
		var rate, size, ms int
		if _, err := fmt.Sscan(arg, &rate, &size, &ms); err != nil {
			return "", err
		}
		return n.send(ctx, rate, size, time.Duration(ms)*time.Millisecond)
	}
	return "", fmt.Errorf("%q", line)
}

// memory returns what the process holds after a collection, in bytes.
func memory() int {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// each calls fn, many concurrently, with each of the first count streams that the
// owner owns.
func (n *node) each(ctx context.Context, count int, fn func(context.Context, shard.StreamID) error) error {
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := n.relay.AwaitOwners(wait, 2); err != nil {
		return err
	}
	table := n.relay.View().TableAt(time.Now())
	for i := 0; len(n.ids) < count; i++ {
		id := shard.StreamID(fmt.Sprintf("bench/%d", i))
		if table.Owner(id).RingKey == "owner" {
			n.ids = append(n.ids, id)
		}
	}
	return parallel.Do(len(n.ids), func(i int) error { return fn(ctx, n.ids[i]) })
}

func (n *node) create(ctx context.Context, id shard.StreamID) error {
	out, err := n.relay.Do(ctx, &shard.Request{
		Stream: id, Op: shard.OpCreate, ID: shard.NewAppendID(),
		MintedMillis: shard.Millis(time.Now().UnixMilli()), Type: "text/plain",
	})
	if err == nil && !out.Code.Accepted() {
		err = errors.New(out.Why)
	}
	return err
}

// follow follows until the process ends.
func (n *node) follow(ctx context.Context, id shard.StreamID) error {
	_, _, err := n.relay.Follow(ctx, id, 0)
	return err
}

// drain follows and reads until the process ends.
func (n *node) drain(ctx context.Context, id shard.StreamID) error {
	t, _, err := n.relay.Follow(ctx, id, 0)
	if err == nil {
		go n.sink.read(t)
	}
	return err
}
