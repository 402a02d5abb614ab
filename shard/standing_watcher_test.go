package shard_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

const homeLog = shard.StreamID("__ds/fleet")

// watchedManager is a Manager that asks how it stands, in a bubble.
type watchedManager struct {
	*shard.Manager
	client *logtest.Client
	log    bytes.Buffer

	mu   sync.Mutex
	role shard.Role
}

func newWatchedManager(t *testing.T, mem *logtest.Memory, role shard.Role) *watchedManager {
	t.Helper()
	mem.Basin = "home"
	s := &watchedManager{client: mem.NewClient(1, 0), role: role}
	return s.start(t)
}

func (s *watchedManager) start(t *testing.T) *watchedManager {
	s.Manager = shard.NewManager(s.client, shard.NewTailBuffers(0, 0), inMode(shard.Config{Logger: slog.New(slog.NewTextHandler(&s.log, nil))}))
	t.Cleanup(func() { _ = s.Close() })
	s.WatchStanding(func() shard.Role {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.role
	}, func(shard.Standing) {})
	return s
}

func (s *watchedManager) setRole(role shard.Role) {
	s.mu.Lock()
	s.role = role
	s.mu.Unlock()
	s.ProbeNow()
	synctest.Wait()
}

// newcomer is a node that knows of an owner.
var newcomer = shard.Role{Level: shard.FormatLevel}

// The first node writes the record. Later nodes find it, and are of the same fleet. A node that
// knows of an owner writes none.
func TestFirstNodeWritesTheFleetRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := logtest.NewMemory(1)
		early := newWatchedManager(t, mem, newcomer)
		synctest.Wait()
		if st := early.Standing(); !st.Passed || st.Fleet != 0 || !strings.Contains(st.RecordProblem, "no record of a fleet") {
			t.Errorf("nothing is there, and it knows of an owner: %+v", st)
		}
		if n := len(mem.Records(homeLog)); n != 0 || mem.Ops().Creates != 0 {
			t.Errorf("it wrote %d records, and made %d logs", n, mem.Ops().Creates)
		}
		first := newWatchedManager(t, mem, shard.LoneRole())
		synctest.Wait()
		if st := first.Standing(); !st.Passed || st.Fleet == 0 || st.RecordProblem != "" || st.Trouble(time.Now()) != "" || st.Level != shard.FormatLevel {
			t.Fatalf("the first: %+v", st)
		}
		early.ProbeNow()
		synctest.Wait()
		if st := early.Standing(); st.Fleet != first.Standing().Fleet || st.RecordProblem != "" {
			t.Errorf("the one that waited: %+v", st)
		}
		if n := len(mem.Records(homeLog)); n != 1 {
			t.Errorf("%d records", n)
		}
		<-time.After(time.Hour)
		if n := len(mem.Records(homeLog)); n != 1 {
			t.Errorf("%d records after an hour of probes", n)
		}
	})
}

// Of nodes that find nothing in the same moment one writes the record, and all are of its fleet.
func TestConcurrentFirstNodesShareOneFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := logtest.NewMemory(1)
		all := make([]*watchedManager, 5)
		for i := range all {
			all[i] = newWatchedManager(t, mem, shard.Role{MayCreate: true, SoleOwner: true, Level: shard.FormatLevel})
		}
		<-time.After(5 * time.Second)
		synctest.Wait()
		for _, s := range all {
			if st := s.Standing(); st.Fleet == 0 || st.Fleet != all[0].Standing().Fleet {
				t.Errorf("%+v, another is of %x", st, all[0].Standing().Fleet)
			}
		}
		if n := len(mem.Records(homeLog)); n != 1 {
			t.Errorf("%d records", n)
		}
	})
}

// A newcomer cannot read a record that was forged, trimmed away or written by a later release, and
// says so. A node that owns streams goes on with what it found, and writes the record again once
// the log is deleted.
func TestNewcomerReportsADamagedFleetRecord(t *testing.T) {
	for name, damage := range map[string]func(*logtest.Memory){
		"forged": func(m *logtest.Memory) {
			m.Wipe()
			m.AppendForeign(homeLog, "anybody")
		},
		"trimmed": func(m *logtest.Memory) {
			_, err := m.Append(context.Background(), homeLog, 1, []shard.Entry{{Trim: true, TrimTo: 2}, {Body: []byte("x")}})
			if err != nil {
				panic(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := logtest.NewMemory(1)
				owner := newWatchedManager(t, mem, shard.LoneRole())
				synctest.Wait()
				before := owner.Standing()
				damage(mem)
				owner.setRole(shard.Role{Owns: true, MayCreate: true, Level: shard.FormatLevel})
				if st := owner.Standing(); st != before {
					t.Errorf("the owner: %+v, was %+v", st, before)
				}
				late := newWatchedManager(t, mem, newcomer)
				synctest.Wait()
				if st := late.Standing(); st.Fleet != 0 || !strings.Contains(st.Trouble(time.Now()), "cannot be read") {
					t.Errorf("a newcomer: %+v", st)
				}
				mem.Wipe()
				owner.ProbeNow()
				synctest.Wait()
				late.ProbeNow()
				synctest.Wait()
				if st := late.Standing(); st.Fleet != before.Fleet || st.RecordProblem != "" {
					t.Errorf("after the log was deleted, a newcomer: %+v", st)
				}
			})
		})
	}
}

// Records that any client appends after the first one change nothing.
func TestForgedLaterFleetRecordsChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := logtest.NewMemory(1)
		owner := newWatchedManager(t, mem, shard.LoneRole())
		synctest.Wait()
		for range 3 {
			mem.AppendForeign(homeLog, strings.Repeat("x", 100))
		}
		late := newWatchedManager(t, mem, newcomer)
		synctest.Wait()
		if st := late.Standing(); st.Fleet != owner.Standing().Fleet || st.RecordProblem != "" {
			t.Errorf("%+v", st)
		}
	})
}

// Each way in which storage does not serve a node, and the way back.
func TestEachStorageFailureIsReportedAndClears(t *testing.T) {
	for name, c := range map[string]struct {
		trouble          logtest.Faults
		refused, stays   bool // stays: it has not passed
		afterAMinute     bool // ready
		errorsIn3Minutes int
	}{
		"denied":   {trouble: logtest.Faults{Deny: true}, refused: true, stays: true, errorsIn3Minutes: 3},
		"down":     {trouble: logtest.Faults{Down: true}, stays: true, afterAMinute: true, errorsIn3Minutes: 3},
		"cut":      {trouble: logtest.Faults{Partition: true}, stays: true, afterAMinute: true, errorsIn3Minutes: 3},
		"busy":     {trouble: logtest.Faults{Busy: 1}, stays: true, afterAMinute: true, errorsIn3Minutes: 3},
		"no fault": {afterAMinute: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := logtest.NewMemory(1)
				mem.Basin = "home"
				s := &watchedManager{client: mem.NewClient(1, 0), role: shard.LoneRole()}
				s.client.SetFaults(c.trouble)
				s.start(t)
				<-time.After(10 * time.Second)
				st := s.Standing()
				if st.Passed == c.stays || (st.Refused != "") != c.refused || st.Lost() != c.stays {
					t.Fatalf("%+v", st)
				}
				if ready := st.Trouble(time.Now()) == ""; ready == c.stays {
					t.Errorf("ready: %v", ready)
				}
				<-time.After(time.Minute)
				if ready := s.Standing().Trouble(time.Now()) == ""; ready != c.afterAMinute {
					t.Errorf("ready after a minute: %v", ready)
				}
				<-time.After(2*time.Minute - 15*time.Second)
				if n := strings.Count(s.log.String(), "level=ERROR"); n != c.errorsIn3Minutes {
					t.Errorf("%d errors logged in 3 minutes:\n%s", n, s.log.String())
				}
				s.client.SetFaults(logtest.Faults{})
				<-time.After(15 * time.Second)
				if st := s.Standing(); !st.Passed || st.Refused != "" || st.Fleet == 0 || st.Trouble(time.Now()) != "" {
					t.Errorf("once it is over: %+v", st)
				}
			})
		})
	}
}

// A node that has owned streams is refused later, and accepted again: it is of the same fleet.
func TestRevokedNodeReturnsToItsFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWatchedManager(t, logtest.NewMemory(1), shard.LoneRole())
		synctest.Wait()
		before := s.Standing()
		s.client.SetFaults(logtest.Faults{Deny: true})
		<-time.After(15 * time.Second)
		if st := s.Standing(); st.Refused == "" || !st.Passed || st.Fleet != before.Fleet || st.Trouble(time.Now()) == "" {
			t.Errorf("denied: %+v", st)
		}
		s.client.SetFaults(logtest.Faults{Down: true})
		<-time.After(15 * time.Second)
		if st := s.Standing(); st.Refused != "" || st.Silent == "" || st.Trouble(time.Now()) != "" {
			t.Errorf("down: %+v", st)
		}
		if !s.StoreDown() {
			t.Error("nobody asks anything, and it is not noticed that storage is down")
		}
		s.client.SetFaults(logtest.Faults{})
		<-time.After(15 * time.Second)
		if st := s.Standing(); st != before {
			t.Errorf("back: %+v, was %+v", st, before)
		}
	})
}

// Answers to requests do not change the Standing.
func TestRequestsDoNotChangeTheStanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := logtest.NewMemory(1)
		s := newWatchedManager(t, mem, shard.LoneRole())
		synctest.Wait()
		before := s.Standing()
		s.client.SetFaults(logtest.Faults{Deny: true})
		for range 20 {
			if _, err := s.Info(t.Context(), "p/s", 0); !errors.Is(err, shard.ErrLogDenied) {
				t.Fatal(err)
			}
		}
		s.client.SetFaults(logtest.Faults{})
		<-time.After(time.Minute)
		if st := s.Standing(); st != before {
			t.Errorf("%+v", st)
		}
	})
}

// The level of the record rises once all members have spoken it for ten minutes without a break,
// and never falls. Clock records and forgeries in between do not hide it.
func TestFleetRecordLevelRisesAfterTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := logtest.NewMemory(1)
		low := shard.Role{Owns: true, MayCreate: true}
		high := low
		high.Level = shard.FormatLevel
		s := newWatchedManager(t, mem, low)
		synctest.Wait()
		level := func(want uint8, why string) {
			t.Helper()
			if st := s.Standing(); st.Level != want {
				t.Errorf("%s: level %d, want %d", why, st.Level, want)
			}
		}
		level(0, "an older member is there")
		s.setRole(high)
		<-time.After(9 * time.Minute)
		level(0, "nine minutes without one")
		s.setRole(low)
		<-time.After(20 * time.Second)
		s.setRole(high)
		<-time.After(9 * time.Minute)
		level(0, "it came back in between")
		<-time.After(2 * time.Minute)
		level(shard.FormatLevel, "eleven minutes without one")
		s.setRole(low)
		<-time.After(time.Hour)
		level(shard.FormatLevel, "an older member has joined")
		for range 40 { // clocks would come as slowly
			for range 100 {
				mem.AppendForeign(homeLog, "x")
			}
			<-time.After(30 * time.Second)
		}
		late := newWatchedManager(t, mem, newcomer)
		synctest.Wait()
		if st := late.Standing(); st.Level != shard.FormatLevel {
			t.Errorf("a newcomer reads level %d", st.Level)
		}
	})
}
