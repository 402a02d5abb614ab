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

	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/shard/s2"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// devCmd runs a fleet in one process, on loopback, with the embedded S2.
type devCmd struct {
	Nodes    int           `help:"Number of nodes, 1 to 9. A single node runs no cluster code, and calls the embedded S2 without a socket." default:"1"`
	Data     string        `help:"Folder for the data (default: data is kept in memory)."`
	Port     int           `help:"Public port of the first node. The others use the following ports." default:"4437"`
	Admin    int           `name:"admin-port" help:"Admin port of the first node. The others use the following ports." default:"4447"`
	Page     int           `name:"page-port" help:"Port of the playground, a page for the browser. If it is in use, another one is taken." default:"4436"`
	S2Port   int           `name:"s2-port" help:"Port of the embedded S2." default:"4430"`
	Endpoint string        `name:"s2-endpoint" help:"URL of another S2 to use instead, such as s2-lite."`
	LongPoll time.Duration `help:"How long a long-poll waits for new data before it gets an empty answer." default:"20s"`

	authFlags
	rootFlags
	traceFlags
}

const (
	devBasin        = "fantail-dev"
	devChangeNotice = 200 * time.Millisecond // within one process no node learns of a change late
	devColdOpens    = 1e6                    // the embedded S2 costs nothing
)

// devFleet holds the nodes of devCmd, and their S2.
type devFleet struct {
	s2     *s2dev.Server // nil: another S2 is used
	s2URL  string        // the URL of the S2
	nodes  []*node       // those that were started first
	places []*devNode    // where they run, and where the playground starts others
	page   *playground   // nil: not open yet
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
	f.printWelcome(os.Stdout)
	f.printStatus(ctx, os.Stdout)
	return f.stop() // with the error of a server that ended by itself, if there is one
}

func (c *devCmd) start(ctx context.Context, log *slog.Logger) (*devFleet, error) {
	at := s2.Config{Endpoint: c.Endpoint, Token: "none", Basin: devBasin}
	if err := errors.Join(checkS2Settings(&at)...); err != nil {
		return nil, err
	}
	f := &devFleet{s2URL: at.Endpoint}
	if f.s2URL == "" {
		var err error
		f.s2, err = s2dev.Open(s2dev.Config{
			Listen: loopbackAddr(c.S2Port), Dir: c.Data, Basins: []string{devBasin}, Logger: log,
			Fatal: exitOnStorageFailure(log, c.Data),
		})
		if err != nil {
			return nil, addressInUse("--s2-port", err)
		}
		f.s2URL = f.s2.URL()
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	for i := range c.Nodes {
		cfg := nodeConfig{
			name: fmt.Sprintf("node-%d", i+1), grace: 15 * time.Second, // no linger: there is no balancer
			http: loopbackAddr(nthPort(c.Port, i)), admin: loopbackAddr(nthPort(c.Admin, i)),
			s2:   s2.Config{Endpoint: f.s2URL, Basin: devBasin, CreateBasins: true},
			edge: edge.Config{LongPoll: c.LongPoll}, pprof: true,
			httpFlag: "--port", adminFlag: "--admin-port",
			log: log.With("node", fmt.Sprintf("node-%d", i+1)),
		}
		var wrong []error
		cfg.auth, wrong = c.applyRights(&cfg.edge)
		wrong = append(wrong, c.applyRoots(&cfg.edge)...)
		if err := c.applyTraces(&cfg); err != nil {
			wrong = append(wrong, err)
		}
		if len(wrong) > 0 {
			return nil, errors.Join(append(wrong, f.stop())...)
		}
		cfg.auth.secrets, cfg.auth.said = [][]byte{secret}, i > 0
		if c.Endpoint == "" {
			cfg.shard.ColdOpens = devColdOpens
		}
		if c.Nodes == 1 {
			cfg.inProcessS2 = f.s2 // the nodes of a fleet use the socket, as in production
		} else {
			cfg.fleet = devFleetConfig(cfg.name, cfg.http, secret, f.gossipAddrs())
		}
		n, err := startNode(ctx, cfg)
		if err != nil {
			return nil, errors.Join(err, f.stop())
		}
		f.nodes = append(f.nodes, n)
		f.places = append(f.places, newDevNode(cfg, n))
	}
	if err := f.awaitOwners(ctx); err != nil {
		return nil, err
	}
	var err error
	if f.page, err = openPlayground(ctx, f, loopbackAddr(c.Page), log); err != nil {
		return nil, errors.Join(err, f.stop())
	}
	return f, nil
}

// awaitOwners waits until every node sees every other.
func (f *devFleet) awaitOwners(ctx context.Context) error {
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

func loopbackAddr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// nthPort returns the i-th port from first; 0 stays 0 (any port).
func nthPort(first, i int) int {
	if first == 0 {
		return 0
	}
	return first + i
}

func (f *devFleet) stop() error {
	var mu sync.Mutex
	var errs []error
	if f.page != nil {
		errs = append(errs, f.page.close())
	}
	var wg sync.WaitGroup
	for _, p := range f.places {
		wg.Go(func() {
			err := p.stop()
			if errors.Is(err, errBusy) { // it was stopped or killed before
				return
			}
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

// printWelcome prints all addresses, and commands to try.
func (f *devFleet) printWelcome(w io.Writer) {
	first, last := f.nodes[0], f.nodes[len(f.nodes)-1]
	fmt.Fprintf(w, "\nFantail is up.\n\n  Open     %s   in a browser, to write, read, kill a node and see what happens\n\n", f.page.url())
	for _, n := range f.nodes {
		fmt.Fprintf(w, "  %s   http://%s   admin http://%s/metrics\n", n.cfg.name, n.publicListener.Addr(), n.adminListener.Addr())
	}
	fmt.Fprintf(w, "  S2       %s\n\nTry it: make a stream and read it, then write from another terminal.\n\n", f.s2URL)
	fmt.Fprintf(w, "  curl -X PUT -H 'Content-Type: text/plain' http://%s/v1/stream/hello\n", first.publicListener.Addr())
	fmt.Fprintf(w, "  curl -N 'http://%s/v1/stream/hello?live=sse&offset=-1'\n\n", last.publicListener.Addr())
	fmt.Fprintf(w, "  curl -H 'Content-Type: text/plain' -d 'hello, world' http://%s/v1/stream/hello\n\n", first.publicListener.Addr())
}

// serverEnded reports whether a server of a node has ended by itself.
func (f *devFleet) serverEnded() bool {
	return slices.ContainsFunc(f.running(), func(n *node) bool { return len(n.serverErrors) > 0 })
}

// running returns the nodes that run.
func (f *devFleet) running() (nodes []*node) {
	for _, p := range f.places {
		if n := p.running(); n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// runningOrigins returns the addresses at which clients reach the nodes that run.
func (f *devFleet) runningOrigins() (origins []string) {
	for _, p := range f.places {
		if p.running() != nil {
			origins = append(origins, p.origin())
		}
	}
	return origins
}

// gossipAddrs returns the addresses at which a new node finds those that run.
func (f *devFleet) gossipAddrs() (addrs []string) {
	for _, n := range f.running() {
		if n.relay != nil {
			gossip, _ := n.relay.ListenAddrs()
			addrs = append(addrs, gossip)
		}
	}
	return addrs
}

// place returns the place of that name, or nil.
func (f *devFleet) place(name string) *devNode {
	for _, p := range f.places {
		if p.cfg.name == name {
			return p
		}
	}
	return nil
}

// statusLine returns the counts of readers, streams and S2 sessions. There is one session for each
// followed stream, whatever the number of its readers.
func (f *devFleet) statusLine() string {
	var readers, streams, sessions float64
	for _, n := range f.running() {
		readers += n.metricSum("fantail_readers")
		streams += n.metricSum("fantail_followed_streams")
		sessions += n.metricSum("fantail_s2_read_sessions")
	}
	return fmt.Sprintf("readers %.0f · active streams %.0f · S2 read sessions %.0f", readers, streams, sessions)
}

// printStatus prints the status line every second, until ctx or a server ends.
func (f *devFleet) printStatus(ctx context.Context, w io.Writer) {
	info, err := os.Stdout.Stat()
	live := err == nil && info.Mode()&os.ModeCharDevice != 0
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := ""; !f.serverEnded(); {
		line := f.statusLine()
		switch {
		case live:
			fmt.Fprintf(w, "\r\x1b[K%s", line)
		case line != last: // a log file gets only changes
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
