package cluster

import (
	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// framer lays out one Frame at a time. It belongs to a bulk lane's goroutine.
type framer struct {
	frame  relaypb.Frame
	spare  []*relaypb.Part // used again: a Frame is written out before Send returns
	size   int
	ranges []shard.Range
}

func (f *framer) reset() {
	for _, p := range f.frame.Parts {
		p.Reset()
	}
	f.spare = append(f.spare, f.frame.Parts...)
	clear(f.frame.Parts)
	f.frame.Parts = f.frame.Parts[:0]
	f.size = 0
}

func (f *framer) room() int { return frameBytes - f.size - partBytes }

// minRoom is the least room in a Frame that another subscription is looked at
// for: no crumbs.
const minRoom = 1 << 10

func (f *framer) add(kind relaypb.Kind, u *sub, size int) *relaypb.Part {
	var p *relaypb.Part
	if n := len(f.spare); n > 0 {
		p, f.spare = f.spare[n-1], f.spare[:n-1]
	} else {
		p = &relaypb.Part{}
	}
	p.Kind, p.Handle = kind, u.handle
	f.frame.Parts = append(f.frame.Parts, p)
	f.size += size + partBytes
	return p
}

// subscribed says what the stream is. An error is for this subscription alone: a Part
// that cannot be sent must not join a Frame, which has those of others.
func (f *framer) subscribed(u *sub) error {
	s := &relaypb.Subscribed{Info: infoToWire(u.tail.Info()), Start: u.pos}
	if err := sayable(s.GetInfo(), u.s.version); err != nil {
		return err
	}
	f.add(relaypb.Kind_KIND_SUBSCRIBED, u, proto.Size(s)).Subscribed = s // a fork's chain may be long
	return nil
}

func (f *framer) moved(u *sub, to place) {
	f.add(relaypb.Kind_KIND_MOVED, u, 64).Moved = placeToWire(to)
}

func (f *framer) end(u *sub, why error) {
	refusal, _ := refusalOf(why)
	if refusal == nil {
		refusal = &relaypb.Refusal{Reason: relaypb.Reason_REASON_UNAVAILABLE, Why: sentence(why)}
	}
	f.add(relaypb.Kind_KIND_END, u, proto.Size(refusal)).Refusal = refusal
}

// fill lays out the next Frame from the dirty list, in turn: at most pieceBytes
// of each subscription. Empty: there is nothing to send.
func (s *session) fill(f *framer, lane uint64) {
	f.reset()
	for f.room() >= minRoom {
		u := s.pop(lane)
		if u == nil {
			return
		}
		if s.serve(u, f) {
			s.again(u)
		}
	}
}

// again lists a subscription that there is more to send for. One that was removed
// while it was served is on no list, and nobody else would give up its Range.
func (s *session) again(u *sub) {
	s.mu.Lock()
	s.listLocked(u)
	dead := u.flags&subDead != 0
	s.mu.Unlock()
	if dead {
		s.abandon(u)
	}
}

// serve sends what there is for one subscription, up to its share, and reports
// whether there is more.
func (s *session) serve(u *sub, f *framer) (again bool) {
	s.mu.Lock()
	flags, end, to := u.flags, u.end, u.moved
	u.flags &^= subOpened | subMoved | subAtEnd
	s.mu.Unlock()
	if flags&subDead != 0 {
		s.abandon(u)
		return false
	}
	if flags&subOpened != 0 {
		if err := f.subscribed(u); end == nil {
			end = err
		}
	}
	if flags&subMoved != 0 && to != nil {
		f.moved(u, to.to)
	}
	switch {
	case end != nil:
		f.end(u, end)
		s.abandon(u)
		s.remove(u)
		return false
	case u.tail == nil:
		return false
	case u.sending == nil && !s.begin(u, f):
		return false
	case u.sending != nil:
		f.piece(u)
	}
	return true
}

// piece adds the next piece of the Range that is under way.
func (f *framer) piece(u *sub) {
	g := u.sending
	n := min(len(g.b)-g.off, pieceBytes, f.room())
	if n <= 0 {
		return // in the next Frame
	}
	p := f.add(relaypb.Kind_KIND_RANGE, u, n)
	p.Data = g.b[g.off : g.off+n]
	if g.off == 0 && n < len(g.b) {
		p.Total = uint32(len(g.b))
	}
	u.s.server.met.bytes[sideOwner].Add(float64(n))
	if g.off += n; g.off == len(g.b) {
		u.pos, u.sending = g.to, nil
	}
}

// begin finds what comes next for a subscription; false: nothing, or it may not
// be sent now. Whatever makes it possible later lists the subscription again.
func (s *session) begin(u *sub, f *framer) bool {
	if !s.mayBegin(u) {
		return false
	}
	var st shard.Status
	f.ranges, st = u.tail.ReadAt(u.pos, 1, f.ranges[:0])
	if len(f.ranges) > 0 {
		r := f.ranges[0]
		clear(f.ranges)
		s.charge(u, r.Bytes(), r.To())
		return true
	}
	switch st {
	case shard.StatusBelow:
		return s.restart(u, f)
	case shard.StatusGone:
		if why := u.tail.Ended(); why != nil {
			s.refuse(u, why)
		}
		return false // listed again by refuse
	case shard.StatusClosed:
		return s.conclude(u)
	default:
		return !s.watch(u)
	}
}

// mayBegin reports whether there is credit for another Range. One Range may
// overdraw it, so that even the largest can pass.
func (s *session) mayBegin(u *sub) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case u.credit <= 0:
		u.flags |= subStarved
		return false
	case s.credit <= 0:
		u.flags |= subParked
		s.parked++
		return false
	default:
		return true
	}
}

func (s *session) charge(u *sub, b []byte, to uint64) {
	u.sending = &sending{b: b, to: to}
	s.mu.Lock()
	u.credit -= int64(len(b))
	s.credit -= int64(len(b))
	s.mu.Unlock()
}

// abandon gives back the link credit of what will not be sent.
func (s *session) abandon(u *sub) {
	g := u.sending
	if g == nil {
		return
	}
	u.sending = nil
	s.mu.Lock()
	s.linkCreditLocked(int64(len(g.b) - g.off))
	s.mu.Unlock()
}

// restart begins again where memory begins: the position was overtaken.
func (s *session) restart(u *sub, f *framer) bool {
	u.pos = max(u.pos, u.tail.Floor())
	if err := f.subscribed(u); err != nil {
		s.refuse(u, err)
		return false
	}
	return true
}

// conclude tells that a stream is closed if the last Range sent did not.
func (s *session) conclude(u *sub) bool {
	if info := u.tail.Info(); u.pos < info.LogTail {
		rest := shard.EmptyRange(u.pos, info.LogTail, info.Tail, true)
		s.charge(u, rest.Bytes(), rest.To())
		return true
	}
	s.mu.Lock()
	u.flags |= subAtEnd
	s.mu.Unlock()
	return false
}

// watch waits for news of the Tail; false: there are some already.
func (s *session) watch(u *sub) bool {
	if !u.tail.Watch(u, u.pos) {
		return false
	}
	s.mu.Lock()
	dead := u.flags&subDead != 0
	s.mu.Unlock()
	if dead { // removed between the pop and the Watch
		u.tail.Unwatch(u)
	}
	return true
}
