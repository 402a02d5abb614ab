package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A setting that does not exist is an error, not a silent default.
func TestUnknownSettings(t *testing.T) {
	for _, c := range []struct {
		args, environ []string
		want          string
	}{
		{[]string{"serve", "--s2-bsin=x"}, nil, "--s2-bsin"},
		{[]string{"dev"}, []string{"FANTAIL_NODS=3"}, "FANTAIL_NODS"},
		{[]string{"serve", "--s2-bsin=x"}, []string{"FANTAIL_C=1"}, "FANTAIL_C: no such setting\nunknown flag --s2-bsin"},
		{[]string{"s2"}, []string{"FANTAIL_A=1", "FANTAIL_B=2", "HOME=/"}, "FANTAIL_B"},
	} {
		err := run(c.args, c.environ)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: %v, want %s named", c.args, c.environ, err, c.want)
		}
	}
}

// A variable sets its flag.
func TestVariableSetsFlag(t *testing.T) {
	for name, want := range map[string]string{
		"FANTAIL_NODES": "--nodes 77", "FANTAIL_S2_BASIN": `basin "77"`, "FANTAIL_LONG_POLL": "--long-poll",
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

func TestAllErrorsAtOnce(t *testing.T) {
	c := serveCmd{
		HTTP: "nowhere", Admin: "x", Join: []string{"a"}, Cluster: "c", Secret: "zz",
		Grace: -time.Second, MaxReaders: -1,
	}
	_, err := c.node(slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"--http", "--admin", "--s2-basin", "--s2-token", "--secret", "--grace", "--long-poll", "--max-readers"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}
