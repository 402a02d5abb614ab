package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/shard/s2"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// devCmd is a fleet in one process, on loopback, with the embedded S2.
type devCmd struct {
	Nodes    int           `help:"How many nodes; one has no cluster code in its path, and no socket between it and the embedded S2." default:"1"`
	Data     string        `help:"Folder that keeps the data; none is memory."`
	Port     int           `help:"Public port of the first node; the others follow." default:"4437"`
	Admin    int           `name:"admin-port" help:"Admin port of the first node." default:"4447"`
	S2Port   int           `name:"s2-port" help:"Port of the embedded S2." default:"4430"`
	Endpoint string        `name:"s2-endpoint" help:"URL of another S2 to use instead, such as s2-lite."`
	LongPoll time.Duration `help:"How long a long-poll waits." default:"20s"`
}

const (
	devBasin = "fantail-dev"
	devLead  = 200 * time.Millisecond // within one process nobody hears late
	devOpens = 1e6                    // the embedded S2 sends no bill
)

// fleet is what devCmd runs.
type fleet struct {
	s2    *s2dev.Server // nil: another one is used
	at    string        // where S2 is
	nodes []*node
}

// Run serves until a signal.
func (c *devCmd) Run(ctx context.Context, log *slog.Logger) error {
	if c.Nodes < 1 || c.Nodes > 9 {
		return fmt.Errorf("--nodes %d: want 1 to 9", c.Nodes)
	}
	f, err := c.start(ctx, log)
	if err != nil {
		return err
	}
	f.welcome(os.Stdout)
	f.status(ctx, os.Stdout)
	return f.stop() // with the error of a server that ended by itself, if any
}

func (c *devCmd) start(ctx context.Context, log *slog.Logger) (*fleet, error) {
	at := s2.Config{Endpoint: c.Endpoint, Token: "none", Basin: devBasin}
	if err := errors.Join(s2Mistakes(&at)...); err != nil {
		return nil, err
	}
	f := &fleet{at: at.Endpoint}
	if f.at == "" {
		var err error
		f.s2, err = s2dev.Open(s2dev.Config{
			Listen: loopback(c.S2Port), Dir: c.Data, Basins: []string{devBasin}, Logger: log,
			Fatal: storageFailed(log, c.Data),
		})
		if err != nil {
			return nil, inUse("--s2-port", err)
		}
		f.at = f.s2.URL()
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	var seed string
	for i := range c.Nodes {
		cfg := nodeConfig{
			name: fmt.Sprintf("node-%d", i+1), grace: 15 * time.Second, // no linger: there is no balancer
			http: loopback(port(c.Port, i)), admin: loopback(port(c.Admin, i)),
			s2:   s2.Config{Endpoint: f.at, Basin: devBasin, CreateBasins: true},
			edge: edge.Config{LongPoll: c.LongPoll}, pprof: true,
			httpFlag: "--port", adminFlag: "--admin-port",
			log: log.With("node", fmt.Sprintf("node-%d", i+1)),
		}
		if c.Endpoint == "" {
			cfg.shard.ColdOpens = devOpens
		}
		if c.Nodes == 1 {
			cfg.embedded = f.s2 // a fleet's nodes take the wire, as anywhere else
		} else {
			cfg.fleet = &cluster.Config{
				Name: cfg.name, Cluster: "fantail-dev", Secrets: [][]byte{secret}, Plaintext: cluster.PlaintextAlways,
				Gossip: loopback(0), Relay: loopback(0), HTTP: cfg.http, ChangeNotice: devLead,
			}
			if seed != "" {
				cfg.fleet.Join = []string{seed}
			}
		}
		n, err := startNode(ctx, cfg)
		if err != nil {
			return nil, errors.Join(err, f.stop())
		}
		f.nodes = append(f.nodes, n)
		if n.relay != nil && seed == "" {
			seed, _ = n.relay.Addrs()
		}
	}
	return f, f.ready(ctx)
}

// ready waits until every node sees every other.
func (f *fleet) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, n := range f.nodes {
		if n.relay == nil {
			continue
		}
		if err := n.relay.AwaitOwners(ctx, len(f.nodes)); err != nil {
			return errors.Join(err, f.stop())
		}
	}
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// port is the i-th from first; 0 stays 0 (any).
func port(first, i int) int {
	if first == 0 {
		return 0
	}
	return first + i
}

func (f *fleet) stop() error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, n := range f.nodes {
		wg.Go(func() {
			err := n.halt(nil)
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	wg.Wait()
	if f.s2 != nil {
		errs = append(errs, f.s2.Close())
	}
	return errors.Join(errs...)
}

// welcome says where everything is, and what to try.
func (f *fleet) welcome(w io.Writer) {
	first, last := f.nodes[0], f.nodes[len(f.nodes)-1]
	fmt.Fprintf(w, "\nFantail is up.\n\n")
	for _, n := range f.nodes {
		fmt.Fprintf(w, "  %s   http://%s   admin http://%s/metrics\n", n.cfg.name, n.http.Addr(), n.adminAt.Addr())
	}
	fmt.Fprintf(w, "  S2       %s\n\nTry it: make a stream and read it, then write from another terminal.\n\n", f.at)
	fmt.Fprintf(w, "  curl -X PUT -H 'Content-Type: text/plain' http://%s/v1/stream/hello\n", first.http.Addr())
	fmt.Fprintf(w, "  curl -N 'http://%s/v1/stream/hello?live=sse&offset=-1'\n\n", last.http.Addr())
	fmt.Fprintf(w, "  curl -H 'Content-Type: text/plain' -d 'hello, world' http://%s/v1/stream/hello\n\n", first.http.Addr())
}

// broken reports whether a server of a node has ended by itself.
func (f *fleet) broken() bool {
	return slices.ContainsFunc(f.nodes, func(n *node) bool { return len(n.failed) > 0 })
}

// line is what Fantail is about: S2's sessions are as many as there are streams that
// somebody follows, however many follow them.
func (f *fleet) line() string {
	var readers, streams, sessions float64
	for _, n := range f.nodes {
		readers += n.gauge("fantail_readers")
		streams += n.gauge("fantail_followed_streams")
		sessions += n.gauge("fantail_s2_read_sessions")
	}
	return fmt.Sprintf("readers %.0f · active streams %.0f · S2 read sessions %.0f", readers, streams, sessions)
}

// status prints the one line that tells what Fantail is about, until ctx or a server ends.
func (f *fleet) status(ctx context.Context, w io.Writer) {
	info, err := os.Stdout.Stat()
	live := err == nil && info.Mode()&os.ModeCharDevice != 0
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := ""; !f.broken(); {
		line := f.line()
		switch {
		case live:
			fmt.Fprintf(w, "\r\x1b[K%s", line)
		case line != last: // a log file wants changes only
			fmt.Fprintln(w, line)
		}
		last = line
		select {
		case <-tick.C:
		case <-ctx.Done():
			fmt.Fprintln(w)
			return
		}
	}
}
