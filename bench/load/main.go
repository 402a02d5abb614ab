//go:build linux

// Command load puts a Durable Streams server under load: SSE readers in several processes, each
// of which checks every event for its turn, and writers that write at a rate. Where the servers
// are on this machine, it measures what they use. It needs no more of a server than the protocol
// (JSON streams, idempotent producers), or event streams and some way to publish (-server,
// dialect.go):
//
//	go run ./bench/load -mode fanout -urls http://127.0.0.1:4437 -pids $(pgrep -f 'fantail serve') -readers 10000
//
// With -fleet N it starts Fantail by itself: N nodes, each at an address of its own, and
// the embedded S2; -restart then restarts a node in the middle. The modes:
//
//	idle       readers that nothing is written to: what they cost
//	streams    -rate messages a second in all, spread over -streams evenly
//	fanout     the same on one stream
//	saturate   as fast as the slowest reader takes it, in batches of 64
//	catchup    all readers together over existing messages (-history)
//	reconnect  streams, and all connections are cut together in the middle
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

type options struct {
	mode             string
	urls             []string
	pids             []int
	server, path     string
	headers          headers
	fleet            int
	restart          bool
	readers, streams int
	rate             float64
	size             int
	history          int
	last             time.Duration
	clients, arrive  int
	drain            time.Duration
	json, svg        string
}

var modes = []string{"idle", "streams", "fanout", "saturate", "catchup", "reconnect"} //nolint:gochecknoglobals // a list

func main() {
	var o options
	var urls, pids string
	flag.StringVar(&o.mode, "mode", "streams", strings.Join(modes, ", "))
	flag.StringVar(&urls, "urls", "http://127.0.0.1:4437", "of the servers, with commas")
	flag.StringVar(&pids, "pids", "", "of the servers, with commas or spaces: what they use is measured")
	flag.StringVar(&o.server, "server", "durable", dialectNames())
	flag.Var(&o.headers, "header", "`Name: value` of what is written; may be repeated")
	flag.StringVar(&o.path, "path", "/v1/stream/load-%d", "of stream number %d")
	flag.IntVar(&o.fleet, "fleet", 0, "start so many nodes instead")
	flag.BoolVar(&o.restart, "restart", false, "restart a node of the fleet in the middle")
	flag.IntVar(&o.readers, "readers", 1000, "SSE readers")
	flag.IntVar(&o.streams, "streams", 100, "streams")
	flag.Float64Var(&o.rate, "rate", 100, "messages a second, in all")
	flag.IntVar(&o.size, "size", 200, "bytes of a message")
	flag.IntVar(&o.history, "history", 10<<20, "bytes that are there already, for catchup")
	flag.DurationVar(&o.last, "for", 30*time.Second, "how long, once all readers are there")
	flag.IntVar(&o.clients, "clients", 1, "client processes: each opens at most 19,000 files")
	flag.IntVar(&o.arrive, "arrive", 3000, "readers that come in a second")
	flag.DurationVar(&o.drain, "drain", 10*time.Second, "of a node of the fleet that stops")
	flag.StringVar(&o.json, "json", "", "file for the result")
	flag.StringVar(&o.svg, "svg", "", "file for a plot")
	client := flag.Int("client", -1, "for internal use")
	flag.Parse()
	o.urls = strings.Split(urls, ",")
	for _, p := range strings.FieldsFunc(pids, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		pid, err := strconv.Atoi(p)
		if err != nil {
			fail(err)
		}
		o.pids = append(o.pids, pid)
	}
	if o.mode == "fanout" {
		o.streams = 1
	}
	switch {
	case *client >= 0:
		if err := serveClient(&o, *client); err != nil {
			fail(err)
		}
		return
	case !slices.Contains(modes, o.mode):
		fail(fmt.Errorf("-mode is one of %s", strings.Join(modes, ", ")))
	case dialects[o.server].contentType == "":
		fail(fmt.Errorf("-server is one of %s", dialectNames()))
	case o.mode == "catchup" && dialects[o.server].plain:
		fail(fmt.Errorf("-server %s has nothing to catch up with", o.server))
	case o.readers < o.clients || o.streams < 1 || o.rate <= 0 || o.clients < 1 || o.arrive < 1:
		fail(fmt.Errorf("%d readers, %d clients, %d streams, %g a second", o.readers, o.clients, o.streams, o.rate))
	case o.restart && o.fleet < 2:
		fail(fmt.Errorf("-restart needs -fleet of two or more"))
	}
	r, err := run(&o)
	if err != nil {
		fail(err)
	}
	r.print(os.Stdout)
	if o.json != "" {
		b, _ := json.MarshalIndent(r, "", "  ")
		if err := os.WriteFile(o.json, append(b, '\n'), 0o600); err != nil {
			fail(err)
		}
	}
	if o.svg != "" {
		if err := os.WriteFile(o.svg, r.plot(), 0o600); err != nil {
			fail(err)
		}
	}
	if r.Lost+r.Doubled+r.Behind > 0 {
		os.Exit(1)
	}
}

// headers are a flag that may be repeated.
type headers []string

func (h *headers) String() string { return strings.Join(*h, ", ") }

func (h *headers) Set(line string) error {
	if !strings.Contains(line, ":") {
		return fmt.Errorf("%q is not a header", line)
	}
	*h = append(*h, line)
	return nil
}

func (h *headers) header() http.Header {
	all := http.Header{}
	for _, line := range *h {
		name, value, _ := strings.Cut(line, ":")
		all.Set(name, strings.TrimSpace(value))
	}
	return all
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}
