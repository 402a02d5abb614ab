package sim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard/logtest"
)

// fault is a step of the plan as it happens.
type fault struct {
	step
	who              string
	began, ended     time.Time
	loss, packetLoss float64
	delay            time.Duration
	hits             atomic.Int64 // what it met
	void             bool         // there was nobody to do it to
}

func (f *fault) hit() { f.hits.Add(1) }

// noProbe is for how long a member may send no packet: one that has doubts of itself
// probes every eighth second (memberlist's awareness), and gossips only what is new.
const noProbe = 9 * time.Second

// missed reports whether the fault should have met something and did not.
func (f *fault) missed() bool {
	if f.void || f.kind == noPacket && f.lasts < noProbe {
		return false
	}
	return f.hits.Load() == 0
}

func (f *fault) String() string { return fmt.Sprintf("%s %s", f.kind, f.who) }

// direct carries the plan out and returns when all is healed.
func (s *sim) direct(began time.Time) {
	var wg sync.WaitGroup
	rnd := s.rand()
	for _, st := range s.plan.steps {
		<-time.After(time.Until(began.Add(st.at)))
		f := &fault{step: st, began: time.Now()}
		undo := s.begin(f, rnd)
		s.mu.Lock()
		s.faults = append(s.faults, f)
		s.mu.Unlock()
		if f.void {
			continue
		}
		s.note("fault", "what", f.String(), "lasts", f.lasts)
		wg.Go(func() {
			<-time.After(f.lasts)
			undo()
			f.ended = time.Now()
			s.note("fault over", "what", f.String(), "hits", f.hits.Load())
		})
	}
	wg.Wait()
	<-time.After(time.Until(began.Add(healed)))
}

// victim is a process that no other fault has and that owns something if owner; so many
// ready ones as spare must be left. The node is busy until free is called.
func (s *sim) victim(rnd *rand.Rand, spare int, owner bool) (p *process, free func()) {
	var all []*process
	ready := 0
	for _, p := range s.up() {
		p.n.mu.Lock()
		if !p.n.busy && p.ready() {
			if ready++; !owner || p.store.OpenSessions() > 0 {
				all = append(all, p)
			}
		}
		p.n.mu.Unlock()
	}
	if len(all) == 0 || ready <= spare {
		return nil, nil
	}
	p = all[rnd.IntN(len(all))]
	p.n.mu.Lock()
	p.n.busy = true
	p.n.mu.Unlock()
	return p, func() {
		p.n.mu.Lock()
		p.n.busy = false
		p.n.mu.Unlock()
	}
}

// begin does what a fault is, and returns what ends it. A fault without a victim is
// void.
func (s *sim) begin(f *fault, rnd *rand.Rand) (undo func()) {
	switch f.kind {
	case join, leave, roll, kill, lose, freeze:
		return s.beginNode(f, rnd)
	case split, island, deaf, noPacket, lossy, slow:
		return s.beginNet(f, rnd)
	default:
		return s.beginStore(f, rnd)
	}
}

func (s *sim) beginNode(f *fault, rnd *rand.Rand) (undo func()) {
	if f.kind == join {
		n := s.addNode()
		f.who = n.name
		f.hit()
		s.started(n.start())
		return func() {}
	}
	p, free := s.victim(rnd, 2, false)
	if p == nil {
		f.void = true
		return nil
	}
	n := p.n
	f.who = n.name
	switch f.kind {
	case leave, roll:
		f.hit()
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.stop()
		}()
		return func() {
			<-done
			if f.kind == roll {
				s.started(n.start())
			}
			free()
		}
	case kill, lose:
		f.hits.Add(int64(p.connections()))
		p.crash(f.kind == lose)
		return func() {
			s.started(n.start())
			free()
		}
	default: // freeze
		m := s.net.machine(n.ip)
		m.pause(f)
		p.store.SetFaults(logtest.Faults{Stall: true, OnFault: f.hit})
		return func() {
			p.store.SetFaults(logtest.Faults{})
			m.resume(f)
			free()
		}
	}
}

// connections counts what the process has on the network.
func (p *process) connections() int {
	p.port.mu.Lock()
	defer p.port.mu.Unlock()
	return len(p.port.conns)
}

func (s *sim) started(err error) {
	if err != nil {
		s.failf("start: %v", err)
	}
}

// ips lists the nodes' addresses, of those that are not up, too.
func (s *sim) ips() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		all = append(all, n.ip)
	}
	return all
}

func (s *sim) beginNet(f *fault, rnd *rand.Rand) (undo func()) {
	ips := s.ips()
	up := s.up()
	one := up[rnd.IntN(len(up))].n.ip
	f.who = one
	var paths []*path
	between := func(a, b string, both bool) {
		if a == b {
			return
		}
		paths = append(paths, s.net.path(a, b))
		if both {
			paths = append(paths, s.net.path(b, a))
		}
	}
	switch f.kind {
	case split:
		rnd.Shuffle(len(ips), func(i, j int) { ips[i], ips[j] = ips[j], ips[i] })
		k := 1 + rnd.IntN(len(ips)-1)
		f.who = fmt.Sprint(ips[:k], " from ", ips[k:])
		for _, a := range ips[:k] {
			for _, b := range ips[k:] {
				between(a, b, true)
			}
		}
	case island, deaf:
		for _, b := range ips {
			between(b, one, f.kind == island)
		}
	case slow:
		f.delay = 50*time.Millisecond + time.Duration(rnd.Int64N(int64(350*time.Millisecond)))
		for _, b := range ips {
			between(b, one, true)
		}
	case lossy, noPacket:
		f.who = "all"
		f.loss = 0.02 + 0.18*rnd.Float64()
		if f.kind == noPacket {
			f.loss, f.packetLoss = 0, 1
		}
		for _, a := range ips {
			for _, b := range ips {
				between(a, b, false)
			}
		}
	}
	for _, p := range paths {
		switch f.kind {
		case split, island, deaf:
			p.cut(f)
		default:
			p.ail(f)
		}
	}
	return func() {
		for _, p := range paths {
			p.heal(f)
		}
		s.net.wakeAll()
	}
}

func (s *sim) beginStore(f *fault, rnd *rand.Rand) (undo func()) {
	t := logtest.Faults{OnFault: f.hit}
	all := false
	switch f.kind {
	case noStore:
		t.Partition = true
	case frozen:
		t.Stall = true
	case busy:
		t.Busy, all = 0.2+0.5*rnd.Float64(), true
	case failing:
		t.Fail, all = 0.1+0.3*rnd.Float64(), true
	case lostAcks:
		t.LoseAck, all = 0.1+0.3*rnd.Float64(), true
	case lateAcks:
		t.LateAppend, t.LateBy, all = 0.2, time.Duration(rnd.Int64N(int64(2*time.Second))), true
	case sluggish:
		t.ExtraLatency, all = 50*time.Millisecond+time.Duration(rnd.Int64N(int64(500*time.Millisecond))), true
	}
	var ps []*process
	free := func() {}
	if all || f.kind == drops {
		f.who = "all"
		ps = s.up()
	} else {
		var p *process
		if p, free = s.victim(rnd, 1, true); p == nil {
			f.void = true
			return nil
		}
		f.who, ps = p.n.name, []*process{p}
	}
	if f.kind == drops {
		for _, p := range ps {
			f.hits.Add(int64(p.store.OpenSessions()))
			p.store.DropSessions()
		}
		return free
	}
	for _, p := range ps {
		p.meets.Store(f)
		p.trouble(t)
	}
	return func() {
		for _, p := range ps {
			if p.meets.CompareAndSwap(f, nil) { // or it has met another since
				p.trouble(logtest.Faults{})
			}
		}
		free()
	}
}

// trouble changes what is wrong with the process's way to storage, unless it is dead.
func (p *process) trouble(t logtest.Faults) {
	if !p.dead.Load() {
		p.store.SetFaults(t)
	}
}
