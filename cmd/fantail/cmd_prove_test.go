package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// proveWith runs a proof with a rollout of the test's own, and returns its report.
func proveWith(t *testing.T, rollout func(context.Context) error, args ...string) (*proof, string, error) {
	t.Helper()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := parser.Parse(append([]string{"prove", "--out=" + filepath.Join(dir, "proof.json"), "--html=" + filepath.Join(dir, "proof.html")}, args...)); err != nil {
		t.Fatal(err)
	}
	out := typed("")
	failed := c.Prove.prove(t.Context(), out.stdio(), rollout)
	signed, err := os.ReadFile(filepath.Join(dir, "proof.json"))
	if err != nil {
		t.Fatalf("%v, %v", failed, err)
	}
	p, err := verifyProof(signed, nil)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "proof.html"))
	if err != nil || !strings.Contains(string(page), p.verdict()) {
		t.Errorf("the page: %v", err)
	}
	return p, out.out.String(), failed
}

// A rolling restart of a fleet of processes, while the proof has readers and writers at every node.
func TestProveRollingRestart(t *testing.T) {
	t.Parallel()
	ps := startProcesses(t, 0)
	http, admin := freePorts(t, 3), freePorts(t, 3)
	start := func(i int, join ...string) *process {
		return ps.spawn(t, i, append([]string{"--http=" + http[i], "--admin=" + admin[i]}, join...)...)
	}
	ps.nodes = append(ps.nodes, start(0))
	for i := range 2 {
		ps.nodes = append(ps.nodes, start(i+1, "--join="+ps.nodes[0].addr("gossip")))
	}
	ps.awaitOwners(t)
	p, text, err := proveWith(t, func(context.Context) error {
		for i := range ps.nodes {
			if err := ps.nodes[i].cmd.Process.Signal(syscall.SIGTERM); err != nil {
				return err
			}
			if err := ps.nodes[i].waitForEnd(t, 15*time.Second); err != nil {
				return err
			}
			ps.nodes[i] = start(i, "--join="+ps.nodes[(i+1)%3].addr("gossip"))
			ps.awaitOwners(t)
		}
		return nil
	}, "--nodes=http://"+http[0], "--nodes=http://"+http[1], "--nodes=http://"+http[2], "--admins="+strings.Join(admin, ","), "--streams=6", "--name="+ps.run+"/__canary", "--patience=30s")
	if err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", text)
	if !p.Passed || p.Lost+p.Doubled+p.Reordered+p.Unknown != 0 || p.Messages < 100 || p.Received != 3*p.Messages {
		t.Errorf("%+v", p)
	}
	if p.Closed < 18 || p.Nodes != 3 || p.Sessions == nil || *p.Sessions < 6 || len(p.Before) != 1 || p.Before[0].Nodes != 3 || !strings.HasPrefix(p.Before[0].Version, "dev") || len(p.After) != 1 || p.After[0].Nodes != 3 {
		t.Errorf("%+v", p)
	}
	c := newClient(t)
	if a := c.must(t, 200, "GET", ps.url(0, "__ds/streams?detail=1"), ""); !strings.Contains(string(a.body), `"streams":[]`) {
		t.Errorf("canary streams are left: %s", a.body)
	}
}

// tamperer stands before a server, and does to messages in events what must not happen.
type tamperer struct {
	target string
	what   string
	done   atomic.Bool
}

func (p *tamperer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out, _ := http.NewRequestWithContext(r.Context(), r.Method, p.target+r.URL.RequestURI(), r.Body)
	out.Header = r.Header.Clone()
	out.Header.Set("Accept-Encoding", "identity")
	resp, err := http.DefaultClient.Do(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if r.URL.Query().Get("live") != "sse" {
		_, _ = io.Copy(w, resp.Body)
		return
	}
	var held []byte // a data event that is to come late
	buffer := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buffer)
		piece := buffer[:n]
		if bytes.HasPrefix(piece, []byte("event: data")) && bytes.Contains(piece, []byte(`"n":5,`)) && p.done.CompareAndSwap(false, true) {
			data, control, _ := bytes.Cut(piece, []byte("event: control"))
			line, _, _ := bytes.Cut(data[bytes.Index(data, []byte("data:")):], []byte("\n"))
			switch p.what {
			case "lost":
				piece = bytes.Replace(piece, line, []byte("data:[]"), 1)
			case "doubled":
				inner := string(line[len("data:[") : len(line)-1])
				piece = bytes.Replace(piece, line, []byte("data:["+inner+","+inner+"]"), 1)
			case "reordered":
				held = []byte("event: data\n" + string(line) + "\n\nevent: control" + string(control))
				piece = bytes.Replace(piece, line, []byte("data:[]"), 1)
			case "unknown":
				piece = bytes.Replace(piece, line, []byte(`data:[{"w":77,"n":1}]`), 1)
			}
		} else if held != nil && bytes.HasPrefix(piece, []byte("event: data")) {
			_, _ = w.Write(piece)
			piece, held = held, nil
		}
		_, _ = w.Write(piece)
		_ = http.NewResponseController(w).Flush()
		if err != nil {
			return
		}
	}
}

// A message that is lost, doubled, late or of no writer fails the proof, with the exit code of a check.
func TestProveNotices(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 1)
	target := strings.TrimSuffix(f.url(0, ""), "/v1/stream/")
	for _, what := range []string{"nothing", "lost", "doubled", "reordered", "unknown"} {
		proxy := &tamperer{target: target, what: what}
		between := httptest.NewServer(proxy)
		p, text, err := proveWith(t, func(ctx context.Context) error { return waitFor(ctx, time.Second) }, "--url="+between.URL, "--streams=1", "--per-stream=1", "--rate=20", "--settle=5s")
		between.Close()
		got := map[string]int{"nothing": 0, "lost": p.Lost, "doubled": p.Doubled, "reordered": p.Reordered, "unknown": p.Unknown}
		want := 1
		if what == "nothing" {
			want = 0
			expectExit(t, what, err, 0)
		} else {
			expectExit(t, what, err, exitWarnings)
		}
		if got[what] != want || p.Passed != (want == 0) || !proxy.done.Load() {
			t.Errorf("%s: %+v\n%s", what, p, text)
		}
	}
}

// The command of the rollout, and what else ends a proof.
func TestProveCommand(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 1)
	at := "--url=" + strings.TrimSuffix(f.url(0, ""), "/v1/stream/")
	if got := mustPrint(t, "", "prove", at, "--streams=2", "--", "true"); !strings.Contains(got, "result              PASSED") || !strings.Contains(got, "command             true") {
		t.Errorf("%s", got)
	}
	if err := mustExit(t, exitWarnings, "prove", at, "--streams=1", "--", "false"); !strings.Contains(err.Error(), "the command failed") {
		t.Errorf("%v", err)
	}
	if err := mustExit(t, exitWarnings, "prove", at, "--streams=1", "--max-stall=1ns", "--for=300ms"); !strings.Contains(err.Error(), "max-stall") {
		t.Errorf("%v", err)
	}
	mustExit(t, exitUsage, "prove", at, "--rate=0")
	mustExit(t, exitUsage, "prove", at, "--for=1s", "--", "true")
	mustExit(t, exitUsage, "prove", at, "--key=/does/not/exist")
}

// A report is good with the key that signed it, and not when a byte of it was changed.
func TestProofSignature(t *testing.T) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	read, err := parsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := (&proof{Passed: true, Messages: 12, Server: "<b>"}).sign(read)
	if err != nil {
		t.Fatal(err)
	}
	file, right := writeTestFile(t, "proof", string(signed)), writeTestFile(t, "public", base64.StdEncoding.EncodeToString(public))
	if got := mustPrint(t, "", "prove", "--verify="+file, "--public-key="+right); !strings.Contains(got, "12 acknowledged") {
		t.Errorf("%s", got)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mustExit(t, exitWarnings, "prove", "--verify="+file, "--public-key="+writeTestFile(t, "other", base64.StdEncoding.EncodeToString(other)))
	changed := writeTestFile(t, "changed", strings.Replace(string(signed), `"messages":12`, `"messages":13`, 1))
	mustExit(t, exitWarnings, "prove", "--verify="+changed)
	mustExit(t, exitWarnings, "prove", "--verify="+writeTestFile(t, "none", "{}"))
	var page bytes.Buffer
	if err := (&proof{Server: "<b>", Failures: []string{"x"}}).writeHTML(&page); err != nil || strings.Contains(page.String(), "<b>") || !strings.Contains(page.String(), "FAILED") {
		t.Errorf("%v %s", err, page.String())
	}
}

// What a check of messages says of every small disorder.
func TestCanaryCheck(t *testing.T) {
	for sequence, want := range map[string]string{
		"0123": "0 0 0 0", "013": "1 0 0 0", "01223": "0 1 0 0", "0213": "0 0 1 0", "": "4 0 0 0", "3210": "0 0 3 0", "00112233": "0 4 0 0", "012": "1 0 0 0", "0123456": "0 0 0 0",
	} {
		c := newCanaryCheck(0, 1)
		for _, m := range sequence {
			c.receive(0, int(m-'0'))
		}
		lost := c.finish([]int{4})
		if got := fmt.Sprint(lost, c.doubled, c.reordered, c.unknown); got != want {
			t.Errorf("%s: %s, want %s", sequence, got, want)
		}
	}
	c := newCanaryCheck(0, 1)
	c.receive(1, 0)
	c.receive(0, 1<<40)
	c.receive(-1, 0)
	if c.unknown != 3 {
		t.Errorf("%+v", c)
	}
}
