package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/edge"
)

// stuckStore is a store with a Close that never returns.
type stuckStore struct {
	store
	until chan struct{}
}

func (s stuckStore) Close() error {
	<-s.until
	return s.store.Close()
}

// A node stops in spite of a dependency that does not answer: within its grace, or on a second
// signal.
func TestStopEndsWithTheGraceOrASecondSignal(t *testing.T) {
	for why, again := range map[string]chan os.Signal{"the grace ran out": nil, "a second signal": make(chan os.Signal, 1)} {
		f := startFleet(t, 1)
		n := f.nodes[0]
		f.forgetNodes() // or the stop would wait for its S2
		s := stuckStore{n.store, make(chan struct{})}
		defer close(s.until)
		n.store = s
		var log bytes.Buffer
		n.cfg.log = slog.New(slog.NewTextHandler(&log, nil))
		if n.cfg.grace = 100 * time.Millisecond; again != nil {
			n.cfg.grace = time.Hour
			again <- syscall.SIGTERM
		}
		stopped := make(chan error)
		go func() { stopped <- n.stopWithinGrace(again) }()
		select {
		case err := <-stopped:
			if err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%v, want %q", err, why)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it is still stopping")
		}
		if again == nil && !strings.Contains(log.String(), `while="closing S2"`) {
			t.Errorf("what it was at is not in %q", log.String())
		}
	}
}

// A process ends within its grace even if a silent client has connected to its relay, and
// immediately on a second signal.
func TestProcessEndsWithinItsGrace(t *testing.T) {
	t.Parallel()
	ps := startProcesses(t, 0)
	deaf := ps.spawn(t, 0, "--grace=3s")
	conn, err := net.Dial("tcp", deaf.addr("relay"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	twice := ps.spawn(t, 1, "--grace=10m", "--linger=5m")
	for _, p := range []*process{deaf, twice} {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	c := newClient(t)
	eventually(t, 20*time.Second, "it stops", func() bool {
		a, err := c.do(t.Context(), "GET", "http://"+twice.addr("admin")+"/readyz", "")
		return err == nil && a.status == 503 && string(a.body) == "stopping\n"
	})
	// A signal together with the first is the same stop. A later one is another.
	eventually(t, 10*time.Second, "it ends", func() bool {
		return twice.cmd.Process.Signal(syscall.SIGTERM) != nil
	})
	var exit *exec.ExitError
	if err := twice.waitForEnd(t, 10*time.Second); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("a second signal: %v", err)
	}
	_ = deaf.waitForEnd(t, 10*time.Second)
}

// If the public or admin server of a node ends by itself, the node stops, with that server's error.
func TestNodeStopsWhenAServerEnds(t *testing.T) {
	for _, which := range []string{"public", "admin"} {
		f := startFleet(t, 1)
		n := f.nodes[0]
		l := map[string]net.Listener{"public": n.publicListener, "admin": n.adminListener}[which]
		f.forgetNodes()
		over := make(chan error)
		go func() { over <- n.serveUntil(t.Context(), nil) }()
		_ = l.Close()
		select {
		case err := <-over:
			if err == nil || !strings.HasPrefix(err.Error(), which+" server: ") {
				t.Errorf("%v, want one of the %s server", err, which)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the node lives on")
		}
	}
}

// A stopping node is not ready, and serves on for the whole linger: requests and event streams that
// a balancer still sends, with a hint not to come again.
func TestStoppingNodeServesOnWhileItLingers(t *testing.T) {
	f := startFleet(t, 1)
	n := f.nodes[0]
	if n.cfg.linger != 0 {
		t.Errorf("a lone node on a terminal lingers for %v", n.cfg.linger)
	}
	n.cfg.linger = time.Hour
	c := newClient(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	url := f.url(0, "s")
	f.forgetNodes()
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop(ctx) }()
	eventually(t, 10*time.Second, "it is not ready", func() bool {
		a, err := c.do(ctx, "GET", "http://"+n.adminListener.Addr().String()+"/readyz", "")
		return err == nil && a.status == 503
	})
	eventually(t, 10*time.Second, "answers say not to come again", func() bool {
		resp, err := c.http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.Close
	})
	c.must(t, 201, "PUT", url, `"0"`, ofJSON...)
	reading, done := context.WithCancel(ctx)
	defer done()
	_, ended := c.follow(reading, t, 1, 10*time.Second, func(int, int) string { return url })
	done()
	ended()
	select {
	case err := <-stopped:
		t.Errorf("it has stopped: %v", err)
	default:
	}
	stop()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Linger starts when readiness goes off: a node that was drained before does not wait again.
func TestLingerCountsFromReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{cfg: nodeConfig{grace: time.Minute, linger: 5 * time.Second, log: slog.New(slog.DiscardHandler)}}
		n.edge = edge.New(edge.Config{}, nil)
		defer n.edge.Close()
		took := func() time.Duration {
			began := time.Now()
			n.departure.makeFinal(drainReport{})
			if err := n.depart(t.Context()); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		n.startDrain()
		<-time.After(3 * time.Second)
		if d := took(); d != 2*time.Second {
			t.Errorf("it took %v after a drain of 3 s", d)
		}
		n.departure = departure{}
		if d := took(); d != 5*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// Streams without followers are not active.
func TestStreamsWithoutReadersAreNotActive(t *testing.T) {
	f := startFleet(t, 1)
	newClient(t).must(t, 201, "PUT", f.url(0, "s"), "", ofJSON...)
	if got, want := f.statusLine(), "readers 0 · active streams 0 · S2 read sessions 0"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
