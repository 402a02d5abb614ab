package shard_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

func (s wakeSignal) isWoken() bool {
	select {
	case <-s:
		return true
	default:
		return false
	}
}

func awaitCreation(t *testing.T, h *shard.Manager, id shard.StreamID) (w wakeSignal, stop func()) {
	t.Helper()
	w = make(wakeSignal, 1)
	stop, err := h.AwaitCreation(id, w)
	if err != nil {
		t.Fatal(err)
	}
	return w, stop
}

// A waiter is woken by a create and by a fork, immediately, and by what S2's own writers create within
// 30 s. Meanwhile it costs no session and, between checks, no Stream in memory.
func TestWaitersAreWokenByACreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		source := do(t, h, create("text/plain", "a"), shard.CodeCreated)
		for name, appear := range map[shard.StreamID]struct {
			do    func(id shard.StreamID)
			after time.Duration
		}{
			"default/created": {func(id shard.StreamID) {
				q := create("text/plain")
				q.Stream = id
				do(t, h, q, shard.CodeCreated)
			}, 0},
			"default/fork": {func(id shard.StreamID) {
				q := create("text/plain")
				q.Stream, q.Fork = id, &shard.Fork{Source: stream}
				q.Source = &shard.ForkSource{Generation: source.Info.Generation, Type: "text/plain", Chain: []shard.Ancestor{
					{Stream: stream, Generation: source.Info.Generation, Start: source.Info.Start, Bound: source.Info.Tail},
				}}
				do(t, h, q, shard.CodeCreated)
			}, 0},
			"default/foreign": {func(id shard.StreamID) {
				if err := log.Create(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				log.AppendForeign(id, "x")
			}, 30 * time.Second},
		} {
			w, stop := awaitCreation(t, h, name)
			before := log.Ops()
			inMemory := 0
			for range 300 {
				if advance(time.Second); h.HasStream(name) {
					inMemory++
				}
			}
			if w.isWoken() || log.OpenSessions() > 0 || inMemory > 250 {
				t.Errorf("%s: woken, or %d sessions, or in memory for %d s of 300", name, log.OpenSessions(), inMemory)
			}
			after := log.Ops()
			if asked := after.Tails - before.Tails + after.Reads - before.Reads; asked > 2*300/22 {
				t.Errorf("%s: S2 was asked %d times in 5 minutes", name, asked)
			}
			appear.do(name)
			advance(appear.after)
			synctest.Wait()
			if !w.isWoken() {
				t.Errorf("%s: not woken", name)
			}
			if info, err := h.Info(t.Context(), name, shard.InfoAllowCached); err != nil || !info.Exists {
				t.Errorf("%s: %+v, %v", name, info, err)
			}
			stop()
		}
	})
}

// Waiters of one name share an entry, each is woken, and one that has stopped is not.
func TestWaitersOfOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, logtest.NewMemory(1))
		a, stopA := awaitCreation(t, h, stream)
		b, stopB := awaitCreation(t, h, stream)
		gone, stopGone := awaitCreation(t, h, stream)
		stopGone()
		do(t, h, create("text/plain"), shard.CodeCreated)
		synctest.Wait()
		if !a.isWoken() || !b.isWoken() || gone.isWoken() {
			t.Error("want two woken, and not the one that has stopped")
		}
		stopA()
		stopB()
	})
}

// Only so many names are waited for; what is beyond is refused until there is room.
func TestAwaitedNamesAreBounded(t *testing.T) {
	h := node(t, logtest.NewMemory(1))
	var stops []func()
	for i := range shard.MaxAwaitedNames {
		_, stop := awaitCreation(t, h, shard.StreamID(fmt.Sprintf("p/%d", i)))
		stops = append(stops, stop)
	}
	if _, err := h.AwaitCreation("p/more", make(wakeSignal, 1)); !errors.Is(err, shard.ErrOverloaded) {
		t.Errorf("one more: %v", err)
	}
	_, again := awaitCreation(t, h, "p/0")
	again()
	stops[1]()
	_, stop := awaitCreation(t, h, "p/more")
	for _, stop := range append(stops, stop) {
		stop()
		stop()
	}
}
