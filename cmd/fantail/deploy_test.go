package main

import (
	"cmp"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

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

// object holds what the tests read of a Kubernetes object.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Spec       struct {
		ClusterIP                string `yaml:"clusterIP"`
		PublishNotReadyAddresses bool   `yaml:"publishNotReadyAddresses"`
		Ports                    []struct {
			Name, Protocol string
			Port           int
			TargetPort     string `yaml:"targetPort"`
		}
		Ingress, Egress []struct{ Ports []struct{ Port int } }
		Template        struct{ Spec podSpec }
	}
}

type podSpec struct {
	TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
	Containers                    []struct {
		Args []string
		Env  []struct {
			Name, Value string
			ValueFrom   struct {
				FieldRef struct {
					FieldPath string `yaml:"fieldPath"`
				} `yaml:"fieldRef"`
				SecretKeyRef struct{ Key string } `yaml:"secretKeyRef"`
			} `yaml:"valueFrom"`
		}
		Ports []struct {
			Name          string
			ContainerPort int `yaml:"containerPort"`
		}
		Resources struct{ Limits struct{ Memory string } }
	}
}

// kubernetesObjects returns the objects of the manifest.
func kubernetesObjects(t *testing.T) (all []object) {
	t.Helper()
	dec := yaml.NewDecoder(strings.NewReader(manifest(t, "kubernetes.yaml")))
	for {
		var o object
		err := dec.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}

// The manifest starts nodes with settings that exist and fit together.
func TestKubernetesManifestSettingsExist(t *testing.T) {
	var pod podSpec
	for _, o := range kubernetesObjects(t) {
		if o.Kind == "StatefulSet" {
			pod = o.Spec.Template.Spec
		}
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("ab", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	given := map[string]string{"s2-token": "token", "metadata.name": "fantail-0", "status.podIP": "10.0.0.1", "FANTAIL_SECRET_FILE": secret}
	environ := []string{"FANTAIL_SERVICE_PORT_HTTP=4437"}
	node := pod.Containers[0]
	for _, v := range node.Env {
		value := cmp.Or(given[v.Name], v.Value, given[v.ValueFrom.FieldRef.FieldPath], given[v.ValueFrom.SecretKeyRef.Key])
		if value == "" {
			t.Fatalf("%s has no value", v.Name)
		}
		environ = append(environ, v.Name+"="+value)
		t.Setenv(v.Name, value)
	}
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(node.Args); err != nil {
		t.Fatal(err)
	}
	if err := checkVariables(parser.Model, environ); err != nil {
		t.Error(err)
	}
	cfg, err := c.Serve.nodeConfig(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if patience := time.Duration(pod.TerminationGracePeriodSeconds) * time.Second; patience <= cfg.grace {
		t.Errorf("nodes are killed after %v, within their grace of %v", patience, cfg.grace)
	}
	limit, err := strconv.ParseInt(strings.TrimSuffix(node.Resources.Limits.Memory, "Gi"), 10, 64)
	if err != nil || budgetPool(limit<<30) < 1<<30 {
		t.Errorf("the limit of %s leaves the budgets little: %v", node.Resources.Limits.Memory, err)
	}
	for _, kv := range environ {
		if strings.HasPrefix(kv, "GOMEMLIMIT=") {
			t.Error("GOMEMLIMIT is set: the budgets follow the container's limit")
		}
	}
}

// The manifest has all that a fleet needs, with the nodes' ports.
func TestKubernetesManifestIsComplete(t *testing.T) {
	_, ports := settingsOf(t)
	ports["gossip-udp"] = ports["gossip"]
	known := func(port int) bool { return slices.Contains(slices.Collect(maps.Values(ports)), strconv.Itoa(port)) }
	var kinds []string
	headless := false
	for _, o := range kubernetesObjects(t) {
		kinds = append(kinds, o.Kind)
		if o.Spec.ClusterIP == "None" {
			headless = o.Spec.PublishNotReadyAddresses && strings.Contains(manifest(t, "kubernetes.yaml"), "value: "+o.Metadata.Name+"\n")
		}
		for _, p := range o.Spec.Ports {
			if ports[p.TargetPort] != strconv.Itoa(p.Port) {
				t.Errorf("%s: no address has the port %s (%d)", o.Metadata.Name, p.TargetPort, p.Port)
			}
		}
		for _, rule := range o.Spec.Ingress {
			for _, p := range rule.Ports {
				if !known(p.Port) {
					t.Errorf("the policy lets clients in at %d, where nothing listens by default", p.Port)
				}
			}
		}
		if o.Kind != "StatefulSet" {
			continue
		}
		has := map[string]string{}
		for _, p := range o.Spec.Template.Spec.Containers[0].Ports {
			has[p.Name] = strconv.Itoa(p.ContainerPort)
		}
		if !maps.Equal(has, ports) {
			t.Errorf("the container's ports are %v, and the addresses %v", has, ports)
		}
	}
	slices.Sort(kinds)
	if want := []string{"NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "ServiceAccount", "StatefulSet"}; !slices.Equal(kinds, want) {
		t.Errorf("%v, want %v", kinds, want)
	}
	if !headless {
		t.Error("there is no Service by which nodes find each other before they are ready")
	}
}

// The compose file and the image agree with the command.
func TestComposeFileAndImageAgree(t *testing.T) {
	names, ports := settingsOf(t)
	for _, file := range []string{"compose.yaml", "compose.s2-lite.yaml", "systemd/fantail.env"} {
		text := manifest(t, file)
		if !strings.HasSuffix(file, ".env") && yaml.Unmarshal([]byte(text), new(any)) != nil {
			t.Errorf("%s is no YAML", file)
		}
		for _, name := range regexp.MustCompile(`FANTAIL_[A-Z0-9_]+`).FindAllString(text, -1) {
			if !names[name] {
				t.Errorf("%s: %s: no such setting", file, name)
			}
		}
	}
	text := manifest(t, "Dockerfile")
	exposed := mustMatchOnce(t, text, `^EXPOSE (.*)$`)
	for name, port := range ports {
		if !strings.Contains(exposed, port) {
			t.Errorf("%s of %s is not in %s", port, name, exposed)
		}
	}
	if !strings.Contains(text, "\nARG VERSION=") || !strings.Contains(text, "-X main.version=$VERSION") {
		t.Error("the argument VERSION does not become the version")
	}
	for _, health := range regexp.MustCompile(`(?m)(?:HEALTHCHECK.* CMD|test:) (\[.*\])$`).FindAllStringSubmatch(text+manifest(t, "compose.yaml"), -1) {
		var args []string
		if err := yaml.Unmarshal([]byte(health[1]), &args); err != nil {
			t.Fatal(err)
		}
		args = args[slices.Index(args, "/fantail")+1:]
		parser, err := newParser(new(cli))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(args); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}
