package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/edge"
)

// An operator drains a node and cancels the drain. Meanwhile the node owns nothing, has no readers,
// and serves all requests. No reader or writer loses anything.
func TestDrainAndItsCancellationLoseNothing(t *testing.T) {
	f := startFleet(t, 3)
	c := newClient(t)
	f.nodes[0].cfg.drain = time.Second
	admin := "http://" + f.nodes[0].adminListener.Addr().String()
	c.must(t, 201, "PUT", f.url(0, "s"), "", ofJSON...)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var away atomic.Int64
	readers, ended := c.follow(ctx, t, 30, 20*time.Second, func(i, try int) string {
		return f.url(i+int(away.Load())*try, "s")
	})
	n := 0
	write := func() {
		writeSurely(ctx, t, c, func(i int) string { return f.url(i, "s") }, 0, n)
		n++
	}
	state := func(method string, status int) (string, int) {
		var a struct {
			State   string
			Readers int
		}
		body := c.must(t, status, method, admin+"/admin/drain", "").body
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatal(err)
		}
		return a.State, a.Readers
	}
	write()
	if s, r := state("GET", 200); s != "serving" || r != 10 {
		t.Errorf("%s with %d readers", s, r)
	}
	away.Store(1)
	state("POST", 202)
	eventually(t, 20*time.Second, "it is drained", func() bool {
		write()
		s, r := state("GET", 200)
		return s == "drained" && r == 0
	})
	state("POST", 202) // a second time
	c.must(t, 503, "GET", admin+"/readyz", "")
	if v := f.nodes[0].metricSum("fantail_owners"); v != 2 {
		t.Errorf("%v nodes own streams", v)
	}
	if s, _ := state("DELETE", 200); s != "serving" {
		t.Error(s)
	}
	eventually(t, 20*time.Second, "it is back", func() bool {
		write()
		a, err := c.do(ctx, "GET", admin+"/readyz", "")
		return err == nil && a.status == 200 && f.nodes[0].metricSum("fantail_owners") == 3
	})
	write()
	c.must(t, 204, "POST", f.url(0, "s"), "", "Stream-Closed", "true")
	ended()
	for i, r := range readers {
		if len(r.got) != n || !slices.IsSortedFunc(r.got, inOrder) {
			t.Errorf("reader %d: %d messages of %d: %s", i, len(r.got), n, strings.Join(r.got[:min(10, len(r.got))], " "))
		}
	}
}

// An operator that cancels a drain while the node begins to stop does not cancel the stop. Of two
// cancellations of the same drain one takes effect.
func TestCancellingADrainWhileTheNodeStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, final := range []bool{true, false} {
			ended := make(chan struct{})
			var log bytes.Buffer
			n := &node{cfg: nodeConfig{log: slog.New(slog.NewTextHandler(&log, nil))}, edge: edge.New(edge.Config{}, nil)}
			defer n.edge.Close()
			n.departure = departure{state: stateDraining, cancel: func() {}, done: ended}
			back := make(chan error, 2)
			go func() { back <- n.cancelDrain() }()
			synctest.Wait()
			if final {
				go n.departure.makeFinal(drainReport{})
			} else {
				go func() { back <- n.cancelDrain() }()
			}
			synctest.Wait()
			close(ended)
			synctest.Wait()
			want, backs := map[bool]error{true: errStopping}[final], map[bool]int{false: 1}[final]
			if err := <-back; !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			state, _ := n.departure.current()
			if want := map[bool]drainState{true: stateDraining, false: stateServing}[final]; state != want {
				t.Errorf("%s, want %s", state, want)
			}
			if got := strings.Count(log.String(), "serving again"); got != backs {
				t.Errorf("taken back %d times, want %d", got, backs)
			}
		}
	})
}
