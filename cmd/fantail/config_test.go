package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// A setting that does not exist is an error. It does not silently mean the default.
func TestUnknownSettingsAreErrors(t *testing.T) {
	for _, c := range []struct {
		args, environ []string
		want          string
	}{
		{[]string{"serve", "--s2-bsin=x"}, nil, "--s2-bsin"},
		{[]string{"dev"}, []string{"FANTAIL_NODS=3"}, "FANTAIL_NODS"},
		{[]string{"serve", "--s2-bsin=x"}, []string{"FANTAIL_C=1"}, "FANTAIL_C: no such setting\nunknown flag --s2-bsin"},
		{[]string{"s2"}, []string{"FANTAIL_A=1", "FANTAIL_B=2", "HOME=/"}, "FANTAIL_B"},
		{[]string{"serve"}, []string{"FANTAIL_ADMN_PORT=4447"}, "FANTAIL_ADMN_PORT"},
		{[]string{"serve"}, []string{"FANTAIL_PORT_4437=tcp://10.0.0.1:4437"}, "FANTAIL_PORT_4437"},
		{[]string{"serve"}, []string{"FANTAIL_SERVICE_NAME=x"}, "FANTAIL_SERVICE_NAME"},
		{[]string{"serve"}, []string{"FANTAIL_SERVICE_HOSTS=x"}, "FANTAIL_SERVICE_HOSTS"},
	} {
		err := run(c.args, c.environ)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: %v, want %s named", c.args, c.environ, err, c.want)
		}
	}
}

// The variables that Kubernetes sets for Services named fantail and fantail-s2 are no settings,
// even if one has the name of a flag of another command.
func TestVariablesOfKubernetesServicesAreIgnored(t *testing.T) {
	var environ []string
	for prefix, port := range map[string]string{"FANTAIL": "4437", "FANTAIL_HTTP": "4437", "FANTAIL_S2": "4430", "FANTAIL_A_1": "53"} {
		for _, kv := range []string{
			"_SERVICE_HOST=10.0.0.1", "_SERVICE_PORT=" + port, "_SERVICE_PORT_HTTP=" + port, "_SERVICE_PORT_HTTP_ALT=" + port,
			"_PORT=tcp://10.0.0.1:" + port, "_PORT_" + port + "_TCP=tcp://10.0.0.1:" + port, "_PORT_" + port + "_TCP_PROTO=tcp",
			"_PORT_" + port + "_TCP_PORT=" + port, "_PORT_" + port + "_TCP_ADDR=10.0.0.1", "_PORT_" + port + "_UDP=udp://10.0.0.1:" + port,
		} {
			environ = append(environ, prefix+kv)
			name, value, _ := strings.Cut(prefix+kv, "=")
			t.Setenv(name, value)
		}
	}
	err := run([]string{"serve"}, environ)
	if err == nil || strings.Contains(err.Error(), "setting") || !strings.HasPrefix(err.Error(), "--s2-token (FANTAIL_S2_TOKEN): ") {
		t.Errorf("%v, want no more than a basin and a token asked for", err)
	}
}

// A variable sets its flag.
func TestVariableSetsFlag(t *testing.T) {
	for name, want := range map[string]string{
		"FANTAIL_NODES": "--nodes 77", "FANTAIL_S2_BASIN": `--s2-basin (FANTAIL_S2_BASIN): basin "77"`, "FANTAIL_LONG_POLL": "--long-poll",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "77")
			cmd := "dev"
			if name == "FANTAIL_S2_BASIN" {
				cmd = "serve"
				t.Setenv("FANTAIL_S2_ENDPOINT", "http://127.0.0.1:1")
			}
			err := run([]string{cmd}, []string{name + "=77"})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		})
	}
}

func TestAllWrongSettingsAreReportedTogether(t *testing.T) {
	c := serveCmd{
		HTTP: "nowhere", Admin: "x", fleetFlags: fleetFlags{Join: []string{"http://a"}, Cluster: "c", Secret: []string{"zz"}},
		Grace: -time.Second, Linger: -time.Second, MaxReaders: -1, RebalanceRate: 2,
	}
	_, err := c.nodeConfig(slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"--http", "--admin", "--s2-basin", "--s2-token", "--secret", "--join", "--grace", "--long-poll", "--max-readers",
		"--linger: want 0 or more", "--rebalance-rate: want more than 0, and 1 at most",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// An error in S2's settings names the flag and the variable, and does not quote the token.
func TestWrongS2SettingsNameFlagAndVariable(t *testing.T) {
	for want, c := range map[string]serveCmd{
		"--s2-endpoint (FANTAIL_S2_ENDPOINT): ":             {S2Endpoint: "ftp://s2", S2Basin: "fantail-dev"},
		"--s2-token (FANTAIL_S2_TOKEN): ":                   {S2Endpoint: "http://s2", S2Token: "very secret", S2Basin: "fantail-dev"},
		"--s2-basin (FANTAIL_S2_BASIN): ":                   {S2Endpoint: "http://s2", S2Basin: "x"},
		"--s2-basin-template (FANTAIL_S2_BASIN_TEMPLATE): ": {S2Endpoint: "http://s2", S2BasinTemplate: "{project}"},
		"--s2-basin-map (FANTAIL_S2_BASIN_MAP): ":           {S2Endpoint: "http://s2", S2BasinMap: map[string]string{"p": "X"}},
	} {
		_, err := c.nodeConfig(slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "very secret") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// The modes of reads have names, and the setting that was before them says so.
func TestReadsModes(t *testing.T) {
	for flag, want := range map[string]shard.Mode{
		"--http=127.0.0.1:0": shard.ModeSession, "--s2-reads=session": shard.ModeSession,
		"--s2-reads=auto": shard.ModeAuto, "--s2-reads=exclusive": shard.ModeExclusive,
	} {
		cfg, err := parseServe(t, flag)
		if err != nil || cfg.shard.Mode != want || cfg.fleet != nil && cfg.fleet.ReadsMode != want {
			t.Errorf("%s: %s, %v", flag, cfg.shard.Mode, err)
		}
	}
	if _, err := parseServe(t, "--exclusive"); err == nil || !strings.Contains(err.Error(), "--s2-reads=exclusive") {
		t.Errorf("--exclusive: %v", err)
	}
}

func parseServe(t *testing.T, flag string) (nodeConfig, error) {
	t.Helper()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"serve", "--s2-endpoint=http://127.0.0.1:1", "--s2-basin=fantail-test", flag}); err != nil {
		t.Fatal(err)
	}
	return c.Serve.nodeConfig(slog.New(slog.DiscardHandler))
}

// A project without a basin is the client's error.
func TestProjectWithoutBasinIsTheClientsMistake(t *testing.T) {
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{
		"serve", "--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--grace=1s", "--s2-endpoint=http://127.0.0.1:1", "--s2-basin-map=known=basin-of-known",
	}); err != nil {
		t.Fatal(err)
	}
	cfg, err := c.Serve.nodeConfig(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n, err := startNode(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.stopWithinGrace(nil) }()
	client := newClient(t)
	for _, path := range []string{"wp-login.php", "other/x", "Known/x"} {
		a := client.must(t, 404, "GET", "http://"+n.publicListener.Addr().String()+"/v1/stream/"+path, "")
		if !strings.Contains(string(a.body), "no-such-project") {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	client.must(t, 503, "GET", "http://"+n.publicListener.Addr().String()+"/v1/stream/known/x", "")
}
