package s2

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// gauge returns the value of a metric.
func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// testOrderProbe has a node try S2's append sessions, and returns what it has found.
func testOrderProbe(t *testing.T, log *Log) float64 {
	reg := prometheus.NewRegistry()
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{Pipelining: shard.PipeliningAuto, Metrics: reg})
	defer func() { _ = h.Close() }()
	h.WatchStanding(shard.LoneRole, func(shard.Standing) {})
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if v := gauge(t, reg, "fantail_append_order"); v != 0 {
			return v
		}
	}
	return 0
}

// The embedded S2 keeps the order of append sessions. A node finds that out for the price of one record.
func TestAppendOrderOfTheEmbeddedS2(t *testing.T) {
	r := newTestEnv(t)
	if got := testOrderProbe(t, r.log); got != 1 {
		t.Fatalf("found %v", got)
	}
	u := r.server.Usage().Streams[testBasin+"/"+fleetStream]
	if u.RecordsAppended != 2 || u.Ops[s2dev.OpAppendSession] != 1 {
		t.Errorf("%d records in the fleet's log, %v", u.RecordsAppended, u.Ops)
	}
}

// The same of the S2 at TEST_S2_ENDPOINT.
func TestLiteAppendOrder(t *testing.T) {
	endpoint := os.Getenv("TEST_S2_ENDPOINT")
	if endpoint == "" {
		t.Skip("TEST_S2_ENDPOINT names no S2")
	}
	basin := fmt.Sprintf("order-%08x", rand.Uint32())
	log := openForTest(t, Config{Endpoint: endpoint, Basin: basin, CreateBasins: true})
	if err := log.EnsureBasin(t.Context(), basin); err != nil {
		t.Fatal(err)
	}
	if got := testOrderProbe(t, log); got != 1 {
		t.Errorf("found %v", got)
	}
}

// Where no log is fixed, and where sessions are not those that would be tried, nothing is tried.
func TestAppendOrderCannotBeTried(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want error
	}{
		{Config{Endpoint: "http://127.0.0.1:1", BasinTemplate: "ds-{project}"}, ErrNotFixed},
		{Config{Endpoint: "http://127.0.0.1:1", Basin: testBasin, SDKSessions: true}, errSDKSessions},
		{Config{Endpoint: "http://127.0.0.1:1", BasinTemplate: "ds-{project}", HomeBasin: testBasin}, nil},
		{Config{Token: "x", BasinMap: map[string]string{"a": testBasin, "b": "fantail-other"}}, nil},
	} {
		log := openForTest(t, c.cfg)
		if id, err := log.OrderProbeLog(); !errors.Is(err, c.want) || (err == nil) != (id != "") {
			t.Errorf("%+v: %q, %v", c.cfg, id, err)
		}
	}
}
