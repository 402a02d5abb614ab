package s2

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// link is a TCP proxy to an S2 that is far away. It delays every byte, and cuts connections when it
// is told to.
type link struct {
	listener net.Listener
	to       string
	delay    time.Duration // each way
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func newLink(t *testing.T, to string, delay time.Duration) *link {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: ln, to: strings.TrimPrefix(to, "http://"), delay: delay, conns: map[net.Conn]bool{}}
	l.running.Go(l.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.cut()
		l.running.Wait()
	})
	return l
}

func (l *link) url() string { return "http://" + l.listener.Addr().String() }

func (l *link) accept() {
	for {
		in, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.running.Go(func() { l.connect(in) })
	}
}

func (l *link) connect(in net.Conn) {
	out, err := net.Dial("tcp", l.to)
	if err != nil {
		_ = in.Close()
		return
	}
	l.mu.Lock()
	l.conns[in], l.conns[out] = true, true
	closed := l.closed
	l.mu.Unlock()
	if closed {
		_, _ = in.Close(), out.Close()
	}
	l.running.Go(func() { l.carry(in, out) })
	l.carry(out, in)
}

// carry copies one direction. What is on its way when a connection is cut still arrives.
func (l *link) carry(from, to net.Conn) {
	type piece struct {
		b   []byte
		due time.Time
	}
	pieces := make(chan piece, 4096)
	l.running.Go(func() {
		for p := range pieces {
			<-time.After(time.Until(p.due))
			if _, err := to.Write(p.b); err != nil {
				_ = from.Close()
			}
		}
		_ = to.Close()
	})
	for {
		b := make([]byte, 32<<10)
		n, err := from.Read(b)
		if n > 0 {
			pieces <- piece{b[:n], time.Now().Add(l.delay)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	l.mu.Lock()
	delete(l.conns, from)
	l.mu.Unlock()
}

// cut cuts all connections, on the client's side: what the client has sent still arrives.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.LocalAddr().String() == l.listener.Addr().String() || l.closed {
			_ = c.Close()
		}
	}
}

// pipeliner returns a manager that pipelines over a Log, and the number of batches that it has sent so.
func (r *testEnv) pipeliner(log *Log) (h *shard.Manager, batches func() int) {
	reg := prometheus.NewRegistry()
	h = shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{Pipelining: shard.PipeliningOn, Metrics: reg})
	r.Cleanup(func() { _ = h.Close() })
	return h, func() int {
		all, err := reg.Gather()
		if err != nil {
			r.Fatal(err)
		}
		for _, f := range all {
			for _, m := range f.GetMetric() {
				if f.GetName() == "fantail_append_batches_total" && m.GetLabel()[0].GetValue() == "session" {
					return int(m.GetCounter().GetValue())
				}
			}
		}
		return 0
	}
}

// Many writers append through two owners that pipeline over an S2 that is far away. Connections are
// cut, batches are lost or refused, and a stranger writes: each accepted append is in the log once,
// and each writer's are in order.
func TestPipelinedAppendsAreWrittenOnce(t *testing.T) {
	r := newTestEnv(t)
	testPipelinedWriters(r, r.server.URL(), testBasin, func(on bool) {
		r.server.Faults().Clear()
		if !on {
			return
		}
		for i, f := range []s2dev.Fault{
			{Kind: s2dev.LoseAck, Probability: 0.02},
			{Kind: s2dev.LoseRequest, Probability: 0.01},
			{Kind: s2dev.CutFrame, Probability: 0.01},
			{Kind: s2dev.EndSession, Probability: 0.01},
			{Kind: s2dev.DelayAfter, Probability: 0.02, Delay: 50 * time.Millisecond},
			{Kind: s2dev.Refuse, Probability: 0.01, Code: "rate_limited"},
			{Kind: s2dev.Refuse, Probability: 0.01, Code: "unavailable"},
			{Kind: s2dev.Refuse, Probability: 0.01, Code: "seq_num_mismatch"},
		} {
			f.Stream, f.Op, f.Seed = string(id), s2dev.OpAppendSession, uint64(i+1)
			r.server.Faults().Add(f)
		}
	})
}

// The same on the S2 at TEST_S2_ENDPOINT, without faults of the server's own.
func TestLitePipelinedAppendsAreWrittenOnce(t *testing.T) {
	endpoint := os.Getenv("TEST_S2_ENDPOINT")
	if endpoint == "" {
		t.Skip("TEST_S2_ENDPOINT names no S2")
	}
	basin := fmt.Sprintf("pipelining-%08x", rand.Uint32())
	log := openForTest(t, Config{Endpoint: endpoint, Basin: basin, CreateBasins: true})
	if err := log.EnsureBasin(t.Context(), basin); err != nil {
		t.Fatal(err)
	}
	testPipelinedWriters(&testEnv{T: t, log: log}, endpoint, basin, func(bool) {})
}

func testPipelinedWriters(r *testEnv, endpoint, basin string, setFaults func(on bool)) {
	far := newLink(r.T, endpoint, 5*time.Millisecond)
	open := func(to string) *Log {
		return openForTest(r.T, Config{Endpoint: to, Basin: basin, backoff: 20 * time.Millisecond})
	}
	one, batches := r.pipeliner(open(far.url()))
	other, otherBatches := r.pipeliner(open(far.url()))
	owners := []*shard.Manager{one, other}
	r.mustDo(owners[0], request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	setFaults(true)
	const writers, writes = 24, 40 // together less than the ids that are remembered
	stop := make(chan struct{})
	var others sync.WaitGroup
	foreign := 0
	others.Go(func() {
		near := open(endpoint)
		for {
			select {
			case <-stop:
				return
			case <-time.After(150 * time.Millisecond):
			}
			if rand.N(6) == 0 {
				far.cut()
			}
			tail, err := near.Tail(r.Context(), id)
			if err == nil {
				_, err = near.Append(r.Context(), id, tail, []shard.Entry{{Body: []byte("foreign-0")}})
			}
			if err == nil {
				foreign++
			}
		}
	})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				if w == 0 { // the other owner's
					<-time.After(20 * time.Millisecond)
				}
				retryDo(r.T, owners, w, request(shard.OpAppend, "text/plain", fmt.Sprintf("%d-%d", w, i)))
			}
		})
	}
	wg.Wait()
	close(stop)
	others.Wait()
	setFaults(false)
	next := map[string]int{}
	got := r.readAll(r.newManager())
	for _, m := range got {
		w, i, _ := strings.Cut(m, "-")
		if w == "foreign" {
			continue
		}
		if i != fmt.Sprint(next[w]) {
			r.Fatalf("writer %s: message %s, want %d", w, i, next[w])
		}
		next[w]++
	}
	if len(got) != writers*writes+foreign || foreign == 0 {
		r.Fatalf("%d messages, want %d and %d foreign ones", len(got), writers*writes, foreign)
	}
	n, m := batches(), otherBatches()
	if n == 0 {
		r.Error("nothing was pipelined")
	}
	r.Logf("%d and %d batches over sessions, %d foreign records", n, m, foreign)
}

// retryDo has a write decided, by owners in turn until one has a verdict. The first writer begins with
// the second owner.
func retryDo(t *testing.T, owners []*shard.Manager, w int, q *shard.Request) {
	for try := 0; ; try++ {
		turn := try / 4
		if w == 0 {
			turn++
		}
		out, err := owners[turn%len(owners)].Do(t.Context(), q)
		switch {
		case err == nil && out.Code == shard.CodeAppended:
			return
		case err == nil:
			t.Errorf("refused: %+v", out)
			return
		case try > 100:
			t.Errorf("no verdict: %v", err)
			return
		case errors.Is(err, shard.ErrOutcomeUnknown):
			t.Errorf("unknown: %v", err)
			return
		}
		again := *q
		again.Repeat = true
		q = &again
	}
}
