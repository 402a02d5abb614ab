package wire

import (
	"errors"
	"fmt"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

var errMalformed = errors.New("malformed message")

func malformedError(what string) error { return fmt.Errorf("%w: %s", errMalformed, what) }

func checkPeerAddr(p *relaypb.PeerAddress) error {
	if len(p.GetName()) > maxMemberName || len(p.GetAddress()) > placement.MaxAddress {
		return malformedError("place")
	}
	return nil
}

// CheckRoute checks a request's route.
func CheckRoute(r *relaypb.Route) error {
	if len(r.GetExcluded()) > maxExcluded {
		return malformedError("route")
	}
	for _, name := range r.GetExcluded() {
		if len(name) > maxMemberName {
			return malformedError("route")
		}
	}
	return nil
}

// CheckStream checks and converts the name of a stream.
func CheckStream(name []byte) (shard.StreamID, error) {
	id, err := shard.ParsePeerStreamID(Text(name))
	if err != nil {
		return "", fmt.Errorf("%w: %w", errMalformed, err)
	}
	return id, nil
}

// CheckHello checks an edge's first message.
func CheckHello(h *relaypb.Hello) error {
	if h.GetIncarnation() == 0 || len(h.GetTo()) > maxMemberName || len(h.GetFrom().GetName()) == 0 || h.GetVersion() == 0 {
		return malformedError("hello")
	}
	return checkPeerAddr(h.GetFrom())
}

// CheckToOwner checks an edge's control message. Each Subscribe is checked by addSubscription.
func CheckToOwner(m *relaypb.ToOwner) error {
	if len(m.GetSubscribe()) > maxControlItems || len(m.GetUnsubscribe()) > maxControlItems || len(m.GetCredit()) > maxControlItems || len(m.GetReaders()) > maxControlItems {
		return malformedError("control")
	}
	return nil
}

// maxRightsHash bounds the hash of a file of rights: a SHA-256 in hexadecimal.
const maxRightsHash = 64

// CheckStatus returns s with each number and text cut to its bound.
func CheckStatus(s *relaypb.Status) *relaypb.Status {
	if s != nil {
		s.Readers, s.HandoversDue = min(s.GetReaders(), maxReaders), min(s.GetHandoversDue(), maxReaders)
		if s.StoreAnswerAgeMillis != nil {
			*s.StoreAnswerAgeMillis = min(*s.StoreAnswerAgeMillis, maxStoreAnswerAge)
		}
		s.RightsHash = s.GetRightsHash()[:min(len(s.GetRightsHash()), maxRightsHash)]
	}
	return s
}

// ReaderCount returns a number of readers that a peer reports, cut to its bound.
func ReaderCount(n uint64) int64 { return int64(min(n, maxReaders)) }

func checkChain(chain []*relaypb.Ancestor) error {
	if len(chain) > shard.MaxChain+1 {
		return malformedError("chain")
	}
	for _, a := range chain {
		if a.GetStart() > a.GetBound() || a.GetBound() > maxPosition {
			return malformedError("chain")
		}
		if len(a.GetStream()) > 0 { // else it is the stream's own log
			if _, err := CheckStream(a.GetStream()); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckInfo checks the description of a stream, or of the part of a stream from which a page is
// requested.
func CheckInfo(i *relaypb.Info) error {
	switch n := len(i.GetHold()); {
	case i.GetTail() > maxPosition, i.GetStart() > maxPosition, i.GetLogTail() > maxPosition, i.GetLogTail() < i.GetTail(),
		len(i.GetType()) > maxTextBytes, len(i.GetExpiresRaw()) > maxTextBytes, n != 0 && n != len(shard.AppendID{}):
		return malformedError("description of a stream")
	}
	return checkChain(i.GetChain())
}

// peerOps lists the operations that other nodes may request: the operations of clients, and what
// the owners of forks and of their sources request of each other. Only a stream's own owner uses
// OpReleaseDone.
var peerOps = map[shard.Op]bool{
	shard.OpCreate: true, shard.OpAppend: true, shard.OpDelete: true,
	shard.OpHold: true, shard.OpRelease: true, shard.OpCancelFork: true,
}

// checkWriteHead checks a write without its messages. size is their total.
func checkWriteHead(h *relaypb.WriteHead) (id shard.StreamID, size int, err error) {
	if id, err = CheckStream(h.GetStream()); err != nil {
		return "", 0, err
	}
	if len(h.GetSizes()) > shard.MaxMessages {
		return "", 0, malformedError("number of messages")
	}
	for _, n := range h.GetSizes() {
		if size += int(min(n, shard.MaxBody+1)); n == 0 || size > shard.MaxBody {
			return "", 0, malformedError("size of the messages")
		}
	}
	op := h.GetOp()
	switch ref := len(h.GetRef()); {
	case op > uint32(shard.LastOp) || !peerOps[shard.Op(op)]:
		return "", 0, malformedError("operation")
	case len(h.GetId()) != len(shard.AppendID{}), ref != 0 && ref != len(shard.AppendID{}),
		len(h.GetType()) > maxTextBytes, len(h.GetBodyError()) > maxTextBytes, len(h.GetExpiresRaw()) > maxTextBytes,
		len(h.GetStreamSeq()) > shard.MaxStreamSeq, len(h.GetProducer().GetId()) > shard.MaxProducerID:
		return "", 0, malformedError("write")
	case shard.Op(op) >= shard.OpHold && (ref == 0 || size > 0 || h.GetFork() != nil):
		return "", 0, malformedError("write about a reference")
	case shard.Op(op) != shard.OpCreate && h.GetFork() != nil:
		return "", 0, malformedError("fork")
	case !isIfMatchValid(h):
		return "", 0, malformedError("condition")
	}
	if len(h.GetName()) > 0 {
		if _, err := CheckStream(h.GetName()); err != nil {
			return "", 0, err
		}
	}
	if err := checkFork(h.GetFork(), h.GetSource()); err != nil {
		return "", 0, err
	}
	return id, size, CheckRoute(h.GetRoute())
}

// isIfMatchValid reports whether a write may have the condition that it has.
func isIfMatchValid(h *relaypb.WriteHead) bool {
	c := h.GetIfMatch()
	return c == nil || shard.Op(h.GetOp()) == shard.OpAppend && h.GetProducer() == nil && len(c.GetPlaces()) <= shard.MaxTailPlaces
}

func checkFork(f *relaypb.Fork, s *relaypb.Source) error {
	if f == nil && s == nil {
		return nil
	}
	if _, err := CheckStream(f.GetSource()); err != nil {
		return err
	}
	if s == nil || len(f.GetOffset()) > maxTextBytes || s.GetRefused() > 255 || len(s.GetWhy()) > maxTextBytes ||
		len(s.GetType()) > maxTextBytes || len(s.GetExpiresRaw()) > maxTextBytes {
		return malformedError("fork")
	}
	return checkChain(s.GetChain())
}

// CheckOutcome checks the answer to a write.
func CheckOutcome(o *relaypb.WriteReply) error {
	if o.GetCode() == 0 || o.GetCode() > 255 || len(o.GetWhy()) > maxTextBytes ||
		len(o.GetProducer().GetId()) > shard.MaxProducerID {
		return malformedError("outcome")
	}
	return CheckInfo(o.GetInfo())
}

// CheckStateRequest checks and converts a request for a stream's description.
func CheckStateRequest(q *relaypb.StateRequest) (shard.StreamID, shard.InfoOptions, error) {
	const all = shard.InfoTouch | shard.InfoAllowCached | shard.InfoRequireFresh | shard.InfoWillFollow
	id, err := CheckStream(q.GetStream())
	if err == nil && q.GetOptions() > uint32(all) {
		err = malformedError("ask")
	}
	if err == nil {
		err = CheckRoute(q.GetRoute())
	}
	return id, shard.InfoOptions(q.GetOptions()), err
}

// CheckPageRequest checks a request for a page of history, and returns its stream.
func CheckPageRequest(q *relaypb.PageRequest) (shard.StreamID, error) {
	id, err := CheckStream(q.GetStream())
	if err == nil {
		err = CheckInfo(q.GetInfo())
	}
	if err == nil && q.GetFrom() >= q.GetInfo().GetTail() {
		err = malformedError("page at or above the tail")
	}
	return id, err
}

// CheckTimeRequest checks a request for the position of a time, and returns its stream.
func CheckTimeRequest(q *relaypb.TimeRequest) (shard.StreamID, error) {
	id, err := CheckStream(q.GetStream())
	if err == nil {
		err = CheckInfo(q.GetInfo())
	}
	if err == nil && q.GetSince() > maxTime {
		err = malformedError("time")
	}
	return id, err
}

// DecodeTime checks and converts the answer to a request for the position of a time in the stream that
// info describes.
func DecodeTime(reply *relaypb.TimeReply, info shard.Info) (shard.Pos, error) {
	pos := shard.Pos(reply.GetPosition())
	if pos < info.Start || pos > info.Tail {
		return 0, malformedError("position of a time")
	}
	return pos, nil
}

// CheckHandoverRequest checks a request of a stream's next owner, and returns the stream.
func CheckHandoverRequest(q *relaypb.HandoverRequest) (shard.StreamID, error) {
	id, err := CheckStream(q.GetStream())
	if err == nil && (len(q.GetCaller().GetName()) == 0 || q.GetFrom() > maxPosition) {
		err = malformedError("hand")
	}
	if err == nil {
		err = checkPeerAddr(q.GetCaller())
	}
	return id, err
}

// DecodeHandover checks and converts a Handover.
func DecodeHandover(reply *relaypb.HandoverReply) (h shard.Handover, err error) {
	if len(reply.GetTail()) > maxHandoverBatches {
		return h, malformedError("handover")
	}
	h.State = reply.GetState()
	for _, b := range reply.GetTail() {
		r, err := shard.ParseBatch(b)
		if err != nil {
			return h, err
		}
		h.Tail = append(h.Tail, r)
	}
	return h, nil
}

// CheckPart checks a Part of a known subscription. Its data, if any, are checked once they are
// complete.
func CheckPart(p *relaypb.Part) error {
	switch p.GetKind() {
	case relaypb.PartKind_PART_KIND_SUBSCRIBED:
		if p.GetSubscribed().GetStart() > maxPosition {
			return malformedError("start")
		}
		return CheckInfo(p.GetSubscribed().GetInfo())
	case relaypb.PartKind_PART_KIND_MOVED:
		return checkPeerAddr(p.GetMoved())
	case relaypb.PartKind_PART_KIND_END:
		return checkPeerAddr(p.GetRefusal().GetOwner())
	default:
		return nil
	}
}
