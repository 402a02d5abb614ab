package s2

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// The embedded S2 passes the conformance suite of logs over a socket, with either client's sessions.
func TestConformanceOverTheSocket(t *testing.T) {
	r := newTestEnv(t)
	t.Run("suite", func(t *testing.T) { // its parallel cases end before the server is closed
		logtest.Test(t, func(*testing.T) shard.Log { return r.log })
	})
	sdk := openForTest(t, Config{Endpoint: r.server.URL(), Basin: testBasin, SDKSessions: true})
	t.Run("suite with the SDK's sessions", func(t *testing.T) {
		logtest.Test(t, func(*testing.T) shard.Log { return sdk })
	})
}

func openForTest(t *testing.T, cfg Config) *Log {
	t.Helper()
	log, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}

// TestLite runs the suite on the S2 at TEST_S2_ENDPOINT. .ci/run sets it to a real s2-lite.
func TestLite(t *testing.T) {
	endpoint := os.Getenv("TEST_S2_ENDPOINT")
	if endpoint == "" {
		t.Skip("TEST_S2_ENDPOINT names no S2")
	}
	for name, sdk := range map[string]bool{"suite": false, "suite with the SDK's sessions": true} {
		log := openForTest(t, Config{Endpoint: endpoint, Basin: "fantail-logtest", CreateBasins: true, SDKSessions: sdk})
		if err := log.EnsureBasin(t.Context(), "fantail-logtest"); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			logtest.Test(t, func(*testing.T) shard.Log { return log })
		})
	}
}

// The embedded S2 passes the suite without a socket.
func TestConformanceInProcess(t *testing.T) {
	r := newTestEnv(t)
	log, err := OpenInProcess(r.basin, Config{Basin: "fantail-in-process", CreateBasins: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("suite", func(t *testing.T) {
		logtest.Test(t, func(*testing.T) shard.Log { return log })
	})
}

// Lost and refused calls are reported as over a socket, and a session survives a restart.
func TestFaultsInProcessAreAsOverTheSocket(t *testing.T) {
	r := newTestEnv(t)
	log, err := OpenInProcess(r.basin, Config{Basin: testBasin, backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Create(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	batch := []shard.Entry{{Body: []byte("a"), Header: []byte("h")}}
	for at, c := range []struct {
		fault s2dev.Fault
		want  error
		tail  shard.Pos
	}{
		{s2dev.Fault{Kind: s2dev.LoseAck}, shard.ErrAppendUnknown, 1},
		{s2dev.Fault{Kind: s2dev.LoseRequest}, shard.ErrAppendUnknown, 1},
		{s2dev.Fault{Kind: s2dev.Refuse, Code: "rate_limited"}, shard.ErrLogBusy, 1},
		{s2dev.Fault{Kind: s2dev.Refuse, Code: "permission_denied"}, shard.ErrLogDenied, 1},
	} {
		c.fault.Op, c.fault.Count = s2dev.OpAppend, 1
		r.server.Faults().Add(c.fault)
		if _, err := log.Append(t.Context(), id, min(shard.Pos(at), c.tail), batch); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.fault, err, c.want)
		}
		if tail, err := log.Tail(t.Context(), id); err != nil || tail != c.tail {
			t.Errorf("%+v: the tail is %d: %v", c.fault, tail, err)
		}
	}
	var lost *shard.TailError
	if _, err := log.Append(t.Context(), id, 0, batch); !errors.As(err, &lost) || lost.Tail != 1 {
		t.Errorf("an append in the past: %v", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var restart sync.Once
	pos := uint64(0)
	err = log.Follow(ctx, id, 0, func(p shard.Page) error {
		for _, rec := range p.Records {
			if rec.Pos != shard.Pos(pos) || string(rec.Body) != "a" || string(rec.Header) != "h" {
				t.Errorf("%+v at %d", rec, pos)
			}
			pos++
		}
		switch {
		case pos == 3:
			return errSessionDone
		case pos == 1 && p.HasTail:
			restart.Do(func() {
				go func() { // the session has to end before the server does
					_ = r.server.Restart()
					_, _ = log.Append(ctx, id, 1, []shard.Entry{batch[0], batch[0]})
				}()
			})
		}
		return nil
	})
	if !errors.Is(err, errSessionDone) || log.OpenSessions() != 0 {
		t.Errorf("%v; %d sessions are open", err, log.OpenSessions())
	}
}
