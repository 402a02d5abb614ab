package shard_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// chainOf returns what a node tells of a stream's past.
func chainOf(t testing.TB, h *shard.Manager, id shard.StreamID) []shard.Ancestor {
	t.Helper()
	info, err := h.Info(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	return info.Chain
}

// appendForged appends a record with the header h to a stream's log, past every owner.
func appendForged(t testing.TB, log shard.Log, id shard.StreamID, header func(pos shard.Pos) []byte) {
	t.Helper()
	if err := log.Create(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	at, err := log.Tail(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), id, at, []shard.Entry{{Header: header(at)}}); err != nil {
		t.Fatal(err)
	}
}

// A fork that its source does hold, with a create record that was forged later, reads no generation
// of the source that it did not inherit.
func TestForgedForkReadsOneGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		life := do(t, h, create("text/plain", "a"), shard.CodeCreated).Info.Generation
		hold := do(t, h, forkOf(t, h, stream, forked), shard.CodeCreated).Info.Hold
		a := shard.Ancestor{Stream: stream, Generation: life, Start: 1, Bound: 2}
		for start, want := range map[uint64]int{1: 1, 0: 0} {
			a.Start = shard.Pos(start)
			appendForged(t, log, forked, func(pos shard.Pos) []byte { return shard.ForgeHeldFork(pos, a, hold) })
			if chain := chainOf(t, node(t, log), forked); len(chain) != want {
				t.Errorf("from %d, of a life that begins at 1: %+v", start, chain)
			}
		}
	})
}

// What a forged record leaves in a State is charged to the budget of states.
func TestForgedStateIsCharged(t *testing.T) {
	t.Parallel()
	for kept, raw := range map[int]int{100 << 10: 0, 0: 60 << 10} {
		if n := shard.ForgedSize(kept, raw); n < kept+raw {
			t.Errorf("%d and %d bytes are charged as %d", kept, raw, n)
		}
	}
}

// counted is a fleet of one node that counts requests about references.
type counted struct {
	*shard.Manager
	n atomic.Int64
}

func (c *counted) Do(ctx context.Context, q *shard.Request) (shard.Outcome, error) {
	c.n.Add(1)
	return c.Manager.Do(ctx, q)
}

// Forged pending releases ask other streams no faster than a node asks altogether.
func TestForgedPendingReleasesArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams = 4
		log := logtest.NewMemory(1)
		h := node(t, log)
		fleet := &counted{Manager: h}
		h.UseOwners(fleet)
		for i := range streams {
			id := shard.StreamID(fmt.Sprintf("attacker/%d", i))
			appendForged(t, log, id, func(pos shard.Pos) []byte {
				return shard.ForgePendingReleases(pos, "victim/log", shard.MaxPendingReleases)
			})
			if _, err := h.Info(t.Context(), id, 0); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := fleet.n.Load(); n < shard.ForkAskBurst || n > shard.ForkAskBurst+streams {
			t.Errorf("%d immediately", n)
		}
		advance(time.Minute)
		if n := fleet.n.Load(); n != streams*shard.MaxPendingReleases {
			t.Errorf("%d in the end", n)
		}
	})
}

// A forged create record reads no other log than its own, whatever it knows of the victim: in a
// cold stream, in one that is owned and followed, and where a checkpoint says the same.
func TestForgedChainReadsNothing(t *testing.T) {
	const mine, victim = shard.StreamID("attacker/mine"), shard.StreamID("victim/secret")
	for name, header := range map[string]func(shard.Pos, shard.Ancestor) []byte{
		"chain":      shard.ForgeChain,
		"fork":       shard.ForgeFork,
		"checkpoint": shard.ForgeForkState,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logtest.NewMemory(1)
				h := node(t, log)
				q := create("text/plain", "secret")
				q.Stream = victim
				life := do(t, h, q, shard.CodeCreated).Info.Generation
				a := shard.Ancestor{Stream: victim, Generation: life, Start: 1, Bound: 2}
				at, err := log.Tail(t.Context(), victim)
				if err != nil {
					t.Fatal(err)
				}
				q = create("text/plain", "own")
				q.Stream = mine
				do(t, h, q, shard.CodeCreated)
				tail, release, err := h.Follow(t.Context(), mine, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer release()
				appendForged(t, log, mine, func(pos shard.Pos) []byte { return header(pos, a) })
				synctest.Wait()
				for _, n := range []*shard.Manager{h, node(t, log)} {
					if chain := chainOf(t, n, mine); len(chain) > 0 {
						t.Errorf("%+v is served", chain)
					}
				}
				if chain := tail.Info().Chain; len(chain) > 0 {
					t.Errorf("the Tail: %+v", chain)
				}
				if after, err := log.Tail(t.Context(), victim); err != nil || after != at {
					t.Errorf("the victim's log went from %d to %d, %v", at, after, err)
				}
			})
		})
	}
}

// A fork is served its past by any owner, whichever node made it, for as long as each source on the
// way holds the next fork: up a chain, after the sources' end, and again after an outage of
// storage.
func TestForkIsConfirmedByItsSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		do(t, h, forkOf(t, h, stream, forked, "b"), shard.CodeCreated)
		do(t, h, forkOf(t, h, forked, "default/grandchild"), shard.CodeCreated)
		check := func(when string) {
			t.Helper()
			for _, n := range []*shard.Manager{h, node(t, log)} {
				if a, b := chainOf(t, n, forked), chainOf(t, n, "default/grandchild"); len(a) != 1 || len(b) != 2 {
					t.Errorf("%s: %+v, %+v", when, a, b)
				}
			}
		}
		check("alive")
		do(t, h, deleteReq(forked), shard.CodeDeleted)
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		n := node(t, log)
		if chain := chainOf(t, n, "default/grandchild"); len(chain) != 2 {
			t.Errorf("both sources gone: %+v", chain)
		}
		late := node(t, log)
		info, err := late.Info(t.Context(), "default/other", 0) // it can reach its store
		if err != nil || info.Exists {
			t.Fatal(info, err)
		}
		down := errors.New("away")
		log.set(hooks{last: func(id shard.StreamID) error {
			if id == stream {
				return down
			}
			return nil
		}})
		if _, err := late.Info(t.Context(), "default/grandchild", 0); !errors.Is(err, shard.ErrStoreDown) {
			t.Errorf("a source that cannot be asked: %v", err)
		}
		log.set(hooks{})
		if chain := chainOf(t, late, "default/grandchild"); len(chain) != 2 {
			t.Errorf("once it can: %+v", chain)
		}
	})
}

// A handover carries the confirmation of a fork: no source is asked again.
func TestHandoverKeepsTheConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h, heir := node(t, log), node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		do(t, h, forkOf(t, h, stream, forked, "b"), shard.CodeCreated)
		over, ok := h.HandOver(forked, 0)
		if err := heir.InstallHandover(forked, over); err != nil || !ok {
			t.Fatal(ok, err)
		}
		before := log.Ops()
		if chain, err := heir.Info(t.Context(), forked, shard.InfoAllowCached); err != nil || len(chain.Chain) != 1 {
			t.Errorf("%+v, %v", chain.Chain, err)
		}
		if after := log.Ops(); after.Reads != before.Reads || after.Replays != before.Replays {
			t.Errorf("%+v after %+v", after, before)
		}
	})
}

// A forged table of forks writes to no other log, and creates none.
func TestForgedForkRefsWriteNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		q := create("text/plain", "a")
		q.Stream = "victim/log"
		do(t, h, q, shard.CodeCreated)
		at, err := log.Tail(t.Context(), "victim/log")
		if err != nil {
			t.Fatal(err)
		}
		appendForged(t, log, stream, func(pos shard.Pos) []byte { return shard.ForgeForkRefs(pos, "victim/log", "victim/new") })
		if s := stateOf(t, h, stream); s != "gone" && len(log.Records(stream)) == 1 { // else the forks have been asked already
			t.Fatal(s)
		}
		before := log.Ops().Creates
		advance(15 * time.Minute) // long past what forks are asked after
		waitForState(t, h, stream, "none", time.Hour)
		if after, err := log.Tail(t.Context(), "victim/log"); err != nil || after != at {
			t.Errorf("the victim's log went from %d to %d, %v", at, after, err)
		}
		if _, err := log.Tail(t.Context(), "victim/new"); !errors.Is(err, shard.ErrNoLog) || log.Ops().Creates != before {
			t.Errorf("a log was made: %v", err)
		}
	})
}

// Only the fork that holds a stream can release it.
func TestOnlyTheHoldingForkReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, logtest.NewMemory(1))
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		do(t, h, forkOf(t, h, stream, forked), shard.CodeCreated)
		info, err := h.Info(t.Context(), forked, 0)
		if err != nil {
			t.Fatal(err)
		}
		do(t, h, &shard.Request{Stream: stream, Op: shard.OpRelease, ID: shard.NewAppendID(), Ref: info.Hold, Name: "default/another"}, shard.CodeExists)
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		if s := stateOf(t, h, stream); s != "gone" {
			t.Errorf("the source is %s", s)
		}
	})
}

// A fork of a source with too long a log costs a bounded read, once in a while, and is not
// described meanwhile: to leave its past out would be wrong.
func TestForkOfALongLogIsNotDescribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		do(t, h, forkOf(t, h, stream, forked), shard.CodeCreated)
		log.AppendForeign(stream, make([]string, 2*shard.MaxFoldRecords)...)
		late := node(t, log)
		for range 3 {
			before := log.Ops().Replays
			if _, err := late.Info(t.Context(), forked, 0); !errors.Is(err, shard.ErrUnavailable) {
				t.Fatalf("%v", err)
			}
			again := log.Ops().Replays
			if _, err := late.Info(t.Context(), forked, 0); !errors.Is(err, shard.ErrUnavailable) {
				t.Fatalf("%v", err)
			}
			if after := log.Ops().Replays; again == before || after != again {
				t.Errorf("%d replays, and %d immediately after", again-before, after-again)
			}
			advance(11 * time.Minute)
		}
	})
}

// Forged forks that name one long log have it read once between them, and those that come later
// do not have it read again.
func TestForksOfALongLogShareOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const forks = 40
		log := logtest.NewMemory(1)
		log.AppendForeign("attacker/long", make([]string, 2*shard.MaxFoldRecords)...)
		a := shard.Ancestor{Stream: "attacker/long", Generation: 1, Start: 0, Bound: 1}
		id := func(i int) shard.StreamID { return shard.StreamID(fmt.Sprintf("attacker/%d", i)) }
		for i := range forks {
			appendForged(t, log, id(i), func(pos shard.Pos) []byte { return shard.ForgeFork(pos, a) })
		}
		replays := func(ids ...shard.StreamID) func(h *shard.Manager) int {
			return func(h *shard.Manager) int {
				before := log.Ops().Replays
				var wg sync.WaitGroup
				for _, id := range ids {
					wg.Go(func() {
						if _, err := h.Info(t.Context(), id, 0); !errors.Is(err, shard.ErrUnavailable) {
							t.Errorf("%s: %v", id, err)
						}
					})
				}
				wg.Wait()
				return log.Ops().Replays - before
			}
		}
		var most []shard.StreamID
		for i := range forks - 1 {
			most = append(most, id(i))
		}
		alone := replays(id(0))(node(t, log))
		h := node(t, log)
		if n := replays(most...)(h); n != alone {
			t.Errorf("%d forks cost %d replays, one costs %d", len(most), n, alone)
		}
		if n := replays(id(forks - 1))(h); n != 0 {
			t.Errorf("a later fork costs %d replays", n)
		}
	})
}

// A read of a source that began before a fork held it, for another fork, does not refuse that fork:
// the source is read again.
func TestForkIsConfirmedByALaterRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h, late := node(t, log), node(t, log)
		life := do(t, h, create("text/plain", "a"), shard.CodeCreated).Info.Generation
		a := shard.Ancestor{Stream: stream, Generation: life, Start: 1, Bound: 2}
		appendForged(t, log, "default/forged", func(pos shard.Pos) []byte { return shard.ForgeFork(pos, a) })
		gate := make(chan struct{})
		var asked, held atomic.Bool
		log.set(hooks{
			last: func(id shard.StreamID) error {
				if id == stream {
					asked.Store(true)
				}
				return nil
			},
			read: func() error { // the first read of the source after its tail was looked up
				if asked.Load() && !held.Swap(true) {
					<-gate
				}
				return nil
			},
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			if chain := chainOf(t, late, "default/forged"); len(chain) != 0 {
				t.Errorf("forged: %+v", chain)
			}
		})
		synctest.Wait()
		if !held.Load() {
			t.Fatal("the source is not being read")
		}
		do(t, h, forkOf(t, h, stream, forked), shard.CodeCreated)
		wg.Go(func() {
			if chain := chainOf(t, late, forked); len(chain) != 1 {
				t.Errorf("held: %+v", chain)
			}
		})
		synctest.Wait()
		close(gate)
		wg.Wait()
	})
}

// However many sources of one project wait for storage, forks of another project are confirmed.
func TestProjectLeavesTurnsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h, late := node(t, log), node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		do(t, h, forkOf(t, h, stream, forked), shard.CodeCreated)
		gate := make(chan struct{})
		log.set(hooks{last: func(id shard.StreamID) error {
			if strings.HasPrefix(string(id), "attacker/source") {
				<-gate
			}
			return nil
		}})
		var wg sync.WaitGroup
		defer wg.Wait()
		defer close(gate)
		for i := range 20 {
			a := shard.Ancestor{Stream: shard.StreamID(fmt.Sprintf("attacker/source%d", i)), Generation: 1, Bound: 1}
			id := shard.StreamID(fmt.Sprintf("attacker/fork%d", i))
			appendForged(t, log, id, func(pos shard.Pos) []byte { return shard.ForgeFork(pos, a) })
			wg.Go(func() { _, _ = late.Info(t.Context(), id, 0) })
		}
		synctest.Wait()
		if chain := chainOf(t, late, forked); len(chain) != 1 {
			t.Errorf("%+v", chain)
		}
	})
}

// The sources that are remembered as too long are bounded.
func TestLongSourcesAreBounded(t *testing.T) {
	t.Parallel()
	if n := shard.RememberLongSources(10 * shard.MaxLongSources); n != shard.MaxLongSources {
		t.Errorf("%d are remembered, of at most %d", n, shard.MaxLongSources)
	}
}
