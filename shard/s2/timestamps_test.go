package s2

import (
	"testing"
	"time"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

// A log is created so that no record is later than S2's clock. A log with other settings is
// recognized, with and without a socket.
func TestTimestampsAreCapped(t *testing.T) {
	r := newTestEnv(t)
	embedded, err := OpenInProcess(r.basin, Config{Basin: testBasin})
	if err != nil {
		t.Fatal(err)
	}
	r.createStream()
	want := func(capped bool) {
		t.Helper()
		for _, l := range []shard.TimestampPolicy{r.log, embedded} {
			if got, err := l.Capped(t.Context(), id); err != nil || got != capped {
				t.Errorf("%T: %v, %v", l, got, err)
			}
		}
	}
	want(true)
	for _, c := range []struct {
		timestamping sdk.TimestampingReconfiguration
		capped       bool
	}{
		{sdk.TimestampingReconfiguration{Uncapped: new(true)}, false},
		{sdk.TimestampingReconfiguration{Uncapped: new(false), Mode: new(sdk.TimestampingModeArrival)}, true},
		{sdk.TimestampingReconfiguration{Mode: new(sdk.TimestampingModeClientRequire)}, false},
	} {
		if _, err := r.basinClient().Streams.Reconfigure(t.Context(), sdk.ReconfigureStreamArgs{
			Stream: sdk.StreamName(id), Config: sdk.StreamReconfiguration{Timestamping: &c.timestamping},
		}); err != nil {
			t.Fatal(err)
		}
		want(c.capped)
	}
}

// Each basin with streams has a log of the fleet, and it is writable.
func TestEachBasinHasAWritableFleetLog(t *testing.T) {
	for want, c := range map[string]Config{
		"fantail-dev __ds/fleet": {Basin: "fantail-dev"},
		"ds-project __ds/fleet":  {BasinTemplate: "ds-{project}"},
		"basin-of-p __ds/fleet":  {BasinMap: map[string]string{"project": "basin-of-p"}},
	} {
		t.Run(want, func(t *testing.T) {
			basin, stream, err := c.locate(c.fleetLog("project/a/b"))
			if got := basin + " " + stream; err != nil || got != want {
				t.Errorf("%s, %v; want %s", got, err, want)
			}
		})
	}
}

// A node with a clock an hour ahead, that has not heard S2's time, asks S2 before it ends a
// stream.
func TestNodeAheadAsksS2ForTheTimeBeforeItEndsAStream(t *testing.T) {
	r := newTestEnv(t)
	first := r.newManagerAt(nil)
	q := &shard.Request{
		Stream: id, Op: shard.OpCreate, ID: shard.NewAppendID(), MintedAt: time.Now(), Type: "text/plain", HasTTL: true, TTL: 600,
	}
	if out, err := first.Do(t.Context(), q); err != nil || out.Code != shard.CodeCreated {
		t.Fatal(out, err)
	}
	ahead := r.newManagerAt(func() time.Time { return time.Now().Add(time.Hour) })
	for range 3 {
		if info, err := ahead.Info(t.Context(), id, 0); err != nil || !info.Exists {
			t.Fatalf("%+v, %v", info, err)
		}
	}
	if tail, err := r.log.Tail(t.Context(), "__ds/clock"); err != nil || tail != 2 {
		t.Errorf("%d records of clocks, %v", tail, err)
	}
}
