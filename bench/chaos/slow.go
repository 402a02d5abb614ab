package main

import (
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// slowReaders has much written to a stream, more than its readers take at their
// pace: they fall back to catching up, and nobody is cut but one who takes nothing.
func slowReaders(r *run) (string, error) {
	l, err := startLoad(r.fleet, loadSize{
		prefix: "slow", streams: 1, readers: 30, every: 10 * time.Millisecond, size: 32 << 10, pace: 4 * time.Millisecond,
	})
	if err != nil {
		return "", err
	}
	defer l.stop()
	frozen, err := net.Dial("tcp", r.nodes[0].http())
	if err != nil {
		return "", err
	}
	defer frozen.Close()
	if _, err := fmt.Fprintf(frozen, "GET /v1/stream/%s?live=sse&offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n", streamName("slow", 0)); err != nil {
		return "", err
	}
	watch := startWatch(r.fleet)
	pause(8 * time.Second)
	if err := l.writing.pause(20 * time.Second); err != nil {
		return "", err
	}
	t, err := l.tally()
	if err != nil {
		return "", err
	}
	written := l.writing.begin().acked
	behind := written*l.readers - t.Received
	if err := eventually(2*time.Minute, "the slow readers have everything", func() bool {
		t, err = l.tally()
		return err == nil && t.Received == written*l.readers
	}); err != nil {
		return "", err
	}
	d, err := l.verify()
	if err == nil && d.total() > 0 {
		err = fmt.Errorf("%s", d.First)
	}
	if err != nil {
		return "", err
	}
	grown := watch.now()
	if t.Moved.count() > 0 || grown[`fantail_readers_cut_total{reason="memory"}`] > 0 {
		return "", fmt.Errorf("%d slow readers lost their connection though they took what they could", t.Moved.count())
	}
	began := time.Now()
	if !r.quick {
		err = eventually(2*time.Minute, "a reader that takes nothing is cut", func() bool {
			return watch.now()[`fantail_readers_cut_total{reason="stalled"}`] == 1
		})
		r.note("a reader that takes nothing was cut %s after the slow ones were done", short(time.Since(began)))
	}
	watch.stop()
	_, _ = io.CopyN(io.Discard, frozen, 1)
	if behind < written {
		return "", err
	}
	return fmt.Sprintf("%d messages behind, of %d", behind, written*l.readers), err
}

// mostFrozen is what a frozen edge may cost an owner, in bytes.
const mostFrozen = 16 << 20

// frozenEdge stops a node whose readers get much from the others, and looks at their
// memory, against as much time before.
func frozenEdge(r *run) (string, error) {
	edge := r.victim()
	l, err := startLoad(r.fleet, loadSize{
		prefix: "bulk", streams: 12, readers: 60, every: 250 * time.Millisecond, size: 64 << 10,
	})
	if err != nil {
		return "", err
	}
	defer l.stop()
	resident := func() (all []int64) {
		for _, n := range r.nodes {
			all = append(all, n.proc.resident())
		}
		return all
	}
	const span = 12 * time.Second
	pause(span) // what the first of it costs
	first := resident()
	pause(span)
	second := resident()
	if err := edge.proc.stop(); err != nil {
		return "", err
	}
	pause(span)
	third := resident()
	fired := fmt.Sprintf("%s was in state %s", edge.name, edge.proc.state())
	if err := edge.proc.signal(syscall.SIGCONT); err != nil {
		return "", err
	}
	var worst int64
	for i, n := range r.nodes {
		if n == edge {
			continue
		}
		calm, frozen := second[i]-first[i], third[i]-second[i]
		r.note("%s: %+.1f MiB in %v while %s was frozen, %+.1f MiB before", n.name, mib(frozen), span, edge.name, mib(calm))
		worst = max(worst, frozen-max(calm, 0))
	}
	if worst > mostFrozen {
		return "", fmt.Errorf("a frozen edge costs an owner %.1f MiB", mib(worst))
	}
	if err := r.settle(60 * time.Second); err != nil {
		return "", err
	}
	d, err := l.verify()
	if err == nil && d.total() > 0 {
		err = fmt.Errorf("%s", d.First)
	}
	return fired, err
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
