package main

import (
	"log/slog"
	"strings"
	"testing"
)

// A setting that does not exist is an error, not a silent default.
func TestUnknownSettings(t *testing.T) {
	for _, c := range []struct {
		args, environ []string
		want          string
	}{
		{[]string{"serve", "--s2-bsin=x"}, nil, "--s2-bsin"},
		{[]string{"dev"}, []string{"FANTAIL_NODS=3"}, "FANTAIL_NODS"},
		{[]string{"s2"}, []string{"FANTAIL_A=1", "FANTAIL_B=2", "HOME=/"}, "FANTAIL_B"},
	} {
		err := run(c.args, c.environ)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: %v, want %s named", c.args, c.environ, err, c.want)
		}
	}
}

// Every variable that kong reads is one that unknownVariables knows.
func TestKnownSettings(t *testing.T) {
	err := unknownVariables([]string{
		"FANTAIL_S2_TOKEN=t", "FANTAIL_HTTP=:1", "FANTAIL_S2_BASIN_TEMPLATE=x", "FANTAIL_NODES=3",
		"FANTAIL_LOG_LEVEL=debug", "FANTAIL_ADMIN_PORT=1", "FANTAIL_LONG_POLL=1s", "FANTAIL_ALLOW_REMOTE=true",
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	c := serveCmd{HTTP: "nowhere", Admin: "x", Join: []string{"a"}, Cluster: "c", Secret: "zz"}
	_, err := c.node(slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"--http", "--admin", "--s2-basin", "--s2-token", "--secret"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// A variable sets a flag.
func TestVariableSetsFlag(t *testing.T) {
	t.Setenv("FANTAIL_NODES", "77")
	err := run([]string{"dev"}, []string{"FANTAIL_NODES=77"})
	if err == nil || !strings.Contains(err.Error(), "--nodes 77") {
		t.Errorf("%v", err)
	}
}
