package transport

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/cluster/internal/guard"
	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// maxControlBatch bounds the subscriptions in one control message, and maxControlBytes the size of
// its requests.
const (
	maxControlBatch = 512
	maxControlBytes = 256 << 10
)

// keepAlive keeps the link until it breaks, and returns why.
func (l *Link) keepAlive() error {
	l.goGuarded(l.readControl)
	l.goGuarded(l.writeControl)
	watch := time.NewTicker(SilenceTimeout / 6)
	defer watch.Stop()
	for l.ctx.Err() == nil {
		select {
		case <-l.ctx.Done():
		case <-watch.C:
			if time.Since(time.Unix(0, l.lastHeard.Load())) > SilenceTimeout {
				l.cancel(errPeerSilent)
			}
		}
	}
	_ = l.conn.Close()
	l.wg.Wait()
	return context.Cause(l.ctx)
}

// goGuarded starts one of the link's goroutines. A panic in it ends the link.
func (l *Link) goGuarded(fn func()) {
	l.wg.Go(func() {
		var err error
		defer func() {
			if err != nil {
				l.cancel(err)
			}
		}()
		defer guard.ToError(l.panics, panicInLink, &err)
		fn()
	})
}

func (l *Link) readControl() {
	for {
		m, err := l.control.Recv()
		if err != nil {
			l.cancel(err)
			return
		}
		l.lastHeard.Store(time.Now().UnixNano())
		if len(m.GetReaders()) > 0 {
			l.noteTotals(m.GetReaders())
		}
		if m.GetStatus() != nil {
			st := decodeStatus(m.GetStatus(), time.Now())
			l.peerStatus.Store(st)
			if !st.Clock.IsZero() {
				l.clockSkew.Store(l.now().UnixMilli() - st.Clock.UnixMilli())
			}
		}
	}
}

// writeControl sends what is in the outbox, one batch at a time, and a heartbeat each second.
func (l *Link) writeControl() {
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	for beat := true; ; {
		m, more := l.nextControlMessage(beat)
		if m != nil {
			if err := l.control.Send(m); err != nil {
				l.cancel(err)
				return
			}
		}
		beat = false
		if more {
			continue
		}
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
		case <-tick.C:
			beat = true
			l.closeBulk()
		}
	}
}

// nextControlMessage builds the next control message, or returns nil; more: the outbox is not
// empty.
func (l *Link) nextControlMessage(beat bool) (m *relaypb.ToOwner, more bool) {
	m = &relaypb.ToOwner{}
	l.mu.Lock()
	taken, size := 0, 0
	for _, sub := range l.outbox[:min(len(l.outbox), maxControlBatch)] {
		if size > maxControlBytes {
			break
		}
		taken++
		sub.listed = false
		switch {
		case sub.request != nil:
			q := &relaypb.Subscribe{
				Handle: sub.handle, Stream: wire.Bytes(sub.request.id), From: uint64(sub.request.from),
				Route: wire.EncodeRoute(sub.request.route), AwaitCreation: sub.request.awaitsCreation,
				Readers: uint64(sub.report.said), WatchReaders: sub.report.asked,
			}
			size += proto.Size(q)
			m.Subscribe = append(m.Subscribe, q)
			sub.request = nil
		case sub.removed:
			m.Unsubscribe = append(m.Unsubscribe, sub.handle)
		case sub.creditDue > 0:
			m.Credit = append(m.Credit, &relaypb.Credit{Handle: sub.handle, Bytes: uint64(sub.creditDue)})
			sub.creditDue = 0
		}
	}
	clear(l.outbox[:taken])
	l.outbox = l.outbox[taken:]
	if more = len(l.outbox) > 0; !more {
		l.outbox = nil
	}
	if l.creditDue >= l.linkWindow/8 {
		m.LinkCredit, l.creditDue = uint64(l.creditDue), 0
	}
	if l.reporting = l.reporting || beat; l.reporting {
		l.reporting = l.takeReportsLocked(m)
		more = more || l.reporting
	}
	l.mu.Unlock()
	if len(m.Subscribe) > 0 {
		l.openBulk()
	}
	m.BulkLane = l.lastLane
	if beat {
		l.lastBeat++
		m.Heartbeat = l.lastBeat
	}
	if !beat && taken == 0 && m.LinkCredit == 0 && len(m.Readers) == 0 {
		return nil, false
	}
	return m, more
}

// openBulk opens the bulk lane if there is none.
func (l *Link) openBulk() {
	if l.stopBulk != nil {
		return
	}
	ctx, stop := context.WithCancel(l.ctx)
	l.lastLane++
	bulk, err := l.client.Bulk(ctx, &relaypb.BulkRequest{Incarnation: l.incarnation, BulkLane: l.lastLane})
	if err != nil {
		stop()
		l.cancel(err)
		return
	}
	l.stopBulk = stop
	l.goGuarded(func() { l.readBulk(ctx, bulk) })
}

// closeBulk closes a bulk lane that has not been needed for a while.
func (l *Link) closeBulk() {
	l.mu.Lock()
	idle := len(l.subs) == 0 && len(l.outbox) == 0 && time.Since(l.idleSince) >= bulkLinger
	l.mu.Unlock()
	if idle && l.stopBulk != nil {
		l.stopBulk()
		l.stopBulk = nil
	}
}

func (l *Link) readBulk(ctx context.Context, bulk grpc.ServerStreamingClient[relaypb.Frame]) {
	for {
		frame, err := bulk.Recv()
		if err != nil {
			if ctx.Err() == nil { // this side did not close it
				l.cancel(fmt.Errorf("bulk lane: %w", err))
			}
			return
		}
		l.lastHeard.Store(time.Now().UnixNano())
		for _, part := range frame.GetParts() {
			l.handlePart(part)
		}
	}
}

// handlePart passes a Part to its subscription; a malformed Part ends that. Credit is returned
// here, on receipt.
func (l *Link) handlePart(p *relaypb.Part) {
	received := len(p.GetData())
	l.mu.Lock()
	sub := l.subs[p.GetHandle()]
	if received > 0 {
		if l.creditDue += received; l.creditDue >= l.linkWindow/8 {
			notify.Send(l.wake)
		}
		if sub != nil {
			if sub.creditDue += uint32(received); int(sub.creditDue) >= l.subscriptionWindow/2 {
				l.enqueueLocked(sub)
			}
		}
	}
	if sub != nil && p.GetKind() == relaypb.PartKind_PART_KIND_END {
		l.forgetSubLocked(sub) // the owner has removed it already
	}
	l.mu.Unlock()
	l.metrics.bytes.Add(float64(received))
	if sub == nil {
		return
	}
	if err := wire.CheckPart(p); err != nil {
		l.failMalformed(sub, err)
		return
	}
	switch p.GetKind() {
	case relaypb.PartKind_PART_KIND_SUBSCRIBED:
		s := p.GetSubscribed()
		sub.subscriber.OnSubscribed(sub, wire.DecodeInfo(s.GetInfo()), shard.Pos(s.GetStart()))
	case relaypb.PartKind_PART_KIND_BATCH:
		if err := l.handleBatch(sub, p); err != nil {
			l.failMalformed(sub, err)
		}
	case relaypb.PartKind_PART_KIND_MOVED:
		sub.subscriber.OnOwnerMoved(sub, wire.DecodePeerAddr(p.GetMoved()))
	case relaypb.PartKind_PART_KIND_END:
		sub.subscriber.OnSubscriptionEnd(sub, wire.DecodeRefusal(p.GetRefusal()))
	}
}

// failMalformed ends a subscription after a malformed Part.
func (l *Link) failMalformed(sub *Subscription, err error) {
	l.unsubscribe(sub)
	sub.subscriber.OnSubscriptionEnd(sub, fmt.Errorf("%w: from %s: %w", placement.ErrCallFailed, l.peer.Name, err))
}

func (l *Link) handleBatch(sub *Subscription, p *relaypb.Part) error {
	if sub.partial == nil {
		sub.partial = &wire.BatchAssembler{}
	}
	r, whole, err := sub.partial.AddPiece(p.GetData(), p.GetTotal())
	if err != nil {
		return err
	}
	if whole {
		sub.partial = nil
		sub.subscriber.OnRecords(sub, r)
	}
	return nil
}
