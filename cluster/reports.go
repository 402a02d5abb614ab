package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// This file has what operators ask of the fleet: reports, which nodes exchange without looking into
// them, and the streams that have readers here.

const (
	// maxQuestion and maxReport bound the two halves of a report, in bytes.
	maxQuestion = 4 << 10
	maxReport   = 1 << 20
	// reportTimeout bounds the wait for a peer's report.
	reportTimeout = time.Second
)

// Reporter returns this node's report to a question. It is called from the goroutines of gRPC's
// handlers.
type Reporter func(ctx context.Context, question []byte) ([]byte, error)

// AnswerReports has this node answer questions of the others, from now on.
func (r *Node) AnswerReports(report Reporter) { r.reporter.Store(&report) }

// errNoReport refuses a question that this node cannot answer.
var errNoReport = errors.New("no report")

func (r *Node) report(ctx context.Context, question []byte) ([]byte, error) {
	reporter := r.reporter.Load()
	if reporter == nil || len(question) > maxQuestion {
		return nil, errNoReport
	}
	b, err := (*reporter)(ctx, question)
	if err == nil && len(b) > maxReport {
		err = errNoReport
	}
	return b, err
}

// AskReports asks every linked peer a question, and returns the reports by the names of the members
// that answered within reportTimeout.
func (r *Node) AskReports(ctx context.Context, question []byte) map[string][]byte {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	var mu sync.Mutex
	reports := map[string][]byte{}
	var wg sync.WaitGroup
	for _, m := range r.View().Members() {
		l := r.peers.link(m.Name)
		if l == nil {
			continue
		}
		wg.Go(func() {
			if b, err := l.requestReport(ctx, question); err == nil {
				mu.Lock()
				defer mu.Unlock()
				reports[m.Name] = b
			}
		})
	}
	wg.Wait()
	return reports
}

// requestReport asks the member for its report.
func (l *link) requestReport(ctx context.Context, question []byte) ([]byte, error) {
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.Report(ctx, &relaypb.ReportRequest{Question: question})
	if err != nil {
		return nil, wire.StatusToError(err)
	}
	if len(reply.GetReport()) > maxReport {
		return nil, placement.ErrCallFailed
	}
	return reply.GetReport(), nil
}

// Report answers a peer's question.
func (s *server) Report(ctx context.Context, q *relaypb.ReportRequest) (*relaypb.ReportReply, error) {
	b, err := s.streams.report(ctx, q.GetQuestion())
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &relaypb.ReportReply{Report: b}, nil
}

// PeerLink holds what this node knows of its link to a member.
type PeerLink struct {
	Up         bool
	ClockAhead time.Duration // how far this node's clock is ahead of the member's
}

// PeerLink returns what this node knows of its link to the member of that name.
func (r *Node) PeerLink(name string) PeerLink {
	l := r.peers.link(name)
	if l == nil {
		return PeerLink{}
	}
	return PeerLink{true, time.Duration(l.clockSkew.Load()) * time.Millisecond}
}

// EachFollowed calls yield for each stream that this node follows, with the number of its readers
// here. yield must not block: no reader arrives meanwhile.
func (r *Node) EachFollowed(yield func(id shard.StreamID, readers int)) {
	r.followLoop.mu.Lock()
	defer r.followLoop.mu.Unlock()
	for id, f := range r.followLoop.byStream {
		f.mu.Lock()
		n := f.readers
		f.mu.Unlock()
		yield(id, int(n))
	}
}

// ReadersOf returns the number of a stream's readers here; follows: this node follows it.
func (r *Node) ReadersOf(id shard.StreamID) (readers int, follows bool) {
	r.followLoop.mu.Lock()
	f := r.followLoop.byStream[id]
	r.followLoop.mu.Unlock()
	if f == nil {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.readers), true
}
