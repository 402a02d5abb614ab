package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// testNode is one node of a fleet over real sockets. All nodes share one Log, as they would share
// S2.
type testNode struct {
	*Node
	manager *shard.Manager
	tails   *shard.TailBuffers
	store   *faultyStore
	reg     *prometheus.Registry
	dead    bool
}

type fleet struct {
	*testing.T
	log   *logtest.Memory
	now   func() time.Time // the clock of the Log and of the stream managers; nil: the real one
	nodes []*testNode
}

func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	return newFleetAt(t, n, nil)
}

// newFleetAt returns a fleet with another clock for its streams.
func newFleetAt(t *testing.T, n int, now func() time.Time) *fleet {
	t.Helper()
	f := &fleet{T: t, log: logtest.NewMemory(1), now: now}
	f.log.Now = now
	for range n {
		f.add()
	}
	f.awaitAgreement()
	return f
}

// add starts one more node.
func (f *fleet) add(change ...func(*Config)) *testNode {
	f.Helper()
	reg := prometheus.NewRegistry()
	cfg := Config{
		Name: fmt.Sprintf("n%d", len(f.nodes)), FleetName: "test", Secrets: [][]byte{[]byte("0123456789abcdef")},
		GossipAddr: "127.0.0.1:0", RelayAddr: "127.0.0.1:0", ChangeNotice: -1, Metrics: reg,
	}
	if len(f.nodes) > 0 {
		gossip, _ := f.nodes[0].ListenAddrs()
		cfg.Join = []string{gossip}
	}
	for _, fn := range change {
		fn(&cfg)
	}
	s := &testNode{tails: shard.NewTailBuffers(0, 0), store: &faultyStore{Log: f.log}, reg: reg}
	s.manager = shard.NewManager(s.store, s.tails, shard.Config{Now: f.now, Metrics: reg})
	var err error
	if s.Node, err = Join(f.Context(), cfg, s.manager, s.tails); err != nil {
		f.Fatal(err)
	}
	f.nodes = append(f.nodes, s)
	f.Cleanup(func() {
		if !s.dead {
			_ = s.Close()
		}
		_ = s.manager.Close()
		if n := s.tails.Bytes(); n != 0 {
			f.Errorf("%s: %d bytes of Tails after everything is closed", s.self, n)
		}
	})
	return s
}

// metric returns a metric of the node, with the given value of its only label, if it has one.
func (s *testNode) metric(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, fam := range families {
		for _, m := range fam.GetMetric() {
			if fam.GetName() == name && (len(m.GetLabel()) == 0 || m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("%s has no metric %s", s.self, name)
	return 0
}

func (f *fleet) living() (all []*testNode) {
	for _, s := range f.nodes {
		if !s.dead {
			all = append(all, s)
		}
	}
	return all
}

// awaitAgreement waits until all living nodes agree and reach each other.
func (f *fleet) awaitAgreement() {
	f.Helper()
	all := f.living()
	f.eventually("the fleet is settled", func() bool {
		for _, s := range all {
			if t := s.currentTable(); t.Len() != len(all) || !s.reachesAll(t) {
				return false
			}
		}
		return true
	})
}

// killNode ends a node as a process that dies: no goodbye, connections cut.
func (f *fleet) killNode(s *testNode) {
	s.dead = true
	_ = s.shutDown(false)
	_ = s.manager.Close()
}

func (f *fleet) eventually(what string, ok func() bool) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Fatalf("does not happen: %s", what)
		}
	}
}

// streamOwnedBy returns a stream that node s owns.
func (f *fleet) streamOwnedBy(s *testNode) shard.StreamID {
	for i := 0; ; i++ {
		id := shard.StreamID(fmt.Sprintf("default/%d", i))
		if s.currentTable().Owner(id).Name == s.self {
			return id
		}
	}
}

func write(id shard.StreamID, op shard.Op, messages ...string) *shard.Request {
	q := &shard.Request{
		Stream: id, Op: op, ID: shard.NewAppendID(), Type: "text/plain",
		MintedMillis: shard.MillisOf(time.Now()),
	}
	for _, m := range messages {
		q.Messages.Add([]byte(m))
	}
	return q
}

func (f *fleet) mustDo(s *testNode, q *shard.Request, want shard.Code) shard.Outcome {
	f.Helper()
	out, err := s.Do(f.Context(), q)
	if err != nil || out.Code != want {
		f.Fatalf("code %d %s (%v), want %d", out.Code, out.Why, err, want)
	}
	return out
}

// streamReader is one reader of a stream on a node.
type streamReader struct {
	tail    *shard.TailBuffer
	release func()
	node    *testNode
	id      shard.StreamID
	pos     shard.Pos
	got     []string
}

func (f *fleet) startReader(s *testNode, id shard.StreamID) *streamReader {
	f.Helper()
	info, err := s.Info(f.Context(), id, 0)
	if err != nil {
		f.Fatal(err)
	}
	tail, release, err := s.Follow(f.Context(), id, info.Start)
	if err != nil {
		f.Fatal(err)
	}
	release = sync.OnceFunc(release)
	r := &streamReader{tail: tail, release: release, node: s, id: id, pos: info.Start}
	f.Cleanup(release)
	return r
}

// readAvailable reads what there is now. It returns an error once the tail buffer has ended.
func (r *streamReader) readAvailable(ctx context.Context) error {
	for {
		ranges, st := r.tail.ReadAt(r.pos, 1<<20, nil)
		if st == shard.StatusGone {
			return r.tail.EndError()
		}
		if st == shard.StatusBelow {
			page, err := r.node.ReadPage(ctx, r.id, r.tail.Info(), r.pos)
			if err != nil {
				return err
			}
			ranges = append(ranges, page)
		}
		for _, g := range ranges {
			for i := g.Search(r.pos); i < g.Len(); i++ {
				r.got = append(r.got, string(g.Message(i).Body))
			}
			r.pos = max(r.pos, g.To())
		}
		if len(ranges) == 0 {
			return nil
		}
	}
}

// awaitMessages waits until the reader has exactly these messages.
func (f *fleet) awaitMessages(r *streamReader, want []string) {
	f.Helper()
	f.eventually(fmt.Sprintf("%d messages on %s", len(want), r.node.self), func() bool {
		if err := r.readAvailable(f.Context()); err != nil {
			f.Fatalf("%s: %v after %d messages", r.node.self, err, len(r.got))
		}
		return len(r.got) >= len(want)
	})
	if strings.Join(r.got, ",") != strings.Join(want, ",") {
		f.Fatalf("%s: %.200q, want %.200q", r.node.self, r.got, want)
	}
}
