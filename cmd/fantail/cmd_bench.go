package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// benchCmd measures a fleet with writers and readers.
type benchCmd struct {
	Nodes   []string      `help:"URLs of nodes, to have readers and writers at each (default: --url)." env:"-"`
	Name    string        `help:"What the names of the streams begin with, with their project." default:"default/__bench" env:"-"`
	Streams int           `help:"Streams." default:"10" env:"-"`
	Writers int           `help:"Writers of each stream." default:"1" env:"-"`
	Readers int           `help:"Readers of each stream." default:"10" env:"-"`
	Rate    float64       `help:"Messages per second of each writer; 0: as fast as answers come." default:"10" env:"-"`
	Size    int           `help:"Bytes of a message." default:"200" env:"-"`
	For     time.Duration `help:"How long to measure." default:"10s" env:"-"`
	Warmup  time.Duration `help:"How long to run before measuring." default:"1s" env:"-"`
	Live    dsclient.Live `help:"How readers follow." enum:"sse,long-poll" default:"sse" env:"-"`
	JSON    bool          `name:"json" help:"Print JSON." env:"-"`
	remoteFlags
}

// benchResult holds what was measured.
type benchResult struct {
	Streams    int              `json:"streams"`
	Writers    int              `json:"writers"`
	Readers    int              `json:"readers"`
	Size       int              `json:"bytes"`
	Seconds    float64          `json:"seconds"`
	Appends    int64            `json:"appends"`
	Deliveries int64            `json:"deliveries"`
	Retries    int64            `json:"requestsSentAgain"`
	Append     latencyQuantiles `json:"appendMilliseconds"`
	Delivery   latencyQuantiles `json:"deliveryMilliseconds"`
}

// Run measures.
func (c *benchCmd) Run(ctx context.Context, s stdio) error {
	if c.Streams < 1 || c.Writers < 1 || c.Readers < 0 || c.Streams*(c.Writers+c.Readers) > 20_000 || c.Rate < 0 || c.Size < 40 || c.Size > 1<<20 || c.For <= 0 {
		return usageError(errors.New("want 1 stream and writer or more, 20000 readers and writers at most, and 40 to 1048576 bytes"))
	}
	r, err := c.open(s, true)
	if err != nil {
		return err
	}
	defer r.close()
	as := &proveCmd{Nodes: c.Nodes, Name: c.Name, Streams: c.Streams, PerStream: c.Writers + c.Readers, Live: c.Live, remoteFlags: c.remoteFlags}
	can, stop, err := as.newCanary(ctx, r)
	if err != nil {
		return err
	}
	defer stop()
	b := &bench{cmd: c, canary: can, padding: strings.Repeat("x", c.Size)}
	result, err := b.run(ctx, s)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, result)
	}
	return result.write(s)
}

// bench is one measurement.
type bench struct {
	cmd     *benchCmd
	canary  *canary
	padding string

	measuring          atomic.Bool
	appends, delivered atomic.Int64
	append, delivery   latencies
	connected          atomic.Int64
}

func (b *bench) run(ctx context.Context, s stdio) (*benchResult, error) {
	steady := context.WithoutCancel(ctx)
	if err := b.canary.create(ctx); err != nil {
		return nil, err
	}
	defer func() { _ = b.canary.remove(steady) }()
	running, stop := context.WithCancel(ctx)
	defer stop()
	var errs errorList
	var work sync.WaitGroup
	for i := range b.cmd.Streams {
		for k := range b.cmd.Readers {
			work.Go(func() { errs.add(b.read(running, i, k)) })
		}
	}
	readers := int64(b.cmd.Streams * b.cmd.Readers)
	for b.connected.Load() < readers && errs.first() == nil && ctx.Err() == nil {
		_ = waitFor(ctx, 10*time.Millisecond)
	}
	for i := range b.cmd.Streams {
		for k := range b.cmd.Writers {
			work.Go(func() { errs.add(b.write(running, i, k)) })
		}
	}
	_ = waitFor(ctx, b.cmd.Warmup)
	began := time.Now()
	b.measuring.Store(true)
	b.wait(ctx, s, &errs)
	b.measuring.Store(false)
	took := time.Since(began)
	stop()
	work.Wait()
	if err := errs.first(); err != nil {
		return nil, err
	}
	return &benchResult{
		Streams: b.cmd.Streams, Writers: b.cmd.Streams * b.cmd.Writers, Readers: int(readers), Size: b.cmd.Size, Seconds: took.Seconds(),
		Appends: b.appends.Load(), Deliveries: b.delivered.Load(), Retries: b.canary.retries.Load(), Append: b.append.quantiles(), Delivery: b.delivery.quantiles(),
	}, nil
}

// wait waits until the measurement is over, an interrupt, or the first error.
func (b *bench) wait(ctx context.Context, s stdio, errs *errorList) {
	bar := newProgress(s.err, "bench", int64(b.cmd.For/time.Second), countUnit)
	defer bar.finish()
	began := time.Now()
	for time.Since(began) < b.cmd.For && errs.first() == nil {
		if waitFor(ctx, min(progressEvery, b.cmd.For-time.Since(began))) != nil {
			return
		}
		bar.set(int64(time.Since(began) / time.Second))
	}
}

func (b *bench) write(ctx context.Context, stream, writer int) error {
	s, err := b.canary.stream(b.canary.clientAt(writer), stream)
	if err != nil {
		return err
	}
	p := s.NewProducer(jsonType, "", 0)
	for n := 0; ctx.Err() == nil; n++ {
		sent := time.Now()
		body := fmt.Sprintf(`[{"w":%d,"n":%d,"t":%d,"x":"`, writer, n, sent.Sub(b.canary.began).Microseconds())
		body += b.padding[:max(0, b.cmd.Size-len(body)-2)] + `"}]`
		if _, err := p.Append(ctx, []byte(body), false); err != nil {
			return b.unlessOver(ctx, err)
		}
		if b.measuring.Load() {
			b.appends.Add(1)
			b.append.add(time.Since(sent))
		}
		if b.cmd.Rate > 0 {
			_ = waitFor(ctx, time.Duration(float64(time.Second)/b.cmd.Rate)-time.Since(sent))
		}
	}
	return nil
}

func (b *bench) read(ctx context.Context, stream, reader int) error {
	s, err := b.canary.stream(b.canary.clientAt(reader), stream)
	if err != nil {
		return err
	}
	first := sync.OnceFunc(func() { b.connected.Add(1) })
	err = s.Follow(ctx, "now", b.cmd.Live, first, func(chunk *dsclient.Chunk) error {
		messages, err := splitJSON(chunk.Body)
		if err != nil || !b.measuring.Load() {
			return err
		}
		now := time.Since(b.canary.began)
		for _, m := range messages {
			if at, ok := sentAt(m); ok {
				b.delivered.Add(1)
				b.delivery.add(now - at)
			}
		}
		return nil
	})
	return b.unlessOver(ctx, err)
}

// sentAt returns when a message was sent. It does not decode the padding.
func sentAt(m []byte) (time.Duration, bool) {
	_, rest, ok := bytes.Cut(m, []byte(`"t":`))
	at := int64(0)
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		at = at*10 + int64(c-'0')
	}
	return time.Duration(at) * time.Microsecond, ok
}

// unlessOver returns an error that is not the end of the measurement.
func (b *bench) unlessOver(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// write prints the result as a table.
func (r *benchResult) write(s stdio) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d streams, %d writers, %d readers, %d bytes, %.1f s\n", r.Streams, r.Writers, r.Readers, r.Size, r.Seconds)
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tcount\tper second\tp50 ms\tp90 ms\tp99 ms\tp99.9 ms\tmax ms\t")
	row := func(name string, count int64, q latencyQuantiles) {
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", name, count, float64(count)/r.Seconds, q.P50, q.P90, q.P99, q.P999, q.Max)
	}
	row("appends", r.Appends, r.Append)
	row("deliveries", r.Deliveries, r.Delivery)
	if err := t.Flush(); err != nil {
		return err
	}
	if r.Retries > 0 {
		fmt.Fprintf(&b, "%d requests were sent again\n", r.Retries)
	}
	_, err := s.out.Write(b.Bytes())
	return err
}

// latencies is a histogram of microseconds with an error of 2 % at most. It is safe for concurrent
// use, and never grows.
type latencies struct {
	buckets [64 * latencySteps]atomic.Int64
	max     atomic.Int64
}

const latencySteps = 32 // of each power of two

func (l *latencies) add(d time.Duration) {
	us := max(0, d.Microseconds())
	l.buckets[latencyBucket(uint64(us))].Add(1)
	for was := l.max.Load(); us > was && !l.max.CompareAndSwap(was, us); was = l.max.Load() {
	}
}

func latencyBucket(us uint64) int {
	if us < latencySteps {
		return int(us) //nolint:gosec // small
	}
	shift := bits.Len64(us) - 6
	return (shift+1)*latencySteps + int(us>>shift) - latencySteps //nolint:gosec // below 2 × latencySteps
}

// latencyOf returns the middle of a bucket, in microseconds.
func latencyOf(bucket int) float64 {
	if bucket < latencySteps {
		return float64(bucket)
	}
	shift, step := bucket/latencySteps-1, bucket%latencySteps+latencySteps
	return (float64(step) + 0.5) * math.Exp2(float64(shift))
}

// latencyQuantiles holds quantiles in milliseconds.
type latencyQuantiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

func (l *latencies) quantiles() (q latencyQuantiles) {
	total := int64(0)
	for i := range l.buckets {
		total += l.buckets[i].Load()
	}
	most := float64(l.max.Load())
	for to, part := range map[*float64]float64{&q.P50: 0.5, &q.P90: 0.9, &q.P99: 0.99, &q.P999: 0.999} {
		seen, rank := int64(0), int64(math.Ceil(part*float64(total)))
		for i := range l.buckets {
			if seen += l.buckets[i].Load(); total > 0 && seen >= rank {
				*to = min(latencyOf(i), most) / 1000
				break
			}
		}
	}
	q.Max = most / 1000
	return q
}
