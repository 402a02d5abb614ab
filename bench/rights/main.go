// Command rights measures what a file of rights costs, in rounds that alternate, so that a noisy machine is
// noisy for both sides. Two lone nodes get the same requests with the same token; one has a file of
// rights, the other none. Appends: many posters on one stream and over many. Delivery: event streams, and
// one writer at a time. What counts is the processor time of the node for each append or delivery, which
// a machine with other work on it disturbs least.
//
// Then a project with limits: how long the appends of one project take while another's clients ask for as
// much as it may have, and for ten times that. The clients send as many requests both times, because they
// share the machine with the node: what is not for the node goes to a handler of net/http that refuses it.
//
//	make build && go run ./bench/rights
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/bench/internal/usage"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "rights:", err)
		os.Exit(1)
	}
}

const (
	secret  = "the secret of an issuer, longer than 32 bytes"
	file    = "issuers:\n  - iss: bench\n    keys: { secret: %s }\n    audience: [fantail]\n    projects: [calm, greedy]\n    project_claim: project\n    grants: [ { actions: [read, write], streams: [\"rooms/**\", \"users/{sub}/**\"] } ]\nprojects:\n  calm: { public_age: 1s }\n  greedy: { limits: { requests: %d } }\n"
	open    = "without a file"
	locked  = "with a file"
	streams = 1000
)

// node is a running node.
type node struct {
	name, addr string
	*child.Child
}

func run() error {
	binary := flag.String("fantail", "bin/fantail", "the binary")
	rounds := flag.Int("rounds", 20, "rounds of each")
	length := flag.Duration("round", time.Second, "length of a round")
	posters := flag.Int("posters", 16, "number of concurrent posters")
	readers := flag.Int("readers", 200, "event streams")
	limit := flag.Int("limit", 200, "requests a second that the greedy project may have")
	same := flag.Bool("same", false, "give neither node a file: what the measurement says of no difference")
	refuse := flag.Bool("refuse", false, "be the handler that refuses everything")
	only := flag.Bool("only-cost", false, "leave out the greedy project")
	flag.Parse()
	if *refuse {
		return serveRefusals()
	}
	dir, err := os.MkdirTemp("", "rights")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	key, path := filepath.Join(dir, "secret"), filepath.Join(dir, "rights.yaml")
	if err := errors.Join(os.WriteFile(key, []byte(secret), 0o600), os.WriteFile(path, fmt.Appendf(nil, file, key, *limit), 0o600)); err != nil {
		return err
	}
	nodes := []*node{{name: open, addr: "127.0.0.1:4737"}, {name: locked, addr: "127.0.0.1:4738"}}
	for i, n := range nodes {
		args := []string{"dev", fmt.Sprint("--port=", 4737+i), fmt.Sprint("--admin-port=", 4747+i), fmt.Sprint("--s2-port=", 4757+i)}
		if n.name == locked && !*same {
			args = append(args, "--auth="+path)
		}
		if n.Child, err = child.Start(*binary, "Fantail is up", args...); err != nil {
			return err
		}
		defer n.Stop()
		for _, project := range []string{"calm", "greedy"} {
			if err := createAll(n.addr, project); err != nil {
				return err
			}
		}
	}
	fmt.Printf("lone nodes, S2 in the process; %d rounds of %v of each, one after the other;\nthe ratio is the median of those of the rounds\n\n", *rounds, *length)
	fmt.Printf("%-30s %14s %14s %8s %18s\n", "CPU of the node for each", open, locked, "ratio", "95 % certain")
	for _, l := range []load{
		appends("append, one stream", *posters, 1),
		appends("append, over 1000 streams", *posters, streams),
		delivery("delivery to an event stream", *readers),
	} {
		if err := compare(nodes, l, *rounds, *length); err != nil {
			return fmt.Errorf("%s: %w", l.title, err)
		}
	}
	if *same || *only {
		return nil
	}
	sink, err := startRefusing()
	if err != nil {
		return err
	}
	defer sink.Stop()
	return greed(nodes[1], *limit, *rounds, *length)
}

// load is one kind of work. begin prepares it at a node, and returns what does it for a time and says how
// much was done.
type load struct {
	title string
	begin func(*node) (work func(time.Duration) (int, error), end func(), err error)
}

// compare prints a load's costs at both nodes.
func compare(nodes []*node, l load, rounds int, length time.Duration) error {
	costs := map[string][]float64{}
	works := make([]func(time.Duration) (int, error), len(nodes))
	for i, n := range nodes {
		work, end, err := l.begin(n)
		if err != nil {
			return err
		}
		defer end()
		works[i] = work
	}
	for round := range rounds + 1 {
		for turn := range nodes {
			i := (round + turn) % len(nodes) // neither is always the first
			before := usage.Ran(nodes[i].PID())
			n, err := works[i](length)
			if err != nil {
				return err
			}
			if cpu := usage.Ran(nodes[i].PID()) - before; round > 0 { // the first one warms up
				costs[nodes[i].name] = append(costs[nodes[i].name], float64(cpu.Nanoseconds())/1e3/float64(n))
			}
		}
	}
	pairs := ratios(costs[locked], costs[open])
	low, high := hist.MedianInterval(pairs)
	fmt.Printf("%-30s %11.2f µs %11.2f µs %8.3f %8.3f to %.3f\n", l.title, hist.Median(costs[open]), hist.Median(costs[locked]), hist.Median(pairs), low, high)
	return nil
}

const refusingAddr = "127.0.0.1:4739"

// startRefusing starts this program as the handler that refuses everything.
func startRefusing() (*child.Child, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return child.Start(path, "serving", "-refuse")
}

func serveRefusals() error {
	listener, err := net.Listen("tcp", refusingAddr)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	body := []byte(`{"status":429,"title":"Too Many Requests","detail":"as long as what the node says of a limit, with some words of what to do about it"}`)
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { //nolint:gosec // local, of a benchmark
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write(body)
	}))
}

// ratios returns those of each round: what disturbs the machine for longer disturbs both.
func ratios(of, to []float64) []float64 {
	all := make([]float64, len(of))
	for i := range of {
		all[i] = of[i] / to[i]
	}
	return all
}

// token returns the Authorization field of a subject in a project.
func token(project, subject string) string {
	now := time.Now().Unix()
	claims := fmt.Sprintf(`{"iss":"bench","aud":"fantail","sub":%q,"project":%q,"iat":%d,"exp":%d,"email":"ada@example.org","roles":["reader","writer"],"session_id":"6f1c2d9e-8a4b-4b6e-9f7d-1d2c3b4a5968"}`, subject, project, now, now+3600)
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(signed))
	return "Authorization: Bearer " + signed + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func streamPath(project string) func(int) string {
	return func(i int) string { return fmt.Sprintf("/v1/stream/%s/rooms/%d", project, i) }
}

// createAll creates the streams of a project; the greedy one has a few, within its limit.
func createAll(addr, project string) error {
	n := streams
	if project == "greedy" {
		n = 1
	}
	name, value, _ := strings.Cut(token(project, "creator"), ": ")
	return parallel.Do(n, func(i int) error {
		req, err := http.NewRequest(http.MethodPut, "http://"+addr+streamPath(project)(i), http.NoBody)
		if err != nil {
			return err
		}
		req.Header.Set(name, value)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if resp.StatusCode >= 300 {
			err = errors.New(resp.Status)
		}
		return errors.Join(err, resp.Body.Close())
	})
}
