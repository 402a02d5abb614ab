package sim

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// The phases of a run, in virtual time. Faults begin when the fleet stands, and end before
// healedAt. Then it is quiet until the run is judged.
const (
	calmUntil = 8 * time.Second
	healedAt  = 88 * time.Second
	quiet     = 22 * time.Second // two push/pulls of gossip
	finish    = 10 * time.Second // writers are done, and readers get the rest
)

// mix names what may go wrong in a run.
type mix string

const (
	mixPlanned   mix = "planned"
	mixCrash     mix = "crash"
	mixPartition mix = "partition"
	mixLoss      mix = "loss"
	mixStore     mix = "store"
	mixAll       mix = "all"
)

var mixes = []mix{mixPlanned, mixCrash, mixPartition, mixLoss, mixStore, mixAll}

// kind names one thing that goes wrong.
type kind string

const (
	calmFault kind = "calm"     // nothing
	join      kind = "join"     // one more node
	leave     kind = "leave"    // one node stops in order, for good
	roll      kind = "roll"     // one node stops in order and comes back
	kill      kind = "kill"     // a process dies, and its machine says so
	lose      kind = "lose"     // a machine is gone
	freeze    kind = "freeze"   // a process is paused
	split     kind = "split"    // two halves do not reach each other
	island    kind = "island"   // one node reaches no other
	deaf      kind = "deaf"     // one node sends and receives nothing
	noPacket  kind = "nopacket" // no UDP
	lossy     kind = "lossy"
	slow      kind = "slow"    // one node is far away
	noStore   kind = "nostore" // one node does not reach storage
	frozen    kind = "stuck"   // storage accepts everything and answers later
	busy      kind = "busy"
	failing   kind = "failing"
	lostAcks  kind = "lostacks"
	lateAcks  kind = "lateacks"
	drops     kind = "drops" // sessions break
	sluggish  kind = "sluggish"
)

var kinds = map[mix][]kind{
	mixPlanned:   {join, leave, roll, roll},
	mixCrash:     {kill, kill, lose, freeze, roll},
	mixPartition: {split, island, deaf, noPacket},
	mixLoss:      {lossy, slow, lossy, slow, noPacket, join, roll},
	mixStore:     {noStore, frozen, busy, failing, lostAcks, lateAcks, drops, sluggish, roll},
}

func init() { //nolint:gochecknoinits // one list made of the others
	for _, m := range mixes[:len(mixes)-1] {
		kinds[mixAll] = append(kinds[mixAll], kinds[m]...)
	}
}

// step is one fault of a plan.
type step struct {
	kind  kind
	at    time.Duration
	lasts time.Duration
}

// plan is the run that a seed stands for.
type plan struct {
	seed    uint64
	nodes   int
	mix     mix
	skewed  bool
	far     bool // storage is far away, and appends are pipelined
	auto    bool // read sessions only where this node did not write
	makes   bool // an append makes the log that it names
	streams int
	readers int // for each stream
	steps   []step
}

func (p *plan) String() string {
	where := ""
	if p.far {
		where = ", storage far away"
	}
	if p.auto {
		where += ", sessions where they are needed"
	}
	if p.makes {
		where += ", appends make logs"
	}
	return fmt.Sprintf("seed %d: %d nodes, %s%s", p.seed, p.nodes, p.mix, where)
}

// newPlan draws a plan; nodes, if not 0, is the number of nodes.
func newPlan(seed uint64, nodes int) *plan {
	r := rand.New(rand.NewPCG(seed, 4))
	p := &plan{seed: seed, mix: mixes[seed%uint64(len(mixes))], skewed: r.IntN(2) == 0}
	p.far = seed/uint64(len(mixes))%3 == 2
	p.auto = seed/uint64(len(mixes))%4 == 1
	p.makes = seed*0x9E3779B97F4A7C15>>63 == 0 // of each of the others' kinds about half
	switch seed % 100 {                        // of a hundred runs one has 50 nodes and nine have 10 to 20
	case 50:
		p.nodes = 50
	case 5, 16, 27, 38, 49, 60, 71, 82, 93:
		p.nodes = 10 + r.IntN(11)
	default:
		p.nodes = 3 + r.IntN(5)
	}
	if nodes > 0 {
		p.nodes = nodes
	}
	p.streams, p.readers = 6+r.IntN(6), 2
	most := 100
	if p.nodes >= 50 {
		most = 2 // a change of owners costs fifty nodes a ring each
	}
	all := kinds[p.mix]
	for at := calmUntil; ; {
		at += time.Duration(r.Int64N(int64(9 * time.Second)))
		s := step{kind: all[r.IntN(len(all))], at: at, lasts: time.Second + time.Duration(r.Int64N(int64(9*time.Second)))}
		if p.auto && s.kind == drops { // there may be none
			s.kind = busy
		}
		switch s.kind {
		case split, island, deaf, noPacket, lossy:
			s.lasts = 2*time.Duration(r.Int64N(int64(12*time.Second))) + 2*time.Second
		case leave, roll:
			s.lasts = 25 * time.Second
		case lostAcks, lateAcks, failing, busy: // long enough for chance to act
			s.lasts += 5 * time.Second
		}
		if s.at+s.lasts > healedAt-time.Second || len(p.steps) == most {
			break
		}
		p.steps = append(p.steps, s)
		at += 3 * time.Second
	}
	if len(p.steps) == 0 {
		p.steps = []step{{kind: all[0], at: calmUntil + time.Second, lasts: 5 * time.Second}}
	}
	return p
}
