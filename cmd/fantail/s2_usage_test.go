package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard/s2"
)

// S2 is asked every ten minutes at most, by one node of the fleet, and never again once it has said that it
// gives nothing.
func TestUsageIsAskedSeldom(t *testing.T) {
	for name, c := range map[string]struct {
		mine        bool
		err         error
		asked, told int
	}{
		"it answers":          {true, nil, 6, 0},
		"another node asks":   {false, nil, 0, 0},
		"it gives nothing":    {true, fmt.Errorf("%w: 403", s2.ErrNoUsage), 1, 1},
		"it fails for a time": {true, errors.New("busy"), 6, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				var log bytes.Buffer
				ask := func(_ context.Context, now time.Time) (s2.Usage, error) {
					asked++
					return s2.Usage{From: now.Add(-time.Hour), Until: now, SessionMinutes: 60, Reads: 5, Appends: 100}, c.err
				}
				w := newUsageWatch(ask, func() bool { return c.mine }, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
				ctx, stop := context.WithTimeout(t.Context(), time.Hour)
				defer stop()
				w.run(ctx)
				if told := strings.Count(log.String(), "\n"); asked != c.asked || told != c.told {
					t.Errorf("asked %d times, told %d times: %s", asked, told, log.String())
				}
				r := w.report()
				if (r != nil) != (c.mine && c.err == nil) {
					t.Errorf("%+v", r)
				}
				if want := (60*1e-6 + 5*1e-6 + 100*1e-7) * 720; r != nil && math.Abs(r.Dollars-want) > 1e-9 {
					t.Errorf("%v dollars, want %v", r.Dollars, want)
				}
				<-time.After(2 * time.Hour)
				if w.report() != nil {
					t.Error("old usage is shown")
				}
			})
		})
	}
}

// What S2 says stands in the answer about the fleet, and in top, beside Fantail's own estimate.
func TestUsageIsShown(t *testing.T) {
	f := startFleet(t, 2)
	now := time.Now()
	for i, n := range f.nodes { // the second node has asked last
		n.usage = newUsageWatch(nil, nil, slog.New(slog.DiscardHandler), n.registry)
		n.usage.newest.Store(&s2.Usage{From: now.Add(-time.Hour), Until: now.Add(time.Duration(i) * time.Second), SessionMinutes: float64(1000 * (i + 1))})
	}
	var fleet struct {
		Meter struct {
			Usage *usageReport `json:"s2_usage"`
		} `json:"meter"`
	}
	a := newClient(t).must(t, 200, "GET", "http://"+f.nodes[0].adminListener.Addr().String()+"/admin/fleet", "")
	if err := json.Unmarshal(a.body, &fleet); err != nil || fleet.Meter.Usage == nil || fleet.Meter.Usage.SessionMinutes != 2000 {
		t.Fatalf("%s %v", a.body, err)
	}
	var out bytes.Buffer
	c := topCmd{Limit: 20}
	if _, err := c.printAnswers(&out, a.body, json.RawMessage(`{"streams":[]}`), streamsAnswer{}, 0, true); err != nil {
		t.Fatal(err)
	}
	if want := "S2's own metrics, last hour: 2000 session minutes, 0 reads, 0 append minutes; $1.44 a month at that rate"; !strings.Contains(out.String(), want) {
		t.Errorf("%s", out.String())
	}
}

// The setting reaches S2's metrics, and is off by default.
func TestUsageSetting(t *testing.T) {
	asked := make(chan string, 100)
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/metrics") {
			asked <- r.URL.Path
		}
		w.WriteHeader(http.StatusNotImplemented)
	}))
	defer hs.Close()
	for _, c := range []struct {
		args []string
		err  string
	}{
		{[]string{"--s2-basin=fantail-test"}, ""},
		{[]string{"--s2-basin=fantail-test", "--s2-usage"}, ""},
		{[]string{"--s2-basin-template=ds-{project}", "--s2-usage"}, "--s2-usage"},
	} {
		var all cli
		parser, err := newParser(&all)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(append([]string{"serve", "--s2-endpoint=" + hs.URL}, c.args...)); err != nil {
			t.Fatal(err)
		}
		cfg, err := all.Serve.nodeConfig(slog.New(slog.DiscardHandler))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: %v", c.args, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		store, err := openStore(&cfg)
		if err != nil {
			t.Fatal(err)
		}
		n := &node{store: store, registry: prometheus.NewRegistry()}
		if n.openUsageWatch(&cfg); (n.usage != nil) != cfg.s2Usage || cfg.s2Usage != (len(c.args) > 1) {
			t.Errorf("%v: %v", c.args, n.usage)
		}
		if n.usage != nil {
			if _, err := n.usage.ask(t.Context(), time.Now()); !errors.Is(err, s2.ErrNoUsage) || len(asked) == 0 {
				t.Errorf("%v", err)
			}
		}
		_ = store.Close()
	}
}
