package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// fleetWatch watches the nodes of a fleet during a proof, by their admin addresses: versions, and how
// many read sessions they opened at S2.
type fleetWatch struct {
	admin *adminClient
	names []string // addresses; each name stands for all that it resolves to
	sum   sessionSum
	seen  int // most nodes that answered together
}

// nodeFacts holds what one admin address tells.
type nodeFacts struct {
	version       string
	started       float64 // of the process
	sessionOpens  float64
	sessionsKnown bool
}

// sessionSum adds up a counter over processes that come and go. What a process counted before it was
// first asked does not count, unless it started during the proof.
type sessionSum struct {
	mu    sync.Mutex
	first map[string]float64
	last  map[string]float64
}

func (s *sessionSum) add(process string, isNew bool, opens float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		s.first, s.last = map[string]float64{}, map[string]float64{}
	}
	if _, known := s.first[process]; !known {
		s.first[process] = opens
		if isNew {
			s.first[process] = 0
		}
	}
	s.last[process] = opens
}

func (s *sessionSum) total() (sum float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for process, last := range s.last {
		sum += last - s.first[process]
	}
	return sum
}

// askNodes asks every admin address once. It returns how many nodes run each version.
func (w *fleetWatch) askNodes(ctx context.Context, began time.Time) map[string]int {
	versions := map[string]int{}
	for _, at := range resolveAll(ctx, w.names) {
		one := *w.admin
		one.base = "http://" + at
		b, err := one.callRaw(ctx, "GET", "/metrics")
		if err != nil {
			continue
		}
		f := factsOf(b)
		versions[f.version]++
		if f.sessionsKnown {
			w.sum.add(fmt.Sprintf("%s/%.3f", at, f.started), f.started > float64(began.UnixMilli())/1000, f.sessionOpens)
		}
	}
	total := 0
	for _, n := range versions {
		total += n
	}
	w.seen = max(w.seen, total)
	return versions
}

// watch looks once a second until ctx ends.
func (w *fleetWatch) watch(ctx context.Context, began time.Time) {
	for waitFor(ctx, time.Second) == nil {
		w.askNodes(ctx, began)
	}
}

// factsOf reads the metrics of a node.
func factsOf(metrics []byte) (f nodeFacts) {
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		number, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			continue
		}
		switch {
		case strings.HasPrefix(name, "fantail_build_info{"):
			f.version = labelOf(name, "version") + " (" + labelOf(name, "revision") + ")"
		case name == "process_start_time_seconds":
			f.started = number
		case name == "fantail_s2_session_opens_total":
			f.sessionOpens, f.sessionsKnown = number, true
		}
	}
	return f
}

// labelOf returns a label of a metric's name, as Prometheus writes it.
func labelOf(name, label string) string {
	_, rest, ok := strings.Cut(name, "{"+label+`="`)
	if !ok {
		_, rest, _ = strings.Cut(name, ","+label+`="`)
	}
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// resolveAll returns every address that host:port names stand for.
func resolveAll(ctx context.Context, names []string) (all []string) {
	for _, name := range names {
		at, err := localAddress(name)
		if err != nil {
			continue
		}
		host, port, err := net.SplitHostPort(at)
		if err != nil {
			continue
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			continue
		}
		for _, ip := range ips {
			all = append(all, net.JoinHostPort(ip, port))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// resolveNodes returns the URLs of nodes. A name over http stands for all of its addresses.
func resolveNodes(ctx context.Context, texts []string) (all []*url.URL, err error) {
	for _, text := range texts {
		u, err := dsclient.ParseBase(text)
		if err != nil {
			return nil, fmt.Errorf("--nodes: %w", err)
		}
		if u.Scheme != "http" {
			all = append(all, u)
			continue
		}
		port := u.Port()
		if port == "" {
			port = "80"
		}
		for _, at := range resolveAll(ctx, []string{net.JoinHostPort(u.Hostname(), port)}) {
			one := *u
			one.Host = at
			all = append(all, &one)
		}
	}
	return all, nil
}

// followNodes keeps the set of nodes as their names resolve, until ctx ends.
func followNodes(ctx context.Context, set *nodeSet, texts []string) {
	for waitFor(ctx, time.Second) == nil {
		if all, err := resolveNodes(ctx, texts); err == nil && len(all) > 0 {
			set.set(all)
		}
	}
}

// versionList returns versions with how many nodes run each, in order.
func versionList(versions map[string]int) (out []versionCount) {
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		out = append(out, versionCount{v, versions[v]})
	}
	return out
}
