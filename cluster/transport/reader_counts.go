package transport

import (
	"context"
	"fmt"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// This file has both halves of how nodes count the readers of a stream. An edge says with a subscription,
// and then with its heartbeats, how many readers it feeds by it; the owner adds them up, and answers the
// heartbeats of edges that watch a stream with the sum. Each says a number at most once a second, and
// only if it has changed.

// readerReport is the edge's half of the count of one subscription. Link.mu guards it.
type readerReport struct {
	readers, said int32 // how many there are, and what the owner was told
	watch, asked  bool  // the sum is wanted, and the owner was told so
	listed        bool  // in Link.reports
	total         int64 // the owner's sum
	totalIsKnown  bool
}

// SetReaders says how many readers are fed by the subscription, and whether their sum on all nodes is
// wanted.
func (sub *Subscription) SetReaders(n int, watch bool) {
	l := sub.link
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &sub.report
	if r.readers, r.watch = int32(min(n, maxReportedReaders)), watch; !watch {
		r.totalIsKnown = false // it will not be told of changes
	}
	if sub.removed || l.closed || r.listed || r.readers == r.said && r.watch == r.asked {
		return
	}
	if sub.request != nil { // it says so itself
		r.said, r.asked = r.readers, r.watch
		return
	}
	r.listed = true
	l.reports = append(l.reports, sub)
}

// maxReportedReaders bounds the readers of one subscription that an edge reports.
const maxReportedReaders = 1 << 30

// NoteTotal notes the sum as the owner has told it otherwise, if it is wanted and not known yet.
func (sub *Subscription) NoteTotal(n int) {
	sub.link.mu.Lock()
	defer sub.link.mu.Unlock()
	if r := &sub.report; r.watch && !r.totalIsKnown {
		r.total, r.totalIsKnown = int64(n), true
	}
}

// Total returns the sum of the readers on all nodes: what the owner has said last, with what this node
// has still to say.
func (sub *Subscription) Total() (n int, known bool) {
	sub.link.mu.Lock()
	defer sub.link.mu.Unlock()
	r := &sub.report
	return max(int(r.total)+int(r.readers-r.said), int(r.readers)), r.totalIsKnown
}

// takeReportsLocked adds reports to a control message, as many as one may have; more: some are left.
func (l *Link) takeReportsLocked(m *relaypb.ToOwner) (more bool) {
	n := min(len(l.reports), maxControlBatch)
	for _, sub := range l.reports[:n] {
		r := &sub.report
		r.listed = false
		if sub.removed || r.readers == r.said && r.watch == r.asked {
			continue
		}
		r.said, r.asked = r.readers, r.watch
		m.Readers = append(m.Readers, &relaypb.ReaderReport{Handle: sub.handle, Readers: uint64(r.said), Watch: r.asked})
	}
	clear(l.reports[:n])
	if l.reports = l.reports[n:]; len(l.reports) == 0 {
		l.reports = nil
	}
	return len(l.reports) > 0
}

// noteTotals notes what the owner says with a heartbeat.
func (l *Link) noteTotals(totals []*relaypb.ReaderTotal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range totals {
		if sub := l.subs[t.GetHandle()]; sub != nil && sub.report.watch {
			sub.report.total, sub.report.totalIsKnown = wire.ReaderCount(t.GetReaders()), true
		}
	}
}

// RequestReaders asks the member for the number of a stream's readers on all nodes; known: it says.
func (l *Link) RequestReaders(ctx context.Context, id shard.StreamID, r placement.Route) (n int, known bool, err error) {
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.State(ctx, &relaypb.StateRequest{
		Route: wire.EncodeRoute(r), Stream: wire.Bytes(id), Options: uint32(shard.InfoAllowCached), Readers: true,
	})
	if err != nil {
		return 0, false, wire.StatusToError(err)
	}
	if err := wire.CheckInfo(reply.GetInfo()); err != nil {
		return 0, false, fmt.Errorf("%w: %w", placement.ErrCallFailed, err)
	}
	return int(wire.ReaderCount(reply.GetReaders())), reply.Readers != nil, nil
}

// readerChange holds how many readers more a stream has.
type readerChange struct {
	id    shard.StreamID
	delta int
}

// addReports takes an edge's reports.
func (s *session) addReports(reports []*relaypb.ReaderReport) {
	var changes []readerChange
	s.mu.Lock()
	for _, r := range reports {
		sub := s.subs[r.GetHandle()]
		if sub == nil {
			continue
		}
		n := wire.ReaderCount(r.GetReaders())
		changes = append(changes, readerChange{sub.id, int(n - sub.readers)})
		sub.readers = n
		s.watchLocked(sub, r.GetWatch())
	}
	s.mu.Unlock()
	for _, c := range changes {
		s.streams.AddReaders(c.id, c.delta)
	}
}

// watchLocked notes whether the edge wants the sum.
func (s *session) watchLocked(sub *sessionSub, watch bool) {
	if !watch {
		delete(s.watched, sub.handle)
		return
	}
	if s.watched == nil {
		s.watched = map[uint64]*sessionSub{}
	}
	if s.watched[sub.handle] == nil {
		s.watched[sub.handle], sub.told = sub, -1
	}
}

// forgetReadersLocked takes back what was reported of a subscription that ends, and returns the change.
func (s *session) forgetReadersLocked(sub *sessionSub) readerChange {
	delete(s.watched, sub.handle)
	c := readerChange{sub.id, -int(sub.readers)}
	sub.readers = 0
	return c
}

// maxTotals bounds the sums in one message; others are said with the next heartbeat.
const maxTotals = 4096

// changedTotals returns the sums that the edge wants and has not been told.
func (s *session) changedTotals() (totals []*relaypb.ReaderTotal) {
	s.mu.Lock()
	watched := make([]*sessionSub, 0, len(s.watched))
	for _, sub := range s.watched {
		watched = append(watched, sub)
	}
	s.mu.Unlock()
	for _, sub := range watched {
		n, known := s.streams.KnownReaders(sub.id)
		if !known || len(totals) == maxTotals {
			continue
		}
		s.mu.Lock()
		changed := sub.told != int64(n)
		sub.told = int64(n)
		s.mu.Unlock()
		if changed {
			totals = append(totals, &relaypb.ReaderTotal{Handle: sub.handle, Readers: uint64(max(n, 0))})
		}
	}
	return totals
}
