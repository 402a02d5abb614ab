package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// slowReaders writes more to a stream than its readers accept at their pace: they fall back to
// catching up, and only a reader that accepts nothing is disconnected.
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
	if err := wait.For(2*time.Minute, "the slow readers have everything", func() bool {
		t, err = l.tally()
		return err == nil && t.Received == written*l.readers
	}); err != nil {
		return "", err
	}
	d, err := l.verify()
	if err == nil && d.total() > 0 {
		err = errors.New(d.First)
	}
	if err != nil {
		return "", err
	}
	grown := watch.now()
	if t.lost() > 0 || grown[`fantail_readers_cut_total{reason="memory"}`] > 0 {
		return "", fmt.Errorf("%d slow readers lost their connection though they took what they could", t.lost())
	}
	began := time.Now()
	if !r.quick {
		err = wait.For(2*time.Minute, "a reader that takes nothing is cut", func() bool {
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

// mostFrozen bounds the memory that a frozen edge costs an owner, in bytes.
const mostFrozen = 16 << 20

// frozenEdge stops a node whose readers get much from the others, and looks at what
// those hold at most, against as much time before.
func frozenEdge(r *run) (string, error) {
	edge := r.victim()
	// Tails are full soon, so that what a node holds does not grow by itself.
	l, err := startLoad(r.fleet, loadSize{
		prefix: "bulk", streams: 4, readers: 40, every: 50 * time.Millisecond, size: 64 << 10,
	})
	if err != nil {
		return "", err
	}
	defer l.stop()
	const span = 10 * time.Second
	pause(span)
	calm, err := r.mostHeld(edge, span)
	if err != nil {
		return "", err
	}
	// Its readers stay: elsewhere they would be counted with what the link costs.
	r.balancer.spare.Store(true)
	defer r.balancer.spare.Store(false)
	if err := edge.proc.stop(); err != nil {
		return "", err
	}
	l.writing.begin()
	frozen, err := r.mostHeld(edge, span)
	written := l.writing.begin().acked // messages of 64 KiB
	fired := fmt.Sprintf("%s was in state %s while %d MiB were written", edge.name, edge.proc.state(), written>>4)
	if err := errors.Join(err, edge.proc.signal(syscall.SIGCONT)); err != nil {
		return "", err
	}
	for _, n := range r.nodes {
		if n == edge {
			continue
		}
		more := frozen[n] - calm[n]
		r.note("%s holds at most %+.1f MiB while %s is frozen, to %.1f MiB", n.name, more/(1<<20), edge.name, frozen[n]/(1<<20))
		if more > mostFrozen {
			err = fmt.Errorf("a frozen edge costs %s %.1f MiB", n.name, more/(1<<20))
		}
	}
	if err := errors.Join(err, r.settle(60*time.Second)); err != nil {
		return "", err
	}
	d, err := l.verify()
	if err == nil && d.total() > 0 {
		err = errors.New(d.First)
	}
	if written>>4 < mostFrozen>>20 {
		return "", err
	}
	return fired, err
}

// mostHeld returns the most memory that each node but one holds within a span.
func (r *run) mostHeld(but *node, span time.Duration) (map[*node]float64, error) {
	most := map[*node]float64{}
	for end := time.Now().Add(span); time.Now().Before(end); pause(300 * time.Millisecond) {
		for _, n := range r.nodes {
			if n == but {
				continue
			}
			h, err := r.held(n)
			if err != nil {
				return nil, err
			}
			most[n] = max(most[n], h.memory)
		}
	}
	return most, nil
}
