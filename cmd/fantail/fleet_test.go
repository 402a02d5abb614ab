package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"
)

// startFleet starts `fantail dev --nodes n` on free ports.
func startFleet(t *testing.T, n int) *devFleet {
	t.Helper()
	c := devCmd{Nodes: n, LongPoll: 20 * time.Second}
	f, err := c.start(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// forgetNodes leaves the nodes to the test, which stops them itself.
func (f *devFleet) forgetNodes() { f.nodes, f.places = nil, nil }

func (f *devFleet) url(i int, stream string) string {
	return "http://" + f.nodes[i%len(f.nodes)].publicListener.Addr().String() + "/v1/stream/" + stream
}

func (f *devFleet) sumMetric(name string) (sum float64) {
	for _, n := range f.nodes {
		sum += n.metricSum(name)
	}
	return sum
}

// The main job: three nodes, one stream, a hundred SSE readers on each node, writers on all. Every
// reader gets every message once, in order, and S2 sees one read session.
func TestFleetDeliversOnceInOrderWithOneSession(t *testing.T) {
	f := startFleet(t, 3)
	c := newClient(t)
	c.must(t, 201, "PUT", f.url(0, "main"), "", "Content-Type", "application/json")

	const perNode, writers, writes = 100, 9, 40
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	readers, ended := c.follow(ctx, t, 3*perNode, 20*time.Second, func(i, _ int) string { return f.url(i, "main") })

	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range writes {
				a, err := c.do(ctx, "POST", f.url(w+i, "main"), fmt.Sprintf("%q", fmt.Sprintf("%d-%d", w, i)), "Content-Type", "application/json")
				if err != nil || a.status != 204 {
					t.Errorf("append: %d %s %v", a.status, a.body, err)
				}
			}
		})
	}
	writing.Wait()
	if got := f.sumMetric("fantail_s2_read_sessions"); got != 1 {
		t.Errorf("%v read sessions for one followed stream", got)
	}
	all := c.readAll(t, f.url(1, "main"))
	if len(all) != writers*writes {
		t.Fatalf("%d messages in the stream, want %d", len(all), writers*writes)
	}
	eventually(t, 20*time.Second, "every message is delivered", func() bool {
		for _, r := range readers {
			if r.count.Load() < int64(len(all)) {
				return false
			}
		}
		return true
	})
	eventually(t, 5*time.Second, "every delivery is counted", func() bool {
		return f.sumMetric("fantail_messages_delivered_total") == float64((len(readers)+1)*len(all)) // readAll is one more
	})
	usage := f.s2.Usage().Streams[devBasin+"/default/main"]
	stop()
	ended()
	for i, r := range readers {
		wantSame(t, fmt.Sprintf("reader %d", i), r.got, all)
		if r.tries != 1 {
			t.Errorf("reader %d connected %d times", i, r.tries)
		}
	}
	if usage.OpenReadSessions != 1 {
		t.Errorf("S2 counts %d open read sessions", usage.OpenReadSessions)
	}
	if got := f.sumMetric("fantail_gaps_detected_total"); got != 0 {
		t.Errorf("%v gaps", got)
	}
}
