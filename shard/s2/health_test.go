package s2

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

// One line reports the loss of S2, with endpoint and cause, and one its return, with the duration.
// A broken connection is not reported.
func TestOutageIsReportedOnceAndItsEndOnce(t *testing.T) {
	var b bytes.Buffer
	h := newHealth("http://s2:4430", slog.New(slog.NewTextHandler(&b, nil)))
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	now := time.Unix(1000, 0)
	tell := func(after time.Duration, err error, up bool) {
		t.Helper()
		if now = now.Add(after); err == nil {
			h.recordAnswer(now)
		} else {
			h.recordFailure(now, err)
		}
		if h.up.Load() != up {
			t.Errorf("up: %v", !up)
		}
	}
	tell(0, nil, true)
	for range 100 { // all calls of one connection
		tell(0, errors.New("connection reset"), true)
	}
	tell(2*outageAfter, nil, true)
	if b.Len() > 0 {
		t.Errorf("%s", b.String())
	}
	tell(time.Hour, refused, true)
	tell(outageAfter, refused, false)
	for range 100 {
		tell(time.Second, refused, false)
	}
	tell(time.Second, nil, true)
	tell(time.Second, nil, true)
	got := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(got) != 2 || !strings.Contains(got[0], "level=ERROR") || !strings.Contains(got[0], `cause="connection refused"`) ||
		!strings.Contains(got[0], "s2=http://s2:4430") || !strings.Contains(got[1], "level=INFO") || !strings.Contains(got[1], "after=1m42s") {
		t.Errorf("%s", b.String())
	}
}

func TestRootCauseIsOneLine(t *testing.T) {
	for want, err := range map[string]error{
		"no such host: s2.invalid": &net.OpError{Op: "dial", Err: &net.DNSError{Name: "s2.invalid"}},
		"unavailable away":         &s2.S2Error{Code: "unavailable", Message: "away", Status: 503, Origin: "server"},
		"no answer in time":        context.DeadlineExceeded,
		"first":                    errors.New("first\nsecond"),
	} {
		t.Run(want, func(t *testing.T) {
			if got := rootCause(err); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// Without any other call, the loss of S2 and its return are noticed.
func TestOutageIsNoticedWithoutCalls(t *testing.T) {
	r := newTestEnv(t)
	var b lockedBuffer
	reg := prometheus.NewRegistry()
	log, err := Open(Config{
		Endpoint: r.server.URL(), Basin: testBasin, timeout: time.Second, Metrics: reg, Logger: slog.New(slog.NewTextHandler(&b, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		log.Watch(ctx)
	}()
	up := func(want float64) {
		t.Helper()
		waitUntil(t, func() bool { return metric(t, reg, "fantail_s2_up") == want })
	}
	up(1)
	addr := r.server.Addr()
	if err := r.server.Close(); err != nil {
		t.Fatal(err)
	}
	// Nothing else calls S2: the next call is forced.
	log.metrics.health.failing.Store(true)
	up(0)
	if got := b.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, "connection refused") || !strings.Contains(got, addr) {
		t.Errorf("%s", got)
	}
	stop()
	<-watched
	if n := metric(t, reg, "fantail_s2_requests_total"); n < 3 {
		t.Errorf("%v requests are counted", n)
	}
	if _, err := log.Tail(t.Context(), id); !errors.Is(err, shard.ErrLogUnreachable) {
		t.Errorf("%v", err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// metric returns the sum of a metric over its labels.
func metric(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it does not come to that")
		}
	}
}
