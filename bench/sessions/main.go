// Command sessions measures what an idle read session of S2 costs the process that has it. It has
// four rows: package s2s alone, shard/s2's Log.Feed on it, a shard.Manager that owns and follows a
// stream for each session, and Log.Follow on S2's SDK. Each is a process of its own, and so is the
// embedded S2. They run side by side, so that their CPU is measured in the same seconds.
//
//	go run ./bench/sessions
//	bench/with-lite go run ./bench/sessions -s2 http://127.0.0.1:4430
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/usage"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2"
	"github.com/fantail-dev/fantail/shard/s2/s2s"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

const (
	basin   = "fantail-bench"
	streams = 100 // that the sessions share
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sessions:", err)
		os.Exit(1)
	}
}

func run() error {
	n := flag.Int("sessions", 5000, "sessions of each")
	length := flag.Duration("for", 40*time.Second, "time for which CPU is measured")
	endpoint := flag.String("s2", "", "measure on this S2, and not on the embedded one")
	serve := flag.Bool("serve", false, "be the embedded S2")
	client := flag.String("client", "", "be a client: s2s, feed, owner or sdk")
	only := flag.String("only", "", "measure this client alone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch {
	case *serve:
		return serveS2(ctx)
	case *client != "":
		return hold(ctx, *client, *endpoint, *n)
	}
	return measure(*endpoint, *only, *n, *length)
}

func serveS2(ctx context.Context) error {
	s, err := s2dev.Open(s2dev.Config{Listen: "127.0.0.1:4634", Basins: []string{basin}})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return s.Close()
}

func stream(i int) shard.StreamID { return shard.StreamID(fmt.Sprint("bench/", i%streams)) }

// hold opens sessions, says so once all are at the tail, and holds them.
func hold(ctx context.Context, client, endpoint string, n int) error {
	log, err := s2.Open(s2.Config{Endpoint: endpoint, Basin: basin, CreateBasins: true, SDKSessions: client == "sdk"})
	if err != nil {
		return err
	}
	for i := range streams {
		if err := log.Create(ctx, stream(i)); err != nil {
			return err
		}
	}
	var atTail sync.WaitGroup
	atTail.Add(n)
	began := time.Now()
	switch client {
	case "s2s":
		c := s2s.NewClient(s2s.Config{Token: "none"})
		for i := range n {
			holdAlone(ctx, c, endpoint, i, atTail.Done)
		}
	case "feed":
		for i := range n {
			log.Feed(stream(i), &follower{atTail: atTail.Done})
		}
	case "owner":
		if err := own(ctx, log, n, &atTail); err != nil {
			return err
		}
	default:
		for i := range n {
			go func() {
				f := &follower{atTail: atTail.Done}
				_ = log.Follow(ctx, stream(i), 0, f.TakePage)
			}()
		}
	}
	atTail.Wait()
	cpu := usage.CPU(os.Getpid())
	if n > 0 {
		fmt.Fprintf(os.Stderr, "%s: %d sessions opened in %.1f s, with %.1f s of CPU\n", client, n, time.Since(began).Seconds(), cpu.Seconds())
	}
	for range 4 { // a stack shrinks by half with each
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(os.Stderr, "%s: %d goroutines, heap %d KB, stacks %d KB\n", client, runtime.NumGoroutine(), m.HeapInuse>>10, m.StackInuse>>10)
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}

// follower follows an empty stream.
type follower struct {
	once   sync.Once
	atTail func()
}

// WantedPos implements shard.Follower.
func (f *follower) WantedPos() (pos shard.Pos, soon bool) { return 0, false }

// TakePage implements shard.Follower.
func (f *follower) TakePage(p shard.Page) error {
	if p.HasTail {
		f.once.Do(f.atTail)
	}
	return nil
}

// NoteEnd implements shard.Follower.
func (f *follower) NoteEnd(error) {}

// own creates streams with a Manager and follows each.
func own(ctx context.Context, log *s2.Log, n int, atTail *sync.WaitGroup) error {
	m := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{ColdOpens: 1e6})
	for i := range n {
		id := shard.StreamID(fmt.Sprint("bench/own", i))
		if _, err := m.Do(ctx, &shard.Request{Op: shard.OpCreate, Stream: id, ID: shard.NewAppendID(), Type: "text/plain"}); err != nil {
			return err
		}
		if _, _, err := m.Follow(ctx, id, 0); err != nil {
			return err
		}
	}
	for log.OpenSessions() < n {
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // until all are open
	}
	atTail.Add(-n)
	return nil
}

// holdAlone opens a session of package s2s. Its wake starts a goroutine.
func holdAlone(ctx context.Context, c *s2s.Client, endpoint string, i int, atTail func()) {
	var session atomic.Pointer[s2s.ReadSession]
	opened := make(chan struct{})
	var once sync.Once
	r, err := c.OpenRead(ctx, s2s.Target{Base: endpoint + "/v1", Basin: basin, Stream: string(stream(i))}, s2s.ReadOptions{SeqNum: new(uint64)}, func() {
		go func() {
			<-opened
			var b s2s.Batch
			for {
				ok, err := session.Load().TakeBatch(&b)
				if !ok || err != nil {
					return
				}
				once.Do(atTail)
			}
		}()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "sessions:", err)
		return
	}
	session.Store(r)
	close(opened)
}

// contender is a client that is measured.
type contender struct {
	name, client string
	holds        *child.Child
	empty, full  int64 // bytes without and with sessions
	cpu          time.Duration
}

func measure(endpoint, only string, n int, length time.Duration) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	at := endpoint
	if at == "" {
		at = "http://127.0.0.1:4634"
		server, err := child.Start(self, "ready", "-serve")
		if err != nil {
			return err
		}
		defer server.Stop()
	}
	all := []*contender{
		{name: "package s2s alone", client: "s2s"},
		{name: "Log.Feed", client: "feed"},
		{name: "an owned stream", client: "owner"},
		{name: "Log.Follow on the SDK", client: "sdk"},
	}
	if only != "" {
		all = slices.DeleteFunc(all, func(c *contender) bool { return c.client != only })
	}
	for _, c := range all {
		start := func(n int) (*child.Child, error) {
			return child.StartWithin(5*time.Minute, self, "ready", "-client", c.client, "-s2", at, "-sessions", fmt.Sprint(n))
		}
		none, err := start(0)
		if err != nil {
			return err
		}
		c.empty = usage.Memory(none.PID())
		none.Stop()
		if c.holds, err = start(n); err != nil {
			return err
		}
		defer c.holds.Stop()
	}
	for _, c := range all {
		c.cpu = -usage.CPU(c.holds.PID())
	}
	time.Sleep(length) //nolint:forbidigo // the time that is measured
	for _, c := range all {
		c.cpu += usage.CPU(c.holds.PID())
		c.full = usage.Memory(c.holds.PID())
	}
	report(os.Stdout, all, n, length)
	return nil
}

func report(w io.Writer, all []*contender, n int, length time.Duration) {
	fmt.Fprintf(w, "%d idle read sessions, with their heartbeats; memory and CPU of the client's process over %s\n\n", n, length)
	fmt.Fprintf(w, "%-24s %18s %26s\n", "", "bytes a session", "% of a core for 1,000")
	for _, c := range all {
		fmt.Fprintf(w, "%-24s %18d %26.2f\n", c.name, (c.full-c.empty)/int64(n), 100*c.cpu.Seconds()/length.Seconds()*1000/float64(n))
	}
}
