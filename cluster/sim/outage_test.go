package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// startDuringOutage starts a fleet while storage does not answer.
func startDuringOutage(t *testing.T, nodes int, then func(*sim)) {
	synctest.Test(t, func(t *testing.T) {
		s := &sim{plan: newPlan(1, nodes), t: t, zero: time.Now(), byKind: map[kind]*latencies{}}
		s.log.zero = s.zero
		s.rnd = rand.New(rand.NewPCG(1, 5))
		s.net = newNetwork(1)
		s.net.names = s.podIPs
		s.mem = logtest.NewMemory(1)
		s.mem.Basin = "fantail-sim"
		s.newStoreTrouble = logtest.Faults{Down: true}
		s.starting = true
		for range nodes {
			s.failUnlessStarted(s.addNode().start())
		}
		s.starting = false
		then(s)
		s.stopAll()
		for _, f := range s.failures {
			t.Error(f)
		}
		if t.Failed() {
			t.Log(s.log.last(100))
		}
	})
}

// checkReadyAndOwners returns an error unless so many processes are ready and all that run see so
// many owners.
func (s *sim) checkReadyAndOwners(ready, owners int) error {
	n := 0
	for _, p := range s.running() {
		if p.ready() {
			n++
		}
		if got := p.clusterNode.View().TableAt(time.Now()).Len(); got != owners {
			return fmt.Errorf("%s sees %d owners, want %d", p.n.name, got, owners)
		}
	}
	if n != ready {
		return fmt.Errorf("%d are ready, want %d", n, ready)
	}
	return nil
}

// All nodes start while storage is away: after a minute they are ready without it, and refuse by
// themselves. Once it is back they are a normal fleet. A later node without access to storage is
// never ready, and owns nothing.
func TestStartWithoutStorage(t *testing.T) {
	t.Parallel()
	startDuringOutage(t, 3, func(s *sim) {
		for time.Since(s.zero) < shard.OutageAfter-5*time.Second {
			if err := s.checkReadyAndOwners(0, 0); err != nil {
				s.failf("after %v: %v", time.Since(s.zero), err)
				return
			}
			<-time.After(time.Second)
		}
		s.await("ready without storage", 20*time.Second, func() error { return s.checkReadyAndOwners(3, 3) })
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		req := &shard.Request{Stream: "p/s", Op: shard.OpCreate, ID: shard.NewAppendID(), Type: "text/plain"}
		if _, err := s.running()[0].clusterNode.Do(ctx, req); err == nil {
			s.failf("a create while storage is away")
		}
		s.newStoreTrouble = logtest.Faults{}
		for _, p := range s.running() {
			p.store.SetFaults(logtest.Faults{})
		}
		s.await("storage is back", 20*time.Second, func() error {
			for _, p := range s.running() {
				if st := p.manager.Standing(); !st.Passed || st.Fleet == 0 {
					return fmt.Errorf("%s: %+v", p.n.name, st)
				}
			}
			return s.checkReadyAndOwners(3, 3)
		})
		if n := len(s.mem.Records("__ds/fleet")); n != 1 {
			s.failf("%d records", n)
		}
		s.newStoreTrouble = logtest.Faults{Down: true}
		s.failUnlessStarted(s.addNode().start())
		s.await("it is heard of", 5*time.Second, func() error { return s.checkReadyAndOwners(3, 3) })
		for began := time.Now(); time.Since(began) < 5*time.Minute; <-time.After(time.Second) {
			if err := s.checkReadyAndOwners(3, 3); err != nil {
				s.failf("with a fourth that has no way to storage, after %v: %v", time.Since(began), err)
				return
			}
		}
	})
}

// A node that is started during an outage takes its share after a minute, from nodes that storage
// had answered before.
func TestJoinInAnOutage(t *testing.T) {
	t.Parallel()
	startDuringOutage(t, 3, func(s *sim) {
		s.newStoreTrouble = logtest.Faults{}
		for _, p := range s.running() {
			p.store.SetFaults(logtest.Faults{})
		}
		s.await("the fleet stands", 20*time.Second, func() error { return s.checkReadyAndOwners(3, 3) })
		for _, p := range s.running() {
			p.store.SetFaults(logtest.Faults{Down: true})
		}
		s.newStoreTrouble = logtest.Faults{Down: true}
		s.failUnlessStarted(s.addNode().start())
		s.await("it is heard of", 5*time.Second, func() error { return s.checkReadyAndOwners(3, 3) })
		for began := time.Now(); time.Since(began) < shard.OutageAfter-5*time.Second; <-time.After(time.Second) {
			if err := s.checkReadyAndOwners(3, 3); err != nil {
				s.failf("after %v: %v", time.Since(began), err)
				return
			}
		}
		s.await("the newcomer is ready, too", 40*time.Second, func() error { return s.checkReadyAndOwners(4, 4) })
		for _, p := range s.running() {
			p.store.SetFaults(logtest.Faults{})
		}
		<-time.After(20 * time.Second)
		s.await("storage is back", time.Second, func() error { return s.checkReadyAndOwners(4, 4) })
	})
}
