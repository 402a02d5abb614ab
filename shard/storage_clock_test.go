package shard_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// newNodeWithClockOff returns a node with a clock that is off by so much.
func newNodeWithClockOff(t testing.TB, log shard.Log, by time.Duration) (*shard.Manager, *prometheus.Registry, *bytes.Buffer) {
	t.Helper()
	reg, lines := prometheus.NewRegistry(), &bytes.Buffer{}
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{
		Now: func() time.Time { return time.Now().Add(by) }, Metrics: reg, Logger: slog.New(slog.NewTextHandler(lines, nil)),
	})
	t.Cleanup(func() { _ = h.Close() })
	return h, reg, lines
}

// forEachClockOffset calls fn with clocks that are right, an hour ahead and an hour behind.
func forEachClockOffset(t *testing.T, fn func(t *testing.T, by time.Duration)) {
	for name, by := range map[string]time.Duration{"right": 0, "ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { fn(t, by) }) })
	}
}

// A node's clock ends no generation early: neither the owner's clock, nor the clock of a node that
// takes the stream over, by the log or by a handover.
func TestNoClockEndsAGenerationEarly(t *testing.T) {
	forEachClockOffset(t, func(t *testing.T, by time.Duration) {
		log := logtest.NewMemory(1)
		first := node(t, log)
		do(t, first, withTTL(600, "a"), shard.CodeCreated)
		expiry := onStream(numberedStream(1), create("text/plain", "a"))
		expiry.Expires = shard.MillisOf(time.Now().Add(10 * time.Minute))
		do(t, first, expiry, shard.CodeCreated)
		there := func(h *shard.Manager, when string) {
			t.Helper()
			for _, id := range []shard.StreamID{stream, numberedStream(1)} {
				if info, err := h.Info(t.Context(), id, 0); err != nil || !info.Exists {
					t.Fatalf("%s: %s: %+v, %v", when, id, info, err)
				}
			}
		}
		second, _, _ := newNodeWithClockOff(t, log, by)
		there(second, "read")
		do(t, second, appendReq("text/plain", "b"), shard.CodeAppended)
		over, ok := second.HandOver(stream, 0)
		if !ok {
			t.Fatal("nothing is handed over")
		}
		third, _, _ := newNodeWithClockOff(t, log, -by)
		if err := third.InstallHandover(stream, over); err != nil {
			t.Fatal(err)
		}
		advance(9*time.Minute + 50*time.Second)
		there(third, "handed over, ten seconds early")
		fourth, _, _ := newNodeWithClockOff(t, log, by)
		there(fourth, "read, ten seconds early")
	})
}

// Once both clocks say so the generation ends, an hour late at most where a clock is behind. The
// end is counted and logged.
func TestGenerationEndsByBothClocks(t *testing.T) {
	forEachClockOffset(t, func(t *testing.T, by time.Duration) {
		log := logtest.NewMemory(1)
		h, reg, lines := newNodeWithClockOff(t, log, by)
		do(t, h, withTTL(600, "a"), shard.CodeCreated)
		late := max(-by, 0)
		advance(15*time.Minute + late)
		if exists(t, h, 0) {
			t.Fatal("it is still there")
		}
		if n := metric(t, reg, "fantail_expired_streams_total"); n != 1 {
			t.Errorf("%v expiries", n)
		}
		advance(2 * time.Minute)
		_ = h.Close()
		if n := strings.Count(lines.String(), "streams have expired"); n != 1 {
			t.Errorf("%d lines about it:\n%s", n, lines)
		}
		if said := strings.Contains(lines.String(), "clock differs from S2's"); said != (by != 0) {
			t.Errorf("a clock that is off by %v is told of: %v", by, said)
		}
		if skew := metric(t, reg, "fantail_clock_skew_seconds"); skew != by.Seconds() {
			t.Errorf("skew %v, want %v", skew, by)
		}
	})
}

// A use counts, whatever the clock of the node that sees it, and of the node that the stream is
// handed over to.
func TestUsesCountWhateverTheClock(t *testing.T) {
	forEachClockOffset(t, func(t *testing.T, by time.Duration) {
		log := logtest.NewMemory(1)
		first, _, _ := newNodeWithClockOff(t, log, by)
		do(t, first, withTTL(300, "a"), shard.CodeCreated)
		advance(50 * time.Second) // so much is not made durable
		if !exists(t, first, shard.InfoTouch) {
			t.Fatal("expired")
		}
		over, _ := first.HandOver(stream, 0)
		second, _, _ := newNodeWithClockOff(t, log, -by)
		if err := second.InstallHandover(stream, over); err != nil {
			t.Fatal(err)
		}
		advance(298 * time.Second)
		if !exists(t, second, 0) {
			t.Error("a use was lost on the way")
		}
		advance(5*time.Minute + by.Abs())
		if exists(t, second, 0) {
			t.Error("it is used no more and still there")
		}
	})
}

// A stream that is followed does not expire where the clock is off, nor do its touches stop.
func TestFollowedStreamLivesWhateverTheClock(t *testing.T) {
	forEachClockOffset(t, func(t *testing.T, by time.Duration) {
		log := logtest.NewMemory(1)
		h, _, _ := newNodeWithClockOff(t, log, by)
		do(t, h, withTTL(300, "a"), shard.CodeCreated)
		_, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		advance(3 * time.Hour)
		if !exists(t, h, 0) {
			t.Fatal("expired under its follower")
		}
		durable := log.Records(stream)
		if d := time.Now().UnixMilli() - int64(durable[len(durable)-1].Time); d > 3*60_000 {
			t.Errorf("the last touch is %d ms old", d)
		}
		release()
		advance(299 * time.Second)
		if !exists(t, h, 0) {
			t.Error("expired before its TTL after the last follower")
		}
	})
}

// Where no append tells S2's time a node writes a clock record, once a minute at most and never to
// the stream.
func TestClockRecordsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		first := node(t, log)
		do(t, first, withTTL(600, "a"), shard.CodeCreated)
		for i := range 20 {
			do(t, first, onStream(numberedStream(i), withTTL(600, "a")), shard.CodeCreated)
		}
		_ = first.Close()
		wrote := len(log.Records(stream))
		h, _, _ := newNodeWithClockOff(t, log, 2*time.Hour)
		before := log.Ops().Appends
		for range 100 {
			if !exists(t, h, 0) {
				t.Fatal("expired")
			}
			for i := range 20 {
				if info, err := h.Info(t.Context(), numberedStream(i), 0); err != nil || !info.Exists {
					t.Fatalf("%+v, %v", info, err)
				}
			}
			advance(time.Second)
		}
		if n := log.Ops().Appends - before; n != 1 {
			t.Errorf("%d appends", n)
		}
		if n := len(log.Records(stream)); n != wrote {
			t.Errorf("%d records in the stream, and not %d", n, wrote)
		}
		if n := len(log.Records("__ds/clock")); n != 1 {
			t.Errorf("%d clock records", n)
		}
		advance(15 * time.Minute)
		if exists(t, h, 0) {
			t.Error("it is still there long after its time")
		}
	})
}

// The first record of the fleet's log is the fleet's; clock records follow it.
func TestClockRecordsFollowTheFleetRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		do(t, node(t, log), withTTL(600, "a"), shard.CodeCreated)
		log.AppendForeign("__ds/fleet", "the fleet")
		h, _, _ := newNodeWithClockOff(t, log, 2*time.Hour)
		if !exists(t, h, 0) {
			t.Fatal("expired")
		}
		if n := len(log.Records("__ds/fleet")); n != 2 {
			t.Errorf("%d records in the fleet's log", n)
		}
		if string(log.Records("__ds/fleet")[0].Body) != "the fleet" {
			t.Error("the fleet's record is gone")
		}
	})
}

// uncappedLog is a Log in which some logs take their timestamps from clients.
type uncappedLog struct {
	*logtest.Memory
	uncapped map[shard.StreamID]bool
}

func (l uncappedLog) Capped(_ context.Context, id shard.StreamID) (bool, error) {
	return !l.uncapped[id], nil
}

// A log that takes timestamps from clients ends no stream: neither its own, nor others.
func TestUncappedTimestampsEndNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := uncappedLog{logtest.NewMemory(1), map[shard.StreamID]bool{stream: true}}
		maker := node(t, log)
		q := create("text/plain", "a")
		q.Expires = shard.MillisOf(time.Now().Add(time.Minute))
		do(t, maker, q, shard.CodeCreated)
		do(t, maker, onStream(numberedStream(1), withTTL(3000, "a")), shard.CodeCreated)
		h, _, lines := newNodeWithClockOff(t, log, 2*time.Hour)
		log.Now = func() time.Time { return time.Now().Add(1000 * time.Hour) }
		log.AppendForeign(stream, "later than all") // and so are all that follow it there
		log.Now = nil
		do(t, h, appendReq("text/plain", "b"), shard.CodeAppended)
		if info, err := h.Info(t.Context(), numberedStream(1), 0); err != nil || !info.Exists {
			t.Errorf("another stream has ended: %+v, %v", info, err)
		}
		advance(time.Hour)
		if !exists(t, h, 0) || !strings.Contains(lines.String(), "does not expire") {
			t.Errorf("the stream has ended:\n%s", lines)
		}
	})
}

// A repeat is recognised by the duration since its id was minted, not by a clock: from an edge with
// a clock an hour ahead it is not written twice.
func TestRepeatsAreToldByDuration(t *testing.T) {
	forEachClockOffset(t, func(t *testing.T, by time.Duration) {
		log := logtest.NewMemory(1)
		h, _, _ := newNodeWithClockOff(t, log, by)
		do(t, h, create("text/plain"), shard.CodeCreated)
		first := appendReq("text/plain", "once")
		first.MintedMillis = shard.MillisOf(time.Now().Add(time.Hour))
		first.MintedAt = time.Now()
		do(t, h, first, shard.CodeAppended)
		for range 1100 { // its id leaves the window
			do(t, h, appendReq("text/plain", "x"), shard.CodeAppended)
		}
		advance(5 * time.Second)
		again := *first
		again.Repeat = true
		if out, err := h.Do(t.Context(), &again); err == nil {
			t.Errorf("written again: %+v", out)
		}
		late := appendReq("text/plain", "new")
		late.MintedAt, late.MintedMillis, late.Repeat = time.Now(), 0, true
		advance(time.Second)
		do(t, h, late, shard.CodeAppended)
	})
}

// A TTL of zero is over with the acknowledgement, however late earlier acknowledgements came.
func TestZeroTTLEndsWithTheAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		for i := range 20 {
			do(t, h, onStream(numberedStream(i), create("text/plain")), shard.CodeCreated)
			advance(time.Millisecond)
		}
		log.Now = func() time.Time { return time.Now().Add(30 * time.Millisecond) } // as acks differ in how long they take
		do(t, h, withTTL(0, "a"), shard.CodeCreated)
		advance(30 * time.Millisecond)
		if exists(t, h, 0) {
			t.Error("it is still there")
		}
	})
}
