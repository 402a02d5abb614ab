package sim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard/logtest"
)

// fault is a step of the plan while it happens.
type fault struct {
	step
	victim           string
	began, ended     time.Time
	loss, packetLoss float64
	delay            time.Duration
	hits             atomic.Int64 // traffic that it met
	noVictim         bool         // there was no process to do it to
}

func (f *fault) noteHit() { f.hits.Add(1) }

// maxPacketSilence bounds the time in which a member sends no packet: one with doubts of itself
// probes every eighth second (memberlist's awareness), and gossips only news.
const maxPacketSilence = 9 * time.Second

// missed reports whether the fault should have met something and did not. auto: nodes have no read
// sessions, so one that owns no stream with a writer calls storage seldom.
func (f *fault) missed(auto bool) bool {
	if f.noVictim || f.kind == noPacket && f.lasts < maxPacketSilence ||
		auto && (f.kind == noStore || f.kind == frozen) {
		return false
	}
	return f.hits.Load() == 0
}

func (f *fault) String() string { return fmt.Sprintf("%s %s", f.kind, f.victim) }

// runFaults carries the plan out and returns when all is healed.
func (s *sim) runFaults(began time.Time) {
	var wg sync.WaitGroup
	rnd := s.newRand()
	for _, st := range s.plan.steps {
		<-time.After(time.Until(began.Add(st.at)))
		f := &fault{step: st, began: time.Now()}
		undo := s.beginFault(f, rnd)
		s.mu.Lock()
		s.faults = append(s.faults, f)
		s.mu.Unlock()
		if f.noVictim {
			continue
		}
		s.logEvent("fault", "what", f.String(), "lasts", f.lasts)
		wg.Go(func() {
			<-time.After(f.lasts)
			undo()
			f.ended = time.Now()
			s.logEvent("fault over", "what", f.String(), "hits", f.hits.Load())
		})
	}
	wg.Wait()
	<-time.After(time.Until(began.Add(healedAt)))
}

// pickVictim returns a process without another fault, and one that owns something if owner is set.
// At least spare ready ones are left. The node is busy until free is called.
func (s *sim) pickVictim(rnd *rand.Rand, spare int, owner bool) (p *process, free func()) {
	var all []*process
	ready := 0
	for _, p := range s.running() {
		p.n.mu.Lock()
		if !p.n.busy && p.ready() {
			if ready++; !owner || p.store.OpenSessions() > 0 || s.plan.auto {
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

// beginFault does what a fault stands for, and returns what ends it. A fault without a victim does
// nothing.
func (s *sim) beginFault(f *fault, rnd *rand.Rand) (undo func()) {
	switch f.kind {
	case join, leave, roll, kill, lose, freeze:
		return s.beginNodeFault(f, rnd)
	case split, island, deaf, noPacket, lossy, slow:
		return s.beginNetFault(f, rnd)
	default:
		return s.beginStoreFault(f, rnd)
	}
}

func (s *sim) beginNodeFault(f *fault, rnd *rand.Rand) (undo func()) {
	if f.kind == join {
		n := s.addNode()
		f.victim = n.name
		f.noteHit()
		s.failUnlessStarted(n.start())
		return func() {}
	}
	p, free := s.pickVictim(rnd, 2, false)
	if p == nil {
		f.noVictim = true
		return nil
	}
	n := p.n
	f.victim = n.name
	switch f.kind {
	case leave, roll:
		f.noteHit()
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.stop()
		}()
		return func() {
			<-done
			if f.kind == roll {
				s.failUnlessStarted(n.start())
			}
			free()
		}
	case kill, lose:
		f.hits.Add(int64(p.connections()))
		p.crash(f.kind == lose)
		return func() {
			s.failUnlessStarted(n.start())
			free()
		}
	default: // freeze
		m := s.net.machine(n.ip)
		m.pause(f)
		p.store.SetFaults(logtest.Faults{Stall: true, OnFault: f.noteHit})
		return func() {
			p.store.SetFaults(logtest.Faults{})
			m.resume(f)
			free()
		}
	}
}

// connections returns how many connections and listeners the process has on the network.
func (p *process) connections() int {
	p.port.mu.Lock()
	defer p.port.mu.Unlock()
	return len(p.port.conns)
}

func (s *sim) failUnlessStarted(err error) {
	if err != nil {
		s.failf("start: %v", err)
	}
}

// nodeIPs returns the addresses of the nodes, also of those that are not up.
func (s *sim) nodeIPs() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		all = append(all, n.ip)
	}
	return all
}

func (s *sim) beginNetFault(f *fault, rnd *rand.Rand) (undo func()) {
	ips := s.nodeIPs()
	up := s.running()
	one := up[rnd.IntN(len(up))].n.ip
	f.victim = one
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
		f.victim = fmt.Sprint(ips[:k], " from ", ips[k:])
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
		f.victim = "all"
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
			p.addFault(f)
		}
	}
	return func() {
		for _, p := range paths {
			p.removeFault(f)
		}
		s.net.wakeAll()
	}
}

func (s *sim) beginStoreFault(f *fault, rnd *rand.Rand) (undo func()) {
	t := logtest.Faults{OnFault: f.noteHit}
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
		f.victim = "all"
		ps = s.running()
	} else {
		var p *process
		if p, free = s.pickVictim(rnd, 1, true); p == nil {
			f.noVictim = true
			return nil
		}
		f.victim, ps = p.n.name, []*process{p}
	}
	if f.kind == drops {
		for _, p := range ps {
			f.hits.Add(int64(p.store.OpenSessions()))
			p.store.DropSessions()
		}
		return free
	}
	for _, p := range ps {
		p.storeFault.Store(f)
		p.changeStoreTrouble(t)
	}
	return func() {
		for _, p := range ps {
			if p.storeFault.CompareAndSwap(f, nil) { // unless another fault has replaced it
				p.changeStoreTrouble(logtest.Faults{})
			}
		}
		free()
	}
}

// changeStoreTrouble changes what is wrong with the process's access to storage, unless it is dead.
func (p *process) changeStoreTrouble(t logtest.Faults) {
	if !p.dead.Load() {
		p.store.SetFaults(t)
	}
}
