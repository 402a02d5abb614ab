package main

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A node logs what starts, when it is ready and how it ended. Its metrics show its build and
// limits. Each request is a line of the access log.
func TestNodeReportsItselfInLogAndMetrics(t *testing.T) {
	t.Parallel()
	path, s := startS2(t)
	cert, key := certificatePaths(t)
	writeCertificate(t, 1, cert, key)
	at := freePorts(t, 2)
	cmd := exec.Command(path, "--log-format=json", "serve", "--name=teller", "--http="+at[0], "--admin="+at[1], "--access-log", "--memory=1GiB",
		"--s2-endpoint="+s.URL(), "--s2-basin="+devBasin, "--linger=0s", "--tls-cert="+cert, "--tls-key="+key)
	var log, access syncBuffer
	cmd.Stderr, cmd.Stdout = &log, &access
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	c := newClient(t)
	eventually(t, 20*time.Second, "it says that it is ready", func() bool { return strings.Contains(log.String(), `"msg":"ready"`) })
	c.must(t, 200, "GET", "http://"+at[1]+"/readyz", "")
	trustAnyCertificate(c)
	c.must(t, 201, "PUT", "https://"+at[0]+"/v1/stream/p/s", "", "Content-Type", "text/plain", "X-Request-Id", "its-id")
	for name, want := range map[string]float64{
		"fantail_build_info": 1, "fantail_ready": 1, "fantail_s2_up": 1, "fantail_memory_limit_bytes": 1 << 30,
	} {
		if v, ok := c.metric(t.Context(), at[1], name); !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", name, v, ok, want)
		}
	}
	if v, ok := c.metric(t.Context(), at[1], "fantail_tls_not_after_seconds"); !ok || v < float64(time.Now().Unix()) || v > float64(time.Now().Add(2*time.Hour).Unix()) {
		t.Errorf("the certificate expires at %v", v)
	}
	if v, ok := c.metric(t.Context(), at[1], "fantail_memory_budget_bytes"); !ok || v <= 0 || v > 1<<30 {
		t.Errorf("budgets of %v", v)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	var said []string
	for text := range strings.Lines(log.String()) {
		var line struct{ Msg, Version, S2, Basin, Cluster string }
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Errorf("no line of the log: %s", text)
		}
		said = append(said, line.Msg)
		if line.Msg == "starting" && (line.Version == "" || line.S2 != s.URL() || line.Basin != devBasin || line.Cluster != "none") {
			t.Errorf("%s", text)
		}
	}
	want := []string{"starting", "serving", "ready", "stopping", "stopped"}
	said = slices.DeleteFunc(said, func(msg string) bool { return !slices.Contains(want, msg) })
	if !slices.Equal(said, want) {
		t.Errorf("it said %q\n%s", said, log.String())
	}
	var line struct {
		Msg, Node, Method, Project, Stream, Mode string
		RequestID                                string `json:"request_id"`
		Status                                   int
	}
	if err := json.Unmarshal([]byte(access.String()), &line); err != nil || line.Msg != "request" || line.Node != "teller" || line.Method != "PUT" ||
		line.Project != "p" || line.Stream != "s" || line.Mode != "create" || line.Status != 201 || line.RequestID != "its-id" {
		t.Errorf("%v: %s", err, access.String())
	}
}

// trustAnyCertificate makes a client accept any certificate.
func trustAnyCertificate(c *client) {
	tr, _ := c.http.Transport.(*http.Transport)
	tr.TLSClientConfig = insecureTLS()
}

func insecureTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the certificate is the test's
}
