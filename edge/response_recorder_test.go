package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard"
)

// countsOf returns a metric's values by their labels.
func countsOf(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			if v := m.GetCounter().GetValue() + m.GetGauge().GetValue(); v != 0 {
				out[strings.Join(labels, " ")] = v
			}
		}
	}
	return out
}

// Each request is counted as what its answer means, whatever that is dressed in; what failed behind
// us leaves a line, of reads as of writes; and with an access log each request is one line.
func TestRequestsAreCountedAndLogged(t *testing.T) {
	reg := prometheus.NewRegistry()
	var log, access bytes.Buffer
	s := New(Config{
		Metrics: reg, MaxReaders: 7, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		AccessLog: slog.New(slog.NewJSONHandler(&access, nil)),
	}, fakeBackend{
		state: func(shard.InfoOptions) (shard.Info, error) {
			return shard.Info{}, fmt.Errorf("s2: read: %w\n%w", shard.ErrLogDenied, errors.New("token unknown"))
		},
		do: func(*shard.Request) (shard.Outcome, error) {
			return shard.Outcome{Code: shard.CodeAppended, Info: shard.Info{Exists: true, Generation: 1, Tail: 3}}, nil
		},
	})
	defer s.Close()
	ask(t, s, "GET", "/v1/stream/p/s?offset=-1", nil, header{"X-Request-Id": strings.Repeat("r", 1000)})
	ask(t, s, "HEAD", "/v1/stream/p/s", nil, nil)
	ask(t, s, "GET", "/v1/stream/p/s?offset=-1&live=long-poll", nil, nil)
	ask(t, s, "GET", "/v1/stream/p/s?offset=-1&live=sse", nil, header{"Accept": "text/event-stream"})
	ask(t, s, "POST", "/v1/stream/p/s", strings.NewReader("abc"), header{"Content-Type": "text/plain"})
	ask(t, s, "GET", "/", nil, nil)
	ask(t, s, "BREW", "/v1/stream/p/s", nil, nil)
	ask(t, s, "OPTIONS", "/v1/stream/p/s", nil, nil)
	got := countsOf(t, reg, "fantail_http_requests_total") // by code, method, mode
	want := map[string]float64{
		"503 GET catch-up": 1, "503 HEAD head": 1, "503 GET long-poll": 1, "503 GET sse": 1, "204 POST append": 1,
		"404 GET catch-up": 1, "405 other other": 1, "204 OPTIONS preflight": 1,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := countsOf(t, reg, "fantail_appended_bytes_total")[""]; got != 3 {
		t.Errorf("%v bytes were appended", got)
	}
	if got := countsOf(t, reg, "fantail_readers_limit")["all"]; got != 7 {
		t.Errorf("a limit of %v readers", got)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "problem=store-refuses") || !strings.Contains(got, "token unknown") || !strings.Contains(got, "path=/v1/stream/p/s") {
		t.Errorf("the log: %s", got)
	}
	lines := strings.Split(strings.TrimSpace(access.String()), "\n")
	if len(lines) != 8 {
		t.Fatalf("%d lines:\n%s", len(lines), access.String())
	}
	var first, sse struct {
		Method, Project, Stream, Mode, Problem string
		Status                                 int
		Bytes                                  int
		RequestID                              string `json:"request_id"`
	}
	if json.Unmarshal([]byte(lines[0]), &first) != nil || json.Unmarshal([]byte(lines[3]), &sse) != nil {
		t.Fatal(lines)
	}
	if first.Method != "GET" || first.Project != "p" || first.Stream != "s" || first.Mode != "catch-up" || first.Status != 503 ||
		first.Problem != "store-refuses" || first.Bytes == 0 || len(first.RequestID) != maxLogText {
		t.Errorf("%s", lines[0])
	}
	if sse.Status != 200 || sse.Problem != "store-refuses" || sse.Mode != "sse" {
		t.Errorf("%s", lines[3])
	}
}

// A reader that is told to come back is counted, by reason.
func TestRefusedReadersAreCounted(t *testing.T) {
	for want, cfg := range map[string]Config{
		"full":       {MaxReaders: 1},
		"full-files": {ConnectionsFull: func() bool { return true }},
		"draining":   {},
	} {
		t.Run(want, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			cfg.Metrics = reg
			s := New(cfg, fakeBackend{state: func(shard.InfoOptions) (shard.Info, error) {
				return shard.Info{Exists: true, Generation: 1, Type: "text/plain"}, nil
			}})
			switch want {
			case "full":
				if err := s.admitReader(modeLongPoll, false); err != nil {
					t.Fatal(err)
				}
			case "draining":
				s.rules.Change(true, 0)
			}
			w := ask(t, s, "GET", "/v1/stream/p/s?offset=-1&live=sse", nil, header{"Accept": "text/event-stream"})
			if w.Code != 200 || !strings.HasPrefix(w.Body.String(), "retry:") {
				t.Errorf("%s: %d %s", want, w.Code, w.Body)
			}
			if got := countsOf(t, reg, "fantail_readers_refused_total"); len(got) != 1 || got[want] != 1 {
				t.Errorf("%s: %v", want, got)
			}
			if got := countsOf(t, reg, "fantail_http_requests_total"); got["503 GET sse"] != 1 {
				t.Errorf("%s: %v", want, got)
			}
			s.Close()
		})
	}
}

// To tell of a request allocates nothing.
func TestCountingARequestAllocatesNothing(t *testing.T) {
	s := New(Config{Metrics: prometheus.NewRegistry()}, fakeBackend{})
	defer s.Close()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/stream/p/s", nil)
	tp := &responseRecorder{ResponseWriter: httptest.NewRecorder(), mode: modeAppend, status: 204, meansStatus: 204}
	s.metrics.countRequest(r.Method, tp)
	if n := testing.AllocsPerRun(1000, func() {
		s.metrics.countRequest(r.Method, tp)
		noteMode(tp, modeAppend)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
