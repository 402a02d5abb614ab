package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// The scripts in testdata/handover are fleets over real sockets, with nodes n0, n1, …, in which one
// stream gets another owner.
//
//	fleet 2                       two nodes
//	stream owner=n0 [then=n2] [joining=1]  the stream that the following commands mean: n0 owns it, and n2
//	                              does once so many nodes have joined, or without n0
//	create n0 / append a [via=n1] a write through a node
//	read n1                       a reader on a node
//	received                      waits until all readers have all messages
//	join [2] / leave n0 / kill n0 nodes join together, one leaves in order, or dies
//	cost                          what the change has cost since the command before it
func TestHandoverScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/handover", func(t *testing.T, path string) {
		t.Parallel()
		s := &handoverScript{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if s.fleet == nil {
				s.fleet = newFleet(t, 0)
			}
			return s.run(d)
		})
	})
}

type handoverScript struct {
	*fleet
	id      shard.StreamID
	want    []string
	readers []*streamReader
	before  handoverCost
}

// handoverCost counts what a change of owners costs.
type handoverCost struct {
	reads                 int
	given, received, lost float64
}

func (s *handoverScript) cost() (c handoverCost) {
	ops := s.log.Ops()
	c.reads = ops.Reads + ops.Replays
	for _, n := range s.nodes {
		c.given += testutil.ToFloat64(n.metrics.handovers.given)
		c.received += testutil.ToFloat64(n.metrics.handovers.received)
		c.lost += testutil.ToFloat64(n.metrics.handovers.lost)
	}
	return c
}

func (s *handoverScript) node(name string) *testNode {
	for i, n := range s.nodes {
		if fmt.Sprint("n", i) == name {
			return n
		}
	}
	s.Fatalf("no node %s", name)
	return nil
}

func (s *handoverScript) run(d *datadriven.TestData) string {
	arg := ""
	if len(d.CmdArgs) > 0 {
		arg = d.CmdArgs[0].Key
	}
	via := "n0"
	d.MaybeScanArgs(s.T, "via", &via)
	switch d.Cmd {
	case "fleet", "join":
		return s.join(arg)
	case "stream":
		return s.pickStream(d)
	case "create":
		s.mustDo(s.node(arg), write(s.id, shard.OpCreate), shard.CodeCreated)
		return "created"
	case "append":
		s.mustDo(s.node(via), write(s.id, shard.OpAppend, arg), shard.CodeAppended)
		s.want = append(s.want, arg)
		return "appended"
	case "read":
		s.readers = append(s.readers, s.startReader(s.node(arg), s.id))
		return "fed"
	case "received":
		for _, r := range s.readers {
			s.awaitMessages(r, s.want)
		}
		return fmt.Sprintf("%d readers have %s", len(s.readers), strings.Join(s.want, " "))
	case "leave":
		ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
		defer cancel()
		if err := s.node(arg).Leave(ctx); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s owns nothing, and holds %d streams", arg, len(s.node(arg).manager.OwnedStreams()))
	case "kill":
		s.killNode(s.node(arg))
		s.awaitAgreement()
		return s.owner()
	case "owner":
		return s.owner()
	case "cost":
		return s.reportCost()
	default:
		s.Fatalf("unknown command %s", d.Cmd)
		return ""
	}
}

// join adds nodes, which begin together where there are others.
func (s *handoverScript) join(n string) string {
	count := 1
	if n != "" {
		_, _ = fmt.Sscan(n, &count)
	}
	began := len(s.nodes) == 0
	for range count {
		if began {
			s.add()
		} else {
			s.add(announcedDates)
		}
	}
	s.awaitAgreement()
	s.eventually("the nodes have their share", func() bool {
		for _, n := range s.living() {
			if !n.Ready() {
				return false
			}
		}
		return true
	})
	if s.id != "" {
		return s.owner()
	}
	return fmt.Sprintf("%d nodes own streams", s.nodes[0].currentTable().Len())
}

// owner returns the owner by every living node's table.
func (s *handoverScript) owner() string {
	names := map[string]string{}
	for i, n := range s.nodes {
		names[n.self] = fmt.Sprint("n", i)
	}
	owner := ""
	for _, n := range s.living() {
		o := names[n.currentTable().Owner(s.id).Name]
		if owner != "" && o != owner {
			return "the nodes disagree"
		}
		owner = o
	}
	return owner + " owns the stream"
}

// pickStream picks a stream with these owners now, and once others have joined or one has left.
func (s *handoverScript) pickStream(d *datadriven.TestData) string {
	var owner, then string
	joined := 0
	d.ScanArgs(s.T, "owner", &owner)
	d.MaybeScanArgs(s.T, "then", &then)
	d.MaybeScanArgs(s.T, "joining", &joined)
	table := func(n int, without string) *placement.OwnerTable {
		var ms []placement.Member
		for i := range n {
			if name := fmt.Sprint("n", i); name != without {
				ms = append(ms, placement.Member{Name: name, RingKey: name, Revision: 1, OwnsUntil: placement.Never})
			}
		}
		return placement.NewView(ms).TableAt(time.Now())
	}
	now := len(s.nodes)
	next := []*placement.OwnerTable{table(now, owner)}
	if joined > 0 {
		next = []*placement.OwnerTable{table(now+joined, "")}
	}
	if joined > 1 { // the one that it goes to may come first, or last
		next = append(next, table(now+joined, fmt.Sprint("n", now)))
	}
	for i := 0; ; i++ {
		s.id = shard.StreamID(fmt.Sprintf("default/%d", i))
		fits := table(now, "").Owner(s.id).Name == owner
		for _, t := range next {
			fits = fits && (then == "" || t.Owner(s.id).Name == then)
		}
		if fits && (joined < 2 || table(now+1, "").Owner(s.id).Name == owner) {
			return s.owner()
		}
	}
}

func (s *handoverScript) reportCost() string {
	now := s.cost()
	was := s.before
	s.before = now
	read := "S2 was not read"
	if now.reads > was.reads {
		read = "S2 was read"
	}
	return fmt.Sprintf("%s; %v given, %v received, %v lost", read, now.given-was.given, now.received-was.received, now.lost-was.lost)
}
