package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/fleet"
)

const nodeCount = 3

// system is the embedded S2 and the nodes.
type system struct {
	*fleet.Fleet
	opensSessions bool // for streams with readers
}

// replace stops a node as an orchestrator does, starts it again, and says how many
// streams changed hands, and of how many of those nothing was known.
func (s *system) replace(i int) (moved, lost float64, err error) {
	const taken, cold = `fantail_handovers_total{result="taken"}`, `fantail_handovers_total{result="lost"}`
	for n := range nodeCount {
		if n != i {
			m, err := s.Metrics(fleet.Admin(n))
			if err != nil {
				return 0, 0, err
			}
			moved, lost = moved-m[taken], lost-m[cold]
		}
	}
	if err := s.Restart(i); err != nil {
		return 0, 0, err
	}
	for n := range nodeCount {
		m, err := s.Metrics(fleet.Admin(n))
		if err != nil {
			return 0, 0, err
		}
		moved, lost = moved+m[taken], lost+m[cold]
	}
	return moved + lost, lost, nil
}

// meter returns what S2 has counted so far.
func (s *system) meter() (o ops, open float64, err error) {
	m, err := s.Metrics(fleet.Store)
	op := func(name string) float64 { return m[fmt.Sprintf("s2dev_operations_total{op=%q}", name)] }
	return ops{
		appends: op("append"), reads: op("read"), checks: op("check-tail"),
		creates:  op("create-stream") + op("ensure-stream"),
		sessions: op("read-session"), minutes: m["s2dev_read_session_minutes_total"],
	}, m["s2dev_open_read_sessions"], err
}

var client = &http.Client{Timeout: 10 * time.Second}

// send makes one request, whose answer must have the status want.
func send(method, url, body string, want int) error {
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	return nil
}

// patience bounds the time of each step.
const patience = 90 * time.Second
