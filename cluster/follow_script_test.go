package cluster

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// The scripts in testdata/follow are a node, edge, that follows one stream of peers. Each command
// prints what the node sends in its control lanes because of it, and then its follower.
//
//	owner b [then=c]          b owns the stream, by edge's table, and c does without b
//	link b / lose b           the link to b is up, or is lost
//	read / leave              a reader comes, or leaves
//	subscribed b [tail=5]     b answers the newest subscription at it: records begin at 0
//	records b from=0 to=5     b sends a record batch
//	malformed b               b sends what is none
//	moved b to=c              b says that c owns the stream
//	end b [not-owner=c|owner-alive=c|gone|overloaded]   b ends the newest subscription at it
//	pass 2s                   time passes
func TestFollowScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/follow", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			s := newFollowScript(t)
			defer s.close()
			datadriven.RunTest(t, path, s.run)
		})
	})
}

type followScript struct {
	testFollowHost
	loop     *followLoop
	owners   *scriptedOwners
	linked   map[string]bool
	follower *follower
}

const followedStream = shard.StreamID("default/s")

func newFollowScript(t *testing.T) *followScript {
	s := &followScript{owners: newScriptedOwners("b", "c", "d"), linked: map[string]bool{}}
	s.view, s.table = placement.NewView(nil), placement.NewView(nil).TableAt(time.Now())
	s.loop = &followLoop{
		self: "edge", tails: shard.NewTailBuffers(0, 0), local: newLocalStreams(&countingHost{}, noHandover{}),
		openPool: &openPool{limit: 1, maxWaiting: 1}, node: &s.testFollowHost, log: slog.New(slog.DiscardHandler),
		metrics: newMetrics(nil), fed: &fedReaders{}, wake: make(chan struct{}, 1), ctx: t.Context(), stop: func() {},
		byStream: map[shard.StreamID]*follower{}, pending: map[*follower]struct{}{},
	}
	s.loop.peers = transport.NewPeers(transport.Config{Self: placement.PeerAddr{Name: "edge"}, Dialer: s.owners}, s)
	return s
}

func (s *followScript) close() {
	s.loop.close()
	s.loop.peers.Close()
	s.owners.close()
}

// OnLinksChanged implements Observer.
func (s *followScript) OnLinksChanged() { s.loop.scheduleAll() }

func (s *followScript) run(t *testing.T, d *datadriven.TestData) string {
	peer := ""
	if len(d.CmdArgs) > 0 {
		peer = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "owner":
		then := peer
		d.MaybeScanArgs(t, "then", &then)
		s.setOwner(peer, then)
	case "link":
		s.linked[peer] = true
		s.loop.peers.Update(s.owners.members(s.linked))
	case "lose":
		delete(s.linked, peer)
		s.loop.peers.Update(s.owners.members(s.linked))
	case "read":
		go func() { _, _, _ = s.loop.follow(t.Context(), followedStream, 0) }()
	case "leave":
		s.follower.removeReader()
	case "pass":
		wait, err := time.ParseDuration(peer)
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(wait)
	default:
		s.send(t, d, peer)
	}
	s.settle()
	return s.report(t)
}

// settle runs the loop's steps that are due.
func (s *followScript) settle() {
	synctest.Wait()
	for range 4 {
		s.loop.mu.Lock()
		f := s.loop.byStream[followedStream]
		s.loop.mu.Unlock()
		if f != nil {
			s.follower = f
			f.step(time.Now())
			s.loop.removeIfOver(f)
		}
		synctest.Wait()
	}
}

// setOwner makes the stream owned by a member, and by then without that one.
func (s *followScript) setOwner(owner, then string) {
	s.view, _ = tableOf("b", "c", "d", "edge")
	for i := 0; ; i++ {
		var ms []placement.Member
		for _, name := range slices.Compact([]string{owner, then}) {
			ms = append(ms, placement.Member{Name: name, RingKey: fmt.Sprint(name, i), Revision: 1, OwnsUntil: placement.Never})
		}
		if s.table = placement.NewView(ms).TableAt(time.Now()); s.table.Owner(followedStream).Name == owner {
			break
		}
	}
	s.loop.scheduleAll()
}

// send has a peer send a Part to its newest subscription.
func (s *followScript) send(t *testing.T, d *datadriven.TestData, peer string) {
	part := &relaypb.Part{}
	switch d.Cmd {
	case "subscribed":
		var tail, start uint64
		generation := uint64(1)
		d.MaybeScanArgs(t, "tail", &tail)
		d.MaybeScanArgs(t, "start", &start)
		d.MaybeScanArgs(t, "generation", &generation)
		info := wire.EncodeInfo(shard.Info{Exists: true, Generation: shard.Generation(generation), Type: "text/plain", Tail: shard.Pos(tail), LogTail: shard.Pos(tail)})
		part.Kind, part.Subscribed = relaypb.PartKind_PART_KIND_SUBSCRIBED, &relaypb.Subscribed{Info: info, Start: start}
	case "records":
		var from, to uint64
		d.ScanArgs(t, "from", &from)
		d.ScanArgs(t, "to", &to)
		part.Kind = relaypb.PartKind_PART_KIND_BATCH
		part.Data = shard.EmptyBatch(shard.Pos(from), shard.Pos(to), shard.Pos(to), false).Bytes()
	case "malformed":
		part.Kind, part.Data = relaypb.PartKind_PART_KIND_BATCH, []byte("no record batch")
	case "moved":
		var to string
		d.ScanArgs(t, "to", &to)
		part.Kind, part.Moved = relaypb.PartKind_PART_KIND_MOVED, wire.EncodePeerAddr(placement.PeerAddr{Name: to})
	case "end":
		var to, alive string
		why := shard.ErrOverloaded
		d.MaybeScanArgs(t, "not-owner", &to)
		d.MaybeScanArgs(t, "owner-alive", &alive)
		if to+alive != "" {
			why = &placement.RedirectError{Owner: placement.PeerAddr{Name: to + alive}, OwnerAlive: alive != ""}
		} else if d.HasArg("gone") {
			why = shard.ErrNotFound
		}
		refusal, _ := wire.EncodeRefusal(why)
		part.Kind, part.Refusal = relaypb.PartKind_PART_KIND_END, refusal
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	s.owners.send(t, peer, part)
}

// report lists what was sent, and describes the follower.
func (s *followScript) report(t *testing.T) string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.linked)) {
		subscribes, unsubscribes := s.owners.takeReceived(name)
		for _, q := range subscribes {
			fmt.Fprintf(&out, "to %s: Subscribe from %d, hop %d\n", name, q.GetFrom(), q.GetRoute().GetHop())
		}
		for range unsubscribes {
			fmt.Fprintf(&out, "to %s: Unsubscribe\n", name)
		}
	}
	f := s.follower
	if f == nil {
		out.WriteString("nothing is followed\n")
		return out.String()
	}
	if err := checkFollower(f); err != nil {
		t.Fatalf("%s: %v", out.String(), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(&out, "%s", f.stateLocked())
	if f.feed.upstream != nil {
		fmt.Fprintf(&out, ", fed by %s", f.feed.member)
	}
	if f.move != nil && f.move.awaitingAnswer {
		fmt.Fprintf(&out, ", %s was asked", f.move.targetName)
	}
	if f.tail != nil {
		fmt.Fprintf(&out, ", next %d", f.tail.Next())
		if f.tail.EndError() != nil {
			out.WriteString(", ended for its readers")
		}
	}
	fmt.Fprintf(&out, ", %d readers", f.readers)
	if n := testutil.ToFloat64(s.loop.metrics.gaps); n > 0 {
		fmt.Fprintf(&out, ", %v gaps so far", n)
	}
	out.WriteString("\n")
	return out.String()
}

// checkFollower checks what holds in each state of a follower.
func checkFollower(f *follower) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	hasTail, hasFeed, moves := f.tail != nil, f.feed.upstream != nil || f.feed.local.ref != nil, f.move != nil
	var ok bool
	state := f.stateLocked()
	switch state {
	case stateOpening:
		ok = !hasFeed && f.opening != nil
	case stateFed:
		ok = hasTail && hasFeed && !moves
	case stateMoving:
		ok = hasTail && hasFeed && moves
	case stateUnfed:
		ok = hasTail
	case stateOver:
		ok = !hasFeed && !moves && f.opening == nil && (hasTail || f.readers == 0)
	}
	if m := f.move; ok && m != nil {
		asked := m.awaitingAnswer
		ok = asked == !m.deadline.IsZero() || !asked
		ok = ok && (!asked || m.targetName != "") && (asked || m.upstream == nil) && (m.upstream == nil || m.upstream != f.feed.upstream)
	}
	if !ok {
		return fmt.Errorf("a follower is %s with tail %v, feed %v, move %+v, opening %v, %d readers", state, hasTail, hasFeed, f.move, f.opening != nil, f.readers)
	}
	return nil
}
