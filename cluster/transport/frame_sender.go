package transport

import (
	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// frameBuilder builds one Frame at a time. A bulk lane's goroutine owns it.
type frameBuilder struct {
	frame     relaypb.Frame
	freeParts []*relaypb.Part // reused: Send returns only after the Frame is encoded
	size      int
	batches   []shard.RecordBatch
}

func (f *frameBuilder) reset() {
	for _, p := range f.frame.Parts {
		p.Reset()
	}
	f.freeParts = append(f.freeParts, f.frame.Parts...)
	clear(f.frame.Parts)
	f.frame.Parts = f.frame.Parts[:0]
	f.size = 0
}

func (f *frameBuilder) spaceLeft() int { return wire.MaxFrameBytes - f.size - wire.PartOverhead }

// minFrameSpace is the space in bytes that a Frame must have left for another subscription to be
// served, so that no piece is tiny.
const minFrameSpace = 1 << 10

func (f *frameBuilder) addPart(kind relaypb.PartKind, sub *sessionSub, size int) *relaypb.Part {
	var p *relaypb.Part
	if n := len(f.freeParts); n > 0 {
		p, f.freeParts = f.freeParts[n-1], f.freeParts[:n-1]
	} else {
		p = &relaypb.Part{}
	}
	p.Kind, p.Handle = kind, sub.handle
	f.frame.Parts = append(f.frame.Parts, p)
	f.size += size + wire.PartOverhead
	return p
}

// addSubscribed adds the stream's description. An error concerns this subscription alone: a Part
// that cannot be sent must not join a Frame that carries those of others.
func (f *frameBuilder) addSubscribed(sub *sessionSub) error {
	s := &relaypb.Subscribed{Info: wire.EncodeInfo(sub.tail.Info()), Start: uint64(sub.pos)}
	if err := wire.CheckDescribable(s.GetInfo(), sub.session.peerVersion); err != nil {
		return err
	}
	f.addPart(relaypb.PartKind_PART_KIND_SUBSCRIBED, sub, proto.Size(s)).Subscribed = s // the ancestry of a fork may be long
	return nil
}

func (f *frameBuilder) addMoved(sub *sessionSub, to placement.PeerAddr) {
	f.addPart(relaypb.PartKind_PART_KIND_MOVED, sub, 64).Moved = wire.EncodePeerAddr(to)
}

func (f *frameBuilder) addEnd(sub *sessionSub, why error) {
	refusal, _ := wire.EncodeRefusal(why)
	if refusal == nil {
		refusal = &relaypb.Refusal{Reason: relaypb.Reason_REASON_UNAVAILABLE, Why: wire.EncodeError(why)}
	}
	f.addPart(relaypb.PartKind_PART_KIND_END, sub, proto.Size(refusal)).Refusal = refusal
}

// fillFrame builds the next Frame from the dirty list, in turn, with at most wire.MaxPieceBytes of each
// subscription. An empty Frame means that there is nothing to send.
func (s *session) fillFrame(f *frameBuilder, lane uint64) {
	f.reset()
	for f.spaceLeft() >= minFrameSpace {
		sub := s.popDirty(lane)
		if sub == nil {
			return
		}
		if s.serveSub(sub, f) {
			s.relist(sub)
		}
	}
}

// relist puts a subscription that has more to send back on the dirty list. A subscription that was
// removed meanwhile is not listed again, so its batch is dropped here.
func (s *session) relist(sub *sessionSub) {
	s.mu.Lock()
	s.markDirtyLocked(sub)
	dead := sub.flags&subRemoved != 0
	s.mu.Unlock()
	if dead {
		s.abortSending(sub)
	}
}

// serveSub adds what one subscription is due, up to its share of the Frame, and reports whether
// there is more.
func (s *session) serveSub(sub *sessionSub, f *frameBuilder) (again bool) {
	s.mu.Lock()
	flags, endErr, moved := sub.flags, sub.endErr, sub.moved
	sub.flags &^= subSaySubscribed | subSayMoved | subAllSent
	s.mu.Unlock()
	if flags&subRemoved != 0 {
		s.abortSending(sub)
		return false
	}
	if flags&subSaySubscribed != 0 {
		if err := f.addSubscribed(sub); endErr == nil {
			endErr = err
		}
	}
	if flags&subSayMoved != 0 && moved != nil {
		f.addMoved(sub, moved.to)
	}
	switch {
	case endErr != nil:
		f.addEnd(sub, endErr)
		s.abortSending(sub)
		s.removeSub(sub)
		return false
	case sub.tail == nil:
		return false
	case sub.outgoing == nil && !s.beginBatch(sub, f):
		return false
	case sub.outgoing != nil:
		f.addPiece(sub)
	}
	return true
}

// addPiece adds the next piece of the batch that is being sent.
func (f *frameBuilder) addPiece(sub *sessionSub) {
	outgoing := sub.outgoing
	n := min(len(outgoing.data)-outgoing.sent, wire.MaxPieceBytes, f.spaceLeft())
	if n <= 0 {
		return // no space: it goes into the next Frame
	}
	p := f.addPart(relaypb.PartKind_PART_KIND_BATCH, sub, n)
	p.Data = outgoing.data[outgoing.sent : outgoing.sent+n]
	if outgoing.sent == 0 && n < len(outgoing.data) {
		p.Total = uint32(len(outgoing.data))
	}
	sub.session.metrics.bytes.Add(float64(n))
	if outgoing.sent += n; outgoing.sent == len(outgoing.data) {
		sub.pos, sub.outgoing = outgoing.end, nil
	}
}

// beginBatch finds the next batch of a subscription; false: there is none, or it may not be sent
// now. Whatever makes it possible later lists the subscription again.
func (s *session) beginBatch(sub *sessionSub, f *frameBuilder) bool {
	if !s.hasCredit(sub) {
		return false
	}
	var st shard.TailStatus
	f.batches, st = sub.tail.ReadAt(sub.pos, 1, f.batches[:0])
	if len(f.batches) > 0 {
		r := f.batches[0]
		clear(f.batches)
		s.startSending(sub, r.Bytes(), r.To())
		return true
	}
	switch st {
	case shard.StatusBelow:
		return s.restartAtFloor(sub, f)
	case shard.StatusGone:
		if why := sub.tail.EndError(); why != nil {
			s.endSub(sub, why)
		}
		return false // endSub listed it again
	case shard.StatusClosed:
		return s.sendClosed(sub)
	default:
		return !s.watchTail(sub)
	}
}

// hasCredit reports whether there is credit for another batch. One batch may overdraw the credit,
// so that even the largest can pass.
func (s *session) hasCredit(sub *sessionSub) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case sub.credit <= 0:
		sub.flags |= subNeedsCredit
		return false
	case s.credit <= 0:
		sub.flags |= subNeedsLinkCredit
		s.parkedSubs++
		return false
	default:
		return true
	}
}

func (s *session) startSending(sub *sessionSub, data []byte, end shard.Pos) {
	sub.outgoing = &outgoingBatch{data: data, end: end}
	s.mu.Lock()
	sub.credit -= int64(len(data))
	s.credit -= int64(len(data))
	s.mu.Unlock()
}

// abortSending returns the link credit of the bytes that will not be sent.
func (s *session) abortSending(sub *sessionSub) {
	g := sub.outgoing
	if g == nil {
		return
	}
	sub.outgoing = nil
	s.mu.Lock()
	s.addLinkCreditLocked(int64(len(g.data) - g.sent))
	s.mu.Unlock()
}

// restartAtFloor continues at the oldest record in memory: the position has been evicted.
func (s *session) restartAtFloor(sub *sessionSub, f *frameBuilder) bool {
	sub.pos = max(sub.pos, sub.tail.Floor())
	if err := f.addSubscribed(sub); err != nil {
		s.endSub(sub, err)
		return false
	}
	return true
}

// sendClosed sends an empty batch that says that the stream is closed, if the last batch did not.
func (s *session) sendClosed(sub *sessionSub) bool {
	if info := sub.tail.Info(); sub.pos < info.LogTail {
		rest := shard.EmptyBatch(sub.pos, info.LogTail, info.Tail, true)
		s.startSending(sub, rest.Bytes(), rest.To())
		return true
	}
	s.mu.Lock()
	sub.flags |= subAllSent
	s.mu.Unlock()
	return false
}

// watchTail waits for a change of the tail buffer; false: it has changed already.
func (s *session) watchTail(sub *sessionSub) bool {
	if !sub.tail.Watch(sub, sub.pos) {
		return false
	}
	s.mu.Lock()
	dead := sub.flags&subRemoved != 0
	s.mu.Unlock()
	if dead { // removed between popDirty and Watch
		sub.tail.Unwatch(sub)
	}
	return true
}
