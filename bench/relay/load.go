package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/shard"
)

// What relayed records cost while they flow, with TLS between the nodes and without: how late
// they come at a rate, how many come when nothing holds them back, and how long a write takes
// that the other node sends on. Both ways are measured in turn, round after round, for the
// machine has other work: medians are told.

const (
	loadStreams = 200
	smallRecord = 256
	largeRecord = 16 << 10
	writers     = 8
	steadyRate  = 20_000 // records a second
	writeRate   = 1_000  // writes a second
)

// figures are one round of one way.
type figures struct {
	p50, p99           float64 // of a record, ms
	rate               float64 // MB/s, when nothing holds it back
	cpu                float64 // of both nodes, ms a MB, then
	writeP50, writeP99 float64 // of a write, ms
}

// load measures both ways and tells the medians.
func load(rounds int, each time.Duration) error {
	ways := []string{"always", "never"}
	all := map[string][]figures{}
	for range rounds {
		for _, way := range ways {
			f, err := loadOnce(way, each)
			if err != nil {
				return err
			}
			all[way] = append(all[way], f)
			fmt.Fprintf(os.Stderr, "plaintext %-6s %+v\n", way, f)
		}
		slices.Reverse(ways)
	}
	fmt.Printf("\n%d streams, medians of %d rounds of %v, in turn; a way back says how much more or less\n\n", loadStreams, rounds, each)
	fmt.Printf("%-58s %10s %10s %8s\n", "", "plaintext", "TLS", "")
	for _, row := range []struct {
		what string
		of   func(figures) float64
	}{
		{fmt.Sprintf("%d records/s of %d B: p50, ms", steadyRate, smallRecord), func(f figures) float64 { return f.p50 }},
		{fmt.Sprintf("%d records/s of %d B: p99, ms", steadyRate, smallRecord), func(f figures) float64 { return f.p99 }},
		{fmt.Sprintf("saturated, records of %d KiB: MB/s", largeRecord>>10), func(f figures) float64 { return f.rate }},
		{"saturated: CPU of both nodes, ms/MB", func(f figures) float64 { return f.cpu }},
		{fmt.Sprintf("%d writes/s sent on: p50, ms", writeRate), func(f figures) float64 { return f.writeP50 }},
		{fmt.Sprintf("%d writes/s sent on: p99, ms", writeRate), func(f figures) float64 { return f.writeP99 }},
	} {
		plain, tls := median(all["always"], row.of), median(all["never"], row.of)
		fmt.Printf("%-58s %10.3f %10.3f %+7.1f%%\n", row.what, plain, tls, 100*(tls/plain-1))
	}
	return nil
}

func median(all []figures, of func(figures) float64) float64 {
	var vs []float64
	for _, f := range all {
		vs = append(vs, of(f))
	}
	slices.Sort(vs)
	return vs[len(vs)/2]
}

func loadOnce(way string, each time.Duration) (f figures, err error) {
	owner, err := start("owner", "", "", way)
	if err != nil {
		return f, err
	}
	defer owner.Stop()
	gossip, err := owner.Ask("gossip")
	if err != nil {
		return f, err
	}
	edge, err := start("edge", gossip, "", way)
	if err != nil {
		return f, err
	}
	defer edge.Stop()
	ms := each.Milliseconds()
	for _, step := range []struct {
		peer *child.Peer
		say  string
		into []any
	}{
		{owner, fmt.Sprintf("create %d", loadStreams), nil},
		{edge, fmt.Sprintf("sink %d", loadStreams), nil},
		{owner, fmt.Sprintf("send %d %d %d", steadyRate, smallRecord, ms/4), nil}, // to warm up
		{edge, "latency", []any{new(float64), new(float64)}},
		{owner, fmt.Sprintf("send %d %d %d", steadyRate, smallRecord, ms), nil},
		{edge, "latency", []any{&f.p50, &f.p99}},
		{edge, fmt.Sprintf("send %d %d %d", writeRate, smallRecord, ms), []any{&f.writeP50, &f.writeP99}},
		{edge, "latency", []any{new(float64), new(float64)}},
	} {
		said, err := step.peer.Ask(step.say)
		if err == nil && len(step.into) > 0 {
			_, err = fmt.Sscan(said, step.into...)
		}
		if err != nil {
			return f, fmt.Errorf("%s: %w", step.say, err)
		}
	}
	f.rate, f.cpu, err = saturate(owner, edge, ms)
	return f, err
}

// saturate has the owner write as fast as it can.
func saturate(owner, edge *child.Peer, ms int64) (rate, cpu float64, err error) {
	var before, after struct{ owner, edge, bytes float64 }
	for _, m := range []*struct{ owner, edge, bytes float64 }{&before, &after} {
		for _, step := range []struct {
			peer *child.Peer
			say  string
			into *float64
		}{{owner, "cpu", &m.owner}, {edge, "cpu", &m.edge}, {edge, "bytes", &m.bytes}} {
			said, err := step.peer.Ask(step.say)
			if err == nil {
				_, err = fmt.Sscan(said, step.into)
			}
			if err != nil {
				return 0, 0, err
			}
		}
		if m == &before {
			if _, err := owner.Ask(fmt.Sprintf("send 0 %d %d", largeRecord, ms)); err != nil {
				return 0, 0, err
			}
		}
	}
	mb := (after.bytes - before.bytes) / 1e6
	return mb / (float64(ms) / 1e3), (after.owner - before.owner + after.edge - before.edge) / mb, nil
}

// cpuTime returns the CPU time of the process, in ms.
func cpuTime() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}

// sink reads the streams that it follows, and notes how late each record is.
type sink struct {
	bytes atomic.Int64

	mu   sync.Mutex
	late []float64 // ms
}

type waker chan struct{}

func (w waker) Wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

func (s *sink) read(t *shard.TailBuffer) {
	wake := make(waker, 1)
	pos := t.Next()
	var rs []shard.RecordBatch
	for {
		rs, _ = t.ReadAt(pos, 1<<20, rs[:0])
		if len(rs) == 0 {
			if pos = max(pos, t.Floor()); t.Watch(wake, pos) {
				<-wake
			}
			continue
		}
		now := time.Now().UnixNano()
		s.mu.Lock()
		for _, r := range rs {
			for i := range r.Len() {
				if m := r.Message(i); m.Pos >= pos {
					s.late = append(s.late, float64(now-int64(binary.BigEndian.Uint64(m.Body)))/1e6)
					s.bytes.Add(int64(len(m.Body)))
				}
			}
			pos = max(pos, r.To())
		}
		s.mu.Unlock()
	}
}

// latencies tells the median and the 99th percentile of what came since, and forgets it.
func (s *sink) latencies() string {
	s.mu.Lock()
	late := s.late
	s.late = nil
	s.mu.Unlock()
	return quantiles(late)
}

func quantiles(ms []float64) string {
	if len(ms) == 0 {
		return "0 0"
	}
	slices.Sort(ms)
	return fmt.Sprintf("%f %f", ms[len(ms)/2], ms[len(ms)*99/100])
}

// send writes records at a rate, or as fast as it can (0), for a while, and tells how long
// they took.
func (n *node) send(ctx context.Context, rate, size int, for_ time.Duration) (string, error) {
	var mu sync.Mutex
	var took []float64
	var failed error
	var wg sync.WaitGroup
	began := time.Now()
	for w := range writers {
		wg.Go(func() {
			mine, err := n.write(ctx, w, rate, size, began, for_)
			mu.Lock()
			took = append(took, mine...)
			if err != nil {
				failed = err
			}
			mu.Unlock()
		})
	}
	wg.Wait()
	return quantiles(took), failed
}

func (n *node) write(ctx context.Context, w, rate, size int, began time.Time, for_ time.Duration) (took []float64, err error) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for i := w; ; i += writers {
		at := began
		if rate > 0 {
			at = began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		}
		if wait := time.Until(at); wait > time.Millisecond {
			pause.Reset(wait)
			<-pause.C
		}
		now := time.Now()
		if now.Sub(began) >= for_ {
			return took, nil
		}
		body := make([]byte, size)
		binary.BigEndian.PutUint64(body, uint64(now.UnixNano()))
		out, err := n.relay.Do(ctx, &shard.Request{
			Stream: n.ids[i%len(n.ids)], Op: shard.OpAppend, ID: shard.NewAppendID(),
			MintedMillis: shard.Millis(now.UnixMilli()), Type: "text/plain", Messages: shard.NewMessages(body),
		})
		if err == nil && !out.Code.Accepted() {
			err = fmt.Errorf("%s", out.Why)
		}
		if err != nil {
			return took, err
		}
		took = append(took, float64(time.Since(now).Nanoseconds())/1e6)
	}
}

// ways lists the ways in which the relay may speak, by the flag of fantail serve.
var ways = map[string]peertls.PlaintextMode{
	"always": peertls.PlaintextAlways, "never": peertls.PlaintextNever, "migrate": peertls.PlaintextMigrate,
}
