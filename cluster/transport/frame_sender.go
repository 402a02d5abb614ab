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

func (f *frameBuilder) addPart(kind relaypb.PartKind, u *sessionSub, size int) *relaypb.Part {
	var p *relaypb.Part
	if n := len(f.freeParts); n > 0 {
		p, f.freeParts = f.freeParts[n-1], f.freeParts[:n-1]
	} else {
		p = &relaypb.Part{}
	}
	p.Kind, p.Handle = kind, u.handle
	f.frame.Parts = append(f.frame.Parts, p)
	f.size += size + wire.PartOverhead
	return p
}

// addSubscribed adds the stream's description. An error concerns this subscription alone: a Part
// that cannot be sent must not join a Frame that carries those of others.
func (f *frameBuilder) addSubscribed(u *sessionSub) error {
	s := &relaypb.Subscribed{Info: wire.EncodeInfo(u.tail.Info()), Start: uint64(u.pos)}
	if err := wire.CheckDescribable(s.GetInfo(), u.session.peerVersion); err != nil {
		return err
	}
	f.addPart(relaypb.PartKind_PART_KIND_SUBSCRIBED, u, proto.Size(s)).Subscribed = s // the ancestry of a fork may be long
	return nil
}

func (f *frameBuilder) addMoved(u *sessionSub, to placement.PeerAddr) {
	f.addPart(relaypb.PartKind_PART_KIND_MOVED, u, 64).Moved = wire.EncodePeerAddr(to)
}

func (f *frameBuilder) addEnd(u *sessionSub, why error) {
	refusal, _ := wire.EncodeRefusal(why)
	if refusal == nil {
		refusal = &relaypb.Refusal{Reason: relaypb.Reason_REASON_UNAVAILABLE, Why: wire.EncodeError(why)}
	}
	f.addPart(relaypb.PartKind_PART_KIND_END, u, proto.Size(refusal)).Refusal = refusal
}

// fillFrame builds the next Frame from the dirty list, in turn, with at most wire.MaxPieceBytes of each
// subscription. An empty Frame means that there is nothing to send.
func (s *session) fillFrame(f *frameBuilder, lane uint64) {
	f.reset()
	for f.spaceLeft() >= minFrameSpace {
		u := s.popDirty(lane)
		if u == nil {
			return
		}
		if s.serveSub(u, f) {
			s.relist(u)
		}
	}
}

// relist puts a subscription that has more to send back on the dirty list. A subscription that was
// removed meanwhile is not listed again, so its batch is dropped here.
func (s *session) relist(u *sessionSub) {
	s.mu.Lock()
	s.markDirtyLocked(u)
	dead := u.flags&subRemoved != 0
	s.mu.Unlock()
	if dead {
		s.abortSending(u)
	}
}

// serveSub adds what one subscription is due, up to its share of the Frame, and reports whether
// there is more.
func (s *session) serveSub(u *sessionSub, f *frameBuilder) (again bool) {
	s.mu.Lock()
	flags, endErr, moved := u.flags, u.endErr, u.moved
	u.flags &^= subSaySubscribed | subSayMoved | subAllSent
	s.mu.Unlock()
	if flags&subRemoved != 0 {
		s.abortSending(u)
		return false
	}
	if flags&subSaySubscribed != 0 {
		if err := f.addSubscribed(u); endErr == nil {
			endErr = err
		}
	}
	if flags&subSayMoved != 0 && moved != nil {
		f.addMoved(u, moved.to)
	}
	switch {
	case endErr != nil:
		f.addEnd(u, endErr)
		s.abortSending(u)
		s.removeSub(u)
		return false
	case u.tail == nil:
		return false
	case u.outgoing == nil && !s.beginBatch(u, f):
		return false
	case u.outgoing != nil:
		f.addPiece(u)
	}
	return true
}

// AddPiece adds the next piece of the batch that is being sent.
func (f *frameBuilder) addPiece(u *sessionSub) {
	outgoing := u.outgoing
	n := min(len(outgoing.data)-outgoing.sent, wire.MaxPieceBytes, f.spaceLeft())
	if n <= 0 {
		return // no space: it goes into the next Frame
	}
	p := f.addPart(relaypb.PartKind_PART_KIND_BATCH, u, n)
	p.Data = outgoing.data[outgoing.sent : outgoing.sent+n]
	if outgoing.sent == 0 && n < len(outgoing.data) {
		p.Total = uint32(len(outgoing.data))
	}
	u.session.server.metrics.bytes.Add(float64(n))
	if outgoing.sent += n; outgoing.sent == len(outgoing.data) {
		u.pos, u.outgoing = outgoing.end, nil
	}
}

// beginBatch finds the next batch of a subscription; false: there is none, or it may not be sent
// now. Whatever makes it possible later lists the subscription again.
func (s *session) beginBatch(u *sessionSub, f *frameBuilder) bool {
	if !s.hasCredit(u) {
		return false
	}
	var st shard.TailStatus
	f.batches, st = u.tail.ReadAt(u.pos, 1, f.batches[:0])
	if len(f.batches) > 0 {
		r := f.batches[0]
		clear(f.batches)
		s.startSending(u, r.Bytes(), r.To())
		return true
	}
	switch st {
	case shard.StatusBelow:
		return s.restartAtFloor(u, f)
	case shard.StatusGone:
		if why := u.tail.EndError(); why != nil {
			s.endSub(u, why)
		}
		return false // endSub listed it again
	case shard.StatusClosed:
		return s.sendClosed(u)
	default:
		return !s.watchTail(u)
	}
}

// hasCredit reports whether there is credit for another batch. One batch may overdraw the credit,
// so that even the largest can pass.
func (s *session) hasCredit(u *sessionSub) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case u.credit <= 0:
		u.flags |= subNeedsCredit
		return false
	case s.credit <= 0:
		u.flags |= subNeedsLinkCredit
		s.parkedSubs++
		return false
	default:
		return true
	}
}

func (s *session) startSending(u *sessionSub, data []byte, end shard.Pos) {
	u.outgoing = &outgoingBatch{data: data, end: end}
	s.mu.Lock()
	u.credit -= int64(len(data))
	s.credit -= int64(len(data))
	s.mu.Unlock()
}

// abortSending returns the link credit of the bytes that will not be sent.
func (s *session) abortSending(u *sessionSub) {
	g := u.outgoing
	if g == nil {
		return
	}
	u.outgoing = nil
	s.mu.Lock()
	s.addLinkCreditLocked(int64(len(g.data) - g.sent))
	s.mu.Unlock()
}

// restartAtFloor continues at the oldest record in memory: the position has been evicted.
func (s *session) restartAtFloor(u *sessionSub, f *frameBuilder) bool {
	u.pos = max(u.pos, u.tail.Floor())
	if err := f.addSubscribed(u); err != nil {
		s.endSub(u, err)
		return false
	}
	return true
}

// sendClosed sends an empty batch that says that the stream is closed, if the last batch did not.
func (s *session) sendClosed(u *sessionSub) bool {
	if info := u.tail.Info(); u.pos < info.LogTail {
		rest := shard.EmptyBatch(u.pos, info.LogTail, info.Tail, true)
		s.startSending(u, rest.Bytes(), rest.To())
		return true
	}
	s.mu.Lock()
	u.flags |= subAllSent
	s.mu.Unlock()
	return false
}

// watchTail waits for a change of the tail buffer; false: it has changed already.
func (s *session) watchTail(u *sessionSub) bool {
	if !u.tail.Watch(u, u.pos) {
		return false
	}
	s.mu.Lock()
	dead := u.flags&subRemoved != 0
	s.mu.Unlock()
	if dead { // removed between popDirty and Watch
		u.tail.Unwatch(u)
	}
	return true
}
