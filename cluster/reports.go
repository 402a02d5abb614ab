package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// This file has what operators ask of the fleet: reports, which nodes exchange without looking into
// them, and the streams that have readers here.

// reportTimeout bounds the wait for a peer's report.
const reportTimeout = time.Second

// Reporter returns this node's report to a question. It is called from the goroutines of gRPC's
// handlers.
type Reporter func(ctx context.Context, question []byte) ([]byte, error)

// AnswerReports has this node answer questions of the others, from now on.
func (n *Node) AnswerReports(report Reporter) { n.reporter.Store(&report) }

// errNoReport refuses a question that this node cannot answer.
var errNoReport = errors.New("no report")

// Report implements transport.Streams.
func (o *ownerSide) Report(ctx context.Context, question []byte) ([]byte, error) {
	reporter := o.reporter.Load()
	if reporter == nil {
		return nil, errNoReport
	}
	return (*reporter)(ctx, question)
}

// AskReports asks every linked peer a question, and returns the reports by the names of the members
// that answered within reportTimeout.
func (n *Node) AskReports(ctx context.Context, question []byte) map[string][]byte {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	var mu sync.Mutex
	reports := map[string][]byte{}
	var wg sync.WaitGroup
	for _, m := range n.View().Members() {
		l := n.peers.Link(m.Name)
		if l == nil {
			continue
		}
		wg.Go(func() {
			if b, err := l.RequestReport(ctx, question); err == nil {
				mu.Lock()
				defer mu.Unlock()
				reports[m.Name] = b
			}
		})
	}
	wg.Wait()
	return reports
}

// PeerLink holds what this node knows of its link to a member.
type PeerLink struct {
	Up         bool
	ClockAhead time.Duration // how far this node's clock is ahead of the member's
}

// PeerLink returns what this node knows of its link to the member of that name.
func (n *Node) PeerLink(name string) PeerLink {
	l := n.peers.Link(name)
	if l == nil {
		return PeerLink{}
	}
	return PeerLink{true, l.ClockAhead()}
}

// EachFollowed calls yield for each stream that this node follows, with the number of its readers
// here. yield must not block: no reader arrives meanwhile.
func (n *Node) EachFollowed(yield func(id shard.StreamID, readers int)) {
	n.followLoop.mu.Lock()
	defer n.followLoop.mu.Unlock()
	for id, f := range n.followLoop.byStream {
		f.mu.Lock()
		readers := f.readers
		f.mu.Unlock()
		yield(id, int(readers))
	}
}

// ReadersOf returns the number of a stream's readers here; follows: this node follows it.
func (n *Node) ReadersOf(id shard.StreamID) (readers int, follows bool) {
	n.followLoop.mu.Lock()
	f := n.followLoop.byStream[id]
	n.followLoop.mu.Unlock()
	if f == nil {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.readers), true
}
