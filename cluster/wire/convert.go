package wire

import (
	"errors"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// EncodePeerAddr converts the name and address of a member.
func EncodePeerAddr(p placement.PeerAddr) *relaypb.PeerAddress {
	return &relaypb.PeerAddress{Name: Bytes(p.Name), Address: Bytes(p.Address)}
}

// DecodePeerAddr converts what checkPeerAddr has checked.
func DecodePeerAddr(p *relaypb.PeerAddress) placement.PeerAddr {
	return placement.PeerAddr{Name: Text(p.GetName()), Address: Text(p.GetAddress())}
}

// EncodeRoute converts the route of a request.
func EncodeRoute(r placement.Route) *relaypb.Route {
	out := &relaypb.Route{Hop: relaypb.Hop(r.Hop)}
	for _, name := range r.Excluded {
		out.Excluded = append(out.Excluded, Bytes(name))
	}
	return out
}

// DecodeRoute converts a route; a hop of a later release counts as the last one.
func DecodeRoute(r *relaypb.Route) placement.Route {
	out := placement.Route{Hop: placement.Hop(min(max(r.GetHop(), 0), relaypb.Hop(placement.HopForce)))}
	for _, name := range r.GetExcluded() {
		out.Excluded = append(out.Excluded, Text(name))
	}
	return out
}

// EncodeInfo converts a stream's description.
func EncodeInfo(i shard.Info) *relaypb.Info {
	out := &relaypb.Info{
		Exists: i.Exists, Generation: uint64(i.Generation), Start: uint64(i.Start), Tail: uint64(i.Tail), LogTail: uint64(i.LogTail),
		Closed: i.Closed, Type: Bytes(i.Type), HasTtl: i.HasTTL, Ttl: i.TTL,
		Expires: uint64(i.Expires), ExpiresRaw: Bytes(i.ExpiresRaw), Gone: i.Gone, Truncated: i.Truncated, Hold: encodeID(i.Hold),
		Chain: encodeChain(i.Chain), Checked: i.Checked,
	}
	return out
}

func encodeChain(chain []shard.Ancestor) (out []*relaypb.Ancestor) {
	for _, a := range chain {
		out = append(out, &relaypb.Ancestor{
			Stream: Bytes(a.Stream), Generation: uint64(a.Generation), Start: uint64(a.Start), Bound: uint64(a.Bound),
		})
	}
	return out
}

func decodeChain(chain []*relaypb.Ancestor) (out []shard.Ancestor) {
	for _, a := range chain {
		out = append(out, shard.Ancestor{
			Stream: shard.StreamID(Text(a.GetStream())), Generation: shard.Generation(a.GetGeneration()),
			Start: shard.Pos(a.GetStart()), Bound: shard.Pos(a.GetBound()),
		})
	}
	return out
}

// encodeID returns an id's bytes; nil: the id is zero.
func encodeID(id shard.AppendID) []byte {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

func decodeID(b []byte) (id shard.AppendID) {
	copy(id[:], b)
	return id
}

// DecodeInfo converts what CheckInfo has checked.
func DecodeInfo(i *relaypb.Info) shard.Info {
	out := shard.Info{
		Exists: i.GetExists(), Generation: shard.Generation(i.GetGeneration()), Start: shard.Pos(i.GetStart()), Tail: shard.Pos(i.GetTail()),
		LogTail: shard.Pos(i.GetLogTail()), Closed: i.GetClosed(), Type: Text(i.GetType()),
		HasTTL: i.GetHasTtl(), TTL: i.GetTtl(), Expires: shard.Millis(i.GetExpires()),
		ExpiresRaw: Text(i.GetExpiresRaw()), Gone: i.GetGone(), Truncated: i.GetTruncated(), Hold: decodeID(i.GetHold()),
		Chain: decodeChain(i.GetChain()), Checked: i.GetChecked(),
	}
	return out
}

func encodeProducer(p *shard.Producer) *relaypb.Producer {
	if p == nil {
		return nil
	}
	return &relaypb.Producer{Id: Bytes(p.ID), Epoch: p.Epoch, Seq: p.Seq}
}

func decodeProducer(p *relaypb.Producer) *shard.Producer {
	if p == nil {
		return nil
	}
	return &shard.Producer{ID: Text(p.GetId()), Epoch: p.GetEpoch(), Seq: p.GetSeq()}
}

// encodeIfMatch converts the condition of an append. Without a place it is still one.
func encodeIfMatch(c *shard.TailCondition) *relaypb.IfMatch {
	if c == nil {
		return nil
	}
	out := &relaypb.IfMatch{}
	for _, p := range c.Places {
		out.Places = append(out.Places, &relaypb.Place{Generation: uint64(p.Generation), Position: uint64(p.Pos)})
	}
	return out
}

func decodeIfMatch(c *relaypb.IfMatch) *shard.TailCondition {
	if c == nil {
		return nil
	}
	out := &shard.TailCondition{}
	for _, p := range c.GetPlaces() {
		out.Places = append(out.Places, shard.Place{Generation: shard.Generation(p.GetGeneration()), Pos: shard.Pos(p.GetPosition())})
	}
	return out
}

// EncodeRequest converts a request. Its messages follow the head, one after the other.
func EncodeRequest(q *shard.Request, r placement.Route) *relaypb.WriteHead {
	head := &relaypb.WriteHead{
		Route: EncodeRoute(r), Stream: Bytes(q.Stream), Op: uint32(q.Op), Id: q.ID[:],
		Repeat: q.Repeat, MintedMillis: uint64(q.MintedMillis), Age: encodeAge(q.MintedAt), Type: Bytes(q.Type), BodyError: encodeSentence(q.BodyError), Close: q.Close,
		Producer: encodeProducer(q.Producer), StreamSeq: q.StreamSeq,
		HasTtl: q.HasTTL, Ttl: q.TTL, Expires: uint64(q.Expires), ExpiresRaw: Bytes(q.ExpiresRaw),
		Ref: encodeID(q.Ref), Name: Bytes(q.Name), Generation: uint64(q.Generation), IfMatch: encodeIfMatch(q.IfMatch),
	}
	if f, s := q.Fork, q.Source; f != nil && s != nil {
		head.Fork = &relaypb.Fork{Source: Bytes(f.Source), Offset: Bytes(f.Offset), SubOffset: f.SubOffset}
		head.Source = &relaypb.Source{
			Refused: uint32(s.Refused), Why: encodeSentence(s.Why), Generation: uint64(s.Generation), Type: Bytes(s.Type), HasTtl: s.HasTTL,
			Ttl: s.TTL, Expires: uint64(s.Expires), ExpiresRaw: Bytes(s.ExpiresRaw), Chain: encodeChain(s.Chain),
		}
	}
	head.Sizes = make([]uint32, q.Messages.Len())
	for i := range head.Sizes {
		head.Sizes[i] = uint32(len(q.Messages.At(i)))
	}
	return head
}

// encodeAge returns how long ago born was. It is computed again each time that a request is sent.
func encodeAge(born time.Time) uint64 {
	if born.IsZero() {
		return 0
	}
	return 1 + uint64(max(time.Since(born), 0).Milliseconds())
}

func decodeAge(age uint64) time.Time {
	if age == 0 {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(min(age-1, maxAge)) * time.Millisecond)
}

// maxAge bounds the age that a peer may report, in milliseconds.
const maxAge = 24 * 3600 * 1000

// ErrMalformedRequest refuses a write whose body is not what its head announces.
var ErrMalformedRequest = errors.New("malformed request")

// DecodeRequest returns the request without its messages, and their total size.
func DecodeRequest(head *relaypb.WriteHead) (*shard.Request, int, error) {
	id, total, err := checkWriteHead(head)
	if err != nil {
		return nil, 0, err
	}
	q := &shard.Request{
		Stream: id, Op: shard.Op(head.GetOp()), ID: shard.AppendID(head.GetId()), Repeat: head.GetRepeat(),
		MintedMillis: shard.Millis(head.GetMintedMillis()), MintedAt: decodeAge(head.GetAge()), Type: Text(head.GetType()), BodyError: Text(head.GetBodyError()), Close: head.GetClose(),
		Producer: decodeProducer(head.GetProducer()), StreamSeq: head.StreamSeq,
		HasTTL: head.GetHasTtl(), TTL: head.GetTtl(), Expires: shard.Millis(head.GetExpires()),
		ExpiresRaw: Text(head.GetExpiresRaw()), Ref: decodeID(head.GetRef()),
		Name: shard.StreamID(Text(head.GetName())), Generation: shard.Generation(head.GetGeneration()),
		IfMatch: decodeIfMatch(head.GetIfMatch()),
	}
	if f, s := head.GetFork(), head.GetSource(); f != nil && s != nil {
		q.Fork = &shard.Fork{Source: shard.StreamID(Text(f.GetSource())), Offset: Text(f.GetOffset()), SubOffset: f.GetSubOffset()}
		q.Source = &shard.ForkSource{
			Refused: shard.Code(s.GetRefused()), Why: Text(s.GetWhy()), Generation: shard.Generation(s.GetGeneration()),
			Type: Text(s.GetType()), HasTTL: s.GetHasTtl(), TTL: s.GetTtl(), Expires: shard.Millis(s.GetExpires()),
			ExpiresRaw: Text(s.GetExpiresRaw()), Chain: decodeChain(s.GetChain()),
		}
	}
	return q, total, nil
}

// SplitMessages sets the messages of a request, which lie in body one after the other. It keeps
// both slices, and replaces each size by the end of its message.
func SplitMessages(q *shard.Request, sizes []uint32, body []byte) error {
	end := uint64(0)
	for i, size := range sizes {
		if size == 0 {
			return ErrMalformedRequest
		}
		end += uint64(size)
		sizes[i] = uint32(min(end, shard.MaxBody+1))
	}
	if end != uint64(len(body)) {
		return ErrMalformedRequest
	}
	q.Messages = shard.SplitMessages(body, sizes)
	return nil
}

// EncodeOutcome converts an Outcome. It leaves out the ancestry of a fork, which no caller needs
// from an Outcome and which may be longer than the append.
func EncodeOutcome(o shard.Outcome) *relaypb.WriteReply {
	o.Info.Chain = nil
	return &relaypb.WriteReply{
		Code: uint32(o.Code), Why: encodeSentence(o.Why), Info: EncodeInfo(o.Info),
		Producer: encodeProducer(o.Producer), Expected: o.Expected, Received: o.Received,
	}
}

// DecodeOutcome converts what CheckOutcome has checked.
func DecodeOutcome(o *relaypb.WriteReply) shard.Outcome {
	return shard.Outcome{
		Code: shard.Code(o.GetCode()), Why: Text(o.GetWhy()), Info: DecodeInfo(o.GetInfo()),
		Producer: decodeProducer(o.GetProducer()),
		Expected: o.GetExpected(), Received: o.GetReceived(),
	}
}
