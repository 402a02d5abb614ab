package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster"
)

// manifest returns a file of deploy without its comments.
func manifest(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)(^|[ \t]+)#.*$`).ReplaceAllString(string(b), "")
}

// mustMatchOnce returns what a pattern matches in s. It must match once.
func mustMatchOnce(t *testing.T, s, pattern string) string {
	t.Helper()
	all := regexp.MustCompile(`(?m)`+pattern).FindAllStringSubmatch(s, -1)
	if len(all) != 1 {
		t.Fatalf("%q is there %d times", pattern, len(all))
	}
	return all[0][1]
}

// settingsOf returns the names of serve's flags and variables, and the port of each address.
func settingsOf(t *testing.T) (names map[string]bool, ports map[string]string) {
	t.Helper()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	names, ports = map[string]bool{}, map[string]string{"relay": strconv.Itoa(cluster.DefaultRelayPort)}
	for _, n := range parser.Model.Children {
		if n.Name != "serve" {
			continue
		}
		for _, f := range slices.Concat(parser.Model.Flags, n.Flags) {
			names["--"+f.Name], names[variableOfFlag(f)] = true, true
			if _, port, err := net.SplitHostPort(f.Default); err == nil {
				ports[f.Name] = port
			}
		}
	}
	return names, ports
}

// The manifest starts nodes with settings that exist and fit together.
func TestKubernetesManifestSettingsExist(t *testing.T) {
	text := manifest(t, "kubernetes.yaml")
	names, _ := settingsOf(t)
	for _, name := range regexp.MustCompile(`FANTAIL_[A-Z0-9_]+|--[a-z][a-z0-9-]*`).FindAllString(text, -1) {
		if !names[name] {
			t.Errorf("%s: no such setting", name)
		}
	}
	environ := []string{"FANTAIL_SERVICE_PORT_HTTP=4437"}
	for _, m := range regexp.MustCompile(`- \{ name: ([A-Z0-9_]+), (?:value: "?([^" ]*)"? \}|valueFrom: .*(\bkey|fieldPath): (\S+))`).FindAllStringSubmatch(text, -1) {
		given := map[string]string{"secret": strings.Repeat("ab", 16), "s2-token": "token", "metadata.name": "fantail-0", "status.podIP": "10.0.0.1"}
		value := m[2] + given[m[4]]
		if value == "" {
			t.Fatalf("%s has no value", m[0])
		}
		environ = append(environ, m[1]+"="+value)
		t.Setenv(m[1], value)
	}
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{mustMatchOnce(t, text, `args: \[(\w+)\]`)}); err != nil {
		t.Fatal(err)
	}
	if err := checkVariables(parser.Model, environ); err != nil {
		t.Error(err)
	}
	cfg, err := c.Serve.nodeConfig(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	seconds, _ := strconv.Atoi(mustMatchOnce(t, text, `terminationGracePeriodSeconds: (\d+)`))
	if patience := time.Duration(seconds) * time.Second; patience <= cfg.grace {
		t.Errorf("nodes are killed after %v, within their grace of %v", patience, cfg.grace)
	}
	limit, _ := strconv.Atoi(mustMatchOnce(t, text, `limits: \{ memory: (\d+)Gi`))
	if strings.Contains(text, "GOMEMLIMIT") || budgetPool(int64(limit)<<30) < 1<<30 {
		t.Errorf("the limit of %d GiB is not what the budgets follow, or leaves them little", limit)
	}
}

// The manifest has all that a fleet needs, with the nodes' ports.
func TestKubernetesManifestIsComplete(t *testing.T) {
	text := manifest(t, "kubernetes.yaml")
	var kinds []string
	services := map[string]string{}
	for doc := range strings.SplitSeq(text, "\n---\n") {
		kind := mustMatchOnce(t, doc, `^kind: (\w+)$`)
		kinds = append(kinds, kind)
		if mustMatchOnce(t, doc, `^apiVersion: (\S+)$`) == "" || strings.Contains(doc, "\t") {
			t.Errorf("no version, or tabs, in %s", doc)
		}
		if kind == "Service" {
			services[mustMatchOnce(t, doc, `^  name: (\S+)$`)] = doc
		}
	}
	want := []string{"StatefulSet", "Service", "Service", "PodDisruptionBudget", "NetworkPolicy"}
	if !slices.Equal(kinds, want) {
		t.Errorf("%v, want %v", kinds, want)
	}
	headless := services[mustMatchOnce(t, text, `FANTAIL_JOIN, value: (\S+)`)]
	for _, s := range []string{"clusterIP: None", "publishNotReadyAddresses: true"} {
		if !strings.Contains(headless, s) {
			t.Errorf("no %q in the Service by which nodes find each other", s)
		}
	}
	_, ports := settingsOf(t)
	named := map[string]string{"gossip-udp": ports["gossip"]}
	for name, port := range ports {
		named[name] = port
		if !strings.Contains(text, fmt.Sprintf("{ name: %s, containerPort: %s }", name, port)) {
			t.Errorf("%s is not a port of the container's: %s", name, port)
		}
	}
	for _, m := range regexp.MustCompile(`(?:name: (\S+), )?\b(?:containerP|p)ort: (\w+)`).FindAllStringSubmatch(text, -1) {
		_, isName := named[m[2]]
		switch known := isName || slices.Contains([]string{ports["http"], ports["admin"], ports["gossip"], ports["relay"]}, m[2]); {
		case !known, m[1] != "" && named[m[1]] != m[2]:
			t.Errorf("%s: nothing listens there by default", m[0])
		}
	}
}

// The compose file and the image agree with the command.
func TestComposeFileAndImageAgree(t *testing.T) {
	names, ports := settingsOf(t)
	for _, name := range regexp.MustCompile(`FANTAIL_[A-Z0-9_]+`).FindAllString(manifest(t, "compose.yaml"), -1) {
		if !names[name] {
			t.Errorf("%s: no such setting", name)
		}
	}
	text := manifest(t, "Dockerfile")
	exposed := mustMatchOnce(t, text, `^EXPOSE (.*)$`)
	for name, port := range ports {
		if !strings.Contains(exposed, port) {
			t.Errorf("%s of %s is not in %s", port, name, exposed)
		}
	}
	if arg := mustMatchOnce(t, text, `^ARG (\w+)=`); !strings.Contains(text, "-X main.version=$"+arg) {
		t.Errorf("%s does not become the version", arg)
	}
}
