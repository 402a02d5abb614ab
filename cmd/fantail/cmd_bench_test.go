package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

// A measurement of a real fleet counts every append and delivery.
func TestBench(t *testing.T) {
	f := startFleet(t, 2)
	at := "--url=" + strings.TrimSuffix(f.url(0, ""), "/v1/stream/")
	nodes := []string{"--nodes=" + strings.TrimSuffix(f.url(0, ""), "/v1/stream/"), "--nodes=" + strings.TrimSuffix(f.url(1, ""), "/v1/stream/")}
	args := append([]string{"bench", at, "--streams=2", "--writers=2", "--readers=3", "--rate=20", "--for=1s", "--warmup=200ms"}, nodes...)
	var r benchResult
	if err := json.Unmarshal([]byte(mustPrint(t, "", append(args, "--json")...)), &r); err != nil {
		t.Fatal(err)
	}
	if r.Appends < 20 || math.Abs(float64(r.Deliveries)-3*float64(r.Appends)) > 0.2*3*float64(r.Appends) || r.Append.P50 <= 0 || r.Append.P99 > r.Append.Max || r.Delivery.P50 > r.Delivery.P99 {
		t.Errorf("%+v", r)
	}
	if got := mustPrint(t, "", append(args, "--rate=0", "--live=long-poll")...); !strings.Contains(got, "deliveries") || !strings.Contains(got, "2 streams, 4 writers, 6 readers, 200 bytes") {
		t.Errorf("%s", got)
	}
	if left := mustPrint(t, "", "ls", "-l", at); left != "" {
		t.Errorf("streams are left: %s", left)
	}
	mustExit(t, exitUsage, "bench", at, "--size=1")
	mustExit(t, exitUnavailable, "bench", "--url="+freePorts(t, 1)[0], "--patience=100ms")
}

// Quantiles are right to 2 %.
func TestLatencies(t *testing.T) {
	var l latencies
	for i := 1; i <= 100_000; i++ {
		l.add(time.Duration(i) * 10 * time.Microsecond)
	}
	q := l.quantiles()
	for want, got := range map[float64]float64{500: q.P50, 900: q.P90, 990: q.P99, 999: q.P999, 1000: q.Max} {
		if math.Abs(got-want) > 0.02*want {
			t.Errorf("%v ms, want %v", got, want)
		}
	}
	for _, us := range []uint64{0, 1, 31, 32, 63, 64, 1 << 20, 1<<40 + 12345, math.MaxInt64} {
		if got := latencyOf(latencyBucket(us)); math.Abs(got-float64(us)) > 0.02*float64(us)+0.5 {
			t.Errorf("%d becomes %v", us, got)
		}
	}
}
