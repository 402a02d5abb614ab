package main

import (
	"strings"
	"testing"
)

// The doctor finds nothing bad with the settings of a good node, and names each thing that is wrong.
func TestDoctor(t *testing.T) {
	t.Parallel()
	ps := startProcesses(t, 2)
	good := []string{
		"doctor", "--name=node-9", "--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--gossip=127.0.0.1:0", "--relay=127.0.0.1:0", "--advertise=127.0.0.1",
		"--s2-endpoint=" + ps.s2.addr("url"), "--s2-basin=fantail-process-test", "--cluster=test", "--secret=00112233445566778899aabbccddeeff",
		"--join=" + ps.nodes[0].addr("gossip"), "--join=" + ps.nodes[1].addr("gossip"),
	}
	got, err := fantail(t, "", append(good, "--via=http://"+ps.nodes[0].addr("http"), "--silence=2s")...)
	if err != nil {
		t.Errorf("%v\n%s", err, got)
	}
	for _, want := range []string{
		"ok       settings: no errors", "ok       address --gossip: 127.0.0.1:0 is free", "S2 fantail-process-test: create a stream: allowed", "S2 fantail-process-test: trim: allowed",
		"ok       S2 fantail-process-test: a refusal ends an append session: yes", "  S2 fantail-process-test: windows: S2 takes", "S2 fantail-process-test: appends create streams",
		"ok       peer " + ps.nodes[0].addr("gossip") + ": gossip over UDP: it answers", "ok       in front: a body of 16 MiB: it passes", "ok       in front: events: the first after", "ok       clock: it agrees",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	for setting, want := range map[string]string{
		"--s2-basin=no-such-basin":                   "bad      S2 no-such-basin: list streams: S2 refuses this node: basin no-such-basin not found",
		"--s2-endpoint=http://" + freePorts(t, 1)[0]: "does not answer: connection refused",
		"--secret=ffffffffffffffffffffffffffffffff":  "gossip over UDP: no answer",
		"--join=" + freePorts(t, 1)[0]:               "gossip over TCP: dial tcp",
		"--http=" + ps.nodes[0].addr("http"):         "bad      address --http: listen tcp",
		"--tls-cert=/none":                           "bad      settings: --tls-cert and --tls-key need each other",
		"--max-readers=100000000":                    "warning  open files: the limit of",
		"--admin=" + ps.nodes[0].addr("admin"):       "ok       node node-1: dev, link up",
	} {
		args := append(append([]string{}, good...), setting)
		if strings.HasPrefix(setting, "--secret") { // it takes several
			args = append(append([]string{}, good[:10]...), setting, good[11])
		}
		out, err := fantail(t, "", args...)
		if !strings.Contains(out, want) {
			t.Errorf("%s: %q is not in\n%s (%v)", setting, want, out, err)
		}
		if bad := strings.Contains(out, "bad      "); bad != (exitCode(err) == exitWarnings) && err != nil || bad && err == nil {
			t.Errorf("%s: %v\n%s", setting, err, out)
		}
	}
	var checks string
	if checks = mustPrint(t, "", append(good, "--json")...); !strings.Contains(checks, `{"name":"settings","verdict":"ok","text":"no errors"}`) {
		t.Errorf("%s", checks)
	}
	for _, p := range ps.nodes {
		if log := p.log.String(); strings.Contains(log, "doctor") || strings.Contains(log, "metadata") {
			t.Errorf("the doctor was taken for a member:\n%s", log)
		}
	}
}
