package main

import (
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// knownMetrics returns the metrics of nodes, each with its labels, from /metrics of a fleet, and for
// those that have no value yet, from their descriptions.
func knownMetrics(t *testing.T) map[string][]string {
	t.Helper()
	f := startFleet(t, 2)
	c := newClient(t)
	c.must(t, 201, "PUT", f.url(0, "metrics"), "", "Content-Type", "text/plain")
	c.must(t, 200, "GET", f.url(1, "metrics"), "")
	withTLS := &node{cfg: nodeConfig{certificate: &certificateFiles{log: slog.New(slog.DiscardHandler)}}, registry: prometheus.NewRegistry()}
	withTLS.registerMetrics()

	known := map[string][]string{"up": {}}
	descriptions := make(chan *prometheus.Desc, 1000)
	f.nodes[0].registry.Describe(descriptions)
	withTLS.registry.Describe(descriptions)
	close(descriptions)
	pattern := regexp.MustCompile(`^Desc\{fqName: "([^"]+)", .*constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	for d := range descriptions {
		m := pattern.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("%s is described in another way", d)
		}
		known[m[1]] = nil
		for _, l := range strings.Split(m[2]+","+m[3], ",") {
			name, _, _ := strings.Cut(l, "=")
			known[m[1]] = append(known[m[1]], strings.TrimSpace(name))
		}
	}
	families, err := f.nodes[0].registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				known[family.GetName()] = append(known[family.GetName()], l.GetName())
			}
		}
	}
	return known
}

var (
	metricInQuery = regexp.MustCompile(`\b((?:fantail|process|go)_[a-z0-9_]+|up)\{((?:[^}"\\]|\\?"(?:[^"\\]|\\\\)*\\?")*)\}`)
	labelInQuery  = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)\\?"`)
	histogramPart = regexp.MustCompile(`_(bucket|sum|count)$`)
	groupInQuery  = regexp.MustCompile(`\b(?:by|on) \(([a-z_, ]+)\)`)
)

// Every query of the dashboard and of the rules asks for metrics and labels that nodes have.
func TestDashboardAndRulesAskForMetricsThatExist(t *testing.T) {
	known := knownMetrics(t)
	scraped := []string{"job", "instance", "le", "__name__"} // Prometheus' own
	for file, least := range map[string]int{"prometheus/rules.yaml": 25, "grafana/fantail.json": 50} {
		b, err := os.ReadFile("../../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		asked := metricInQuery.FindAllStringSubmatch(string(b), -1)
		for _, m := range asked {
			name := m[1]
			if _, ok := known[name]; !ok {
				name = histogramPart.ReplaceAllString(name, "")
			}
			labels, ok := known[name]
			if !ok {
				t.Errorf("%s: no node has the metric %s", file, m[1])
			}
			all = append(all, labels...)
			for _, l := range labelInQuery.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(labels, l[1]) && !slices.Contains(scraped, l[1]) {
					t.Errorf("%s: %s has no label %s", file, m[1], l[1])
				}
			}
		}
		for _, name := range regexp.MustCompile(`\bfantail_[a-z0-9_]+`).FindAllString(string(b), -1) {
			if _, ok := known[histogramPart.ReplaceAllString(name, "")]; !ok {
				t.Errorf("%s: no node has the metric %s", file, name)
			}
		}
		if len(asked) < least {
			t.Errorf("%s: %d queries are found", file, len(asked))
		}
		for _, m := range groupInQuery.FindAllStringSubmatch(string(b), -1) {
			for l := range strings.SplitSeq(m[1], ",") {
				if l = strings.TrimSpace(l); l != "" && !slices.Contains(all, l) && !slices.Contains(scraped, l) {
					t.Errorf("%s: no metric has the label %s", file, l)
				}
			}
		}
	}
}
