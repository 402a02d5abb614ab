// Command readers measures what an event stream's reader costs, side by side. It has Fantail's
// reactor, its handler driver (a goroutine for each, over the same cursor), long-polls, events over
// HTTP/2 without TLS, and both over TLS with HTTP/1.1. The limit is a loop in C that sends a ready
// frame. Each serves the same bytes to as many readers of one stream; a log in memory stands for
// S2. Rounds alternate.
//
//	go run ./bench/readers
//	go run ./bench/readers -quiet -readers 15000
//	go run ./bench/readers -kinds reactor,tls -against /tmp/readers-of-an-older-tree
package main

import (
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/limit"
	"github.com/fantail-dev/fantail/bench/internal/usage"
)

func main() {
	readers := flag.Int("readers", 10_000, "readers of one stream")
	rounds := flag.Int("rounds", 3, "rounds of each")
	events := flag.Int("events", 20, "events in a round, 256 bytes each")
	serves := flag.String("serve", "", "be the server of this kind, at -addr")
	addr := flag.String("addr", "127.0.0.1:4737", "of the server")
	quiet := flag.Bool("quiet", false, "measure heartbeats to readers that get nothing else, instead")
	heartbeat := flag.Duration("heartbeat", 8*time.Second, "with -quiet: the silence after which servers send one")
	serving := flag.String("kinds", "", "measure the C loop and these alone: reactor, handlers, long-poll, h2c, tls, tls-handlers")
	against := flag.String("against", "", "measure the same kinds of this build of the command as well, as \"NAME, before\"")
	flag.Parse()
	var err error
	if *serves != "" {
		err = serve(*serves, *addr, *heartbeat)
	} else {
		err = withLoop(func(loop string) error {
			if *quiet {
				return runQuiet(loop, *readers, *rounds, *addr, *heartbeat)
			}
			return run(chooseKinds(loop, *serving, *against), *readers, *rounds, *events, *addr)
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "readers:", err)
		os.Exit(1)
	}
}

// kind is one way to serve readers.
type kind struct {
	name, serve string
	program     string    // that serves it, "" for this one
	idle, gced  []float64 // bytes a reader: as it is, and after a collection
	cpu         []float64 // µs a delivery
	last        []float64 // ms until the last reader has an event
}

// withLoop has something done with the loop in C.
func withLoop(do func(loop string) error) error {
	dir, err := os.MkdirTemp("", "fantail-readers-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	loop, err := limit.Build(dir)
	if err != nil {
		return err
	}
	return do(loop)
}

// chooseKinds returns the C loop and the kinds that are measured beside it. names: the "serve" of
// each, "" for all. against: another build of this command, or "".
func chooseKinds(loop, names, against string) []*kind {
	kinds := []*kind{{name: "C loop", serve: loop}}
	for _, k := range []*kind{
		{name: "reactor", serve: "reactor"},
		{name: "handlers", serve: "handlers"},
		{name: "long-poll", serve: "long-poll"},
		{name: "h2c", serve: "h2c"},
		{name: "TLS", serve: "tls"},
		{name: "TLS, goroutines", serve: "tls-handlers"},
	} {
		if names != "" && !slices.Contains(strings.Split(names, ","), k.serve) {
			continue
		}
		kinds = append(kinds, k)
		if against != "" {
			kinds = append(kinds, &kind{name: k.name + ", before", serve: k.serve, program: against})
		}
	}
	return kinds
}

func run(kinds []*kind, readers, rounds, events int, addr string) error {
	frame := []byte(nil)
	for round := range rounds {
		order := slices.Clone(kinds[1:])
		if round%2 == 1 { // what comes first may have a warmer machine
			slices.Reverse(order)
		}
		for _, k := range append(order, kinds[0]) { // the C loop sends what Fantail sent
			if err := k.round(readers, events, addr, &frame); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
	}
	fmt.Printf("%d readers of one stream, events of %d bytes on the wire; medians of %d rounds\n\n", readers, len(frame), rounds)
	fmt.Printf("%-16s %14s %14s %18s %8s %16s\n", "", "B a reader", "after a GC", "CPU a delivery", "÷ C", "last reader")
	c := hist.Median(kinds[0].cpu)
	for _, k := range kinds {
		fmt.Printf("%-16s %14.0f %14.0f %15.2f µs %8.2f %13.0f ms\n", k.name, hist.Median(k.idle), hist.Median(k.gced), hist.Median(k.cpu), hist.Median(k.cpu)/c, hist.Median(k.last))
	}
	return nil
}

// start starts the server; heartbeat 0: its default.
func (k *kind) start(addr string, heartbeat time.Duration) (*child.Child, error) {
	if filepath.IsAbs(k.serve) {
		// Fantail's silence is longer by up to a quarter, at random.
		return child.Start(k.serve, "serving", addr[len("127.0.0.1:"):], fmt.Sprint((heartbeat * 9 / 8).Milliseconds()))
	}
	program := k.program
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	return child.Start(program, "serving", "-serve="+k.serve, "-addr="+addr, fmt.Sprint("-heartbeat=", heartbeat))
}

// round starts a server, has readers come, and sends them events one after the other.
func (k *kind) round(readers, events int, addr string, frame *[]byte) error {
	isC := filepath.IsAbs(k.serve)
	server, err := k.start(addr, 0)
	if err != nil {
		return err
	}
	defer server.Stop()
	base := "http://" + addr
	if strings.HasPrefix(k.serve, "tls") {
		base = "https://" + addr
	}
	if !isC {
		if err := send("PUT", base+"/v1/stream/x", nil); err != nil {
			return err
		}
		_ = send("POST", "http://"+collector(addr), nil)
	}
	before := usage.Memory(server.PID())
	crowd, err := newCrowd(readers, 0, dialer(k.serve, addr))
	if err != nil {
		return err
	}
	defer crowd.close()
	if err := crowd.settle(); err != nil {
		return err
	}
	k.idle = append(k.idle, float64(usage.Memory(server.PID())-before)/float64(readers))
	if !isC {
		_ = send("POST", "http://"+collector(addr), nil)
	}
	k.gced = append(k.gced, float64(usage.Memory(server.PID())-before)/float64(readers))
	used, size := usage.CPU(server.PID()), 0 // net/http's chunks are a few bytes more
	for range events {
		body := bytes.Repeat([]byte("x"), 256)
		if isC {
			body = *frame
		}
		began := time.Now()
		if err := send("POST", base+"/v1/stream/x", body); err != nil {
			return err
		}
		got, err := crowd.event(size)
		if err != nil {
			return err
		}
		if size = len(got); *frame == nil {
			*frame = got
		}
		k.last = append(k.last, time.Since(began).Seconds()*1000)
	}
	k.cpu = append(k.cpu, (usage.CPU(server.PID())-used).Seconds()*1e6/float64(events*readers))
	return nil
}

var client = &http.Client{Transport: &http.Transport{ //nolint:gochecknoglobals // a command's
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a certificate of this program's
}}

func send(method, url string, body []byte) error {
	return ask.Send(client, method, url, "text/plain", body)
}
