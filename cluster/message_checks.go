package cluster

import (
	"errors"
	"fmt"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// Each message of a peer is checked as if a stranger had sent it, before it is used: one function
// per message, and one bound for each part that has a size. A bad message costs the call or the
// subscription that it belongs to. A control message that no release sends costs the link.
const (
	// maxMessageBytes bounds one message of any kind; gRPC refuses more.
	maxMessageBytes = 4 << 20
	// maxMemberName bounds a member's name, maxExcluded the names in a route.
	maxMemberName = 255
	maxExcluded   = 256
	// maxTextBytes bounds a text that logs hold, such as a content type: no record header is
	// longer.
	maxTextBytes = 64 << 10
	// maxControlItems bounds each list of one control message.
	maxControlItems = 4096
	// maxPosition bounds a position; S2 will never reach it.
	maxPosition = 1 << 62
	// maxHandoverBatches bounds the record batches of a Handover.
	maxHandoverBatches = 1 << 16
	// maxReaders bounds the number of readers that a node reports.
	maxReaders = 1 << 30
	// maxStoreAnswerAge bounds the age of S2's last answer that a node reports, in milliseconds: a
	// day.
	maxStoreAnswerAge = 24 * 60 * 60 * 1000
)

var errMalformed = errors.New("malformed message")

func malformedError(what string) error { return fmt.Errorf("%w: %s", errMalformed, what) }

func checkPeerAddr(p *relaypb.PeerAddress) error {
	if len(p.GetName()) > maxMemberName || len(p.GetAddress()) > placement.MaxAddress {
		return malformedError("place")
	}
	return nil
}

func checkRoute(r *relaypb.Route) error {
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

func checkStream(name []byte) (shard.StreamID, error) {
	id, err := shard.ParsePeerStreamID(wireText(name))
	if err != nil {
		return "", fmt.Errorf("%w: %w", errMalformed, err)
	}
	return id, nil
}

func checkHello(h *relaypb.Hello) error {
	if h.GetIncarnation() == 0 || len(h.GetTo()) > maxMemberName || len(h.GetFrom().GetName()) == 0 || h.GetVersion() == 0 {
		return malformedError("hello")
	}
	return checkPeerAddr(h.GetFrom())
}

// checkToOwner checks an edge's control message. Each Subscribe is checked by addSubscription.
func checkToOwner(m *relaypb.ToOwner) error {
	if len(m.GetSubscribe()) > maxControlItems || len(m.GetUnsubscribe()) > maxControlItems || len(m.GetCredit()) > maxControlItems {
		return malformedError("control")
	}
	return nil
}

// maxRightsHash bounds the hash of a file of rights: a SHA-256 in hexadecimal.
const maxRightsHash = 64

func checkStatus(s *relaypb.Status) *relaypb.Status {
	if s != nil {
		s.Readers, s.HandoversDue = min(s.GetReaders(), maxReaders), min(s.GetHandoversDue(), maxReaders)
		if s.StoreAnswerAgeMillis != nil {
			*s.StoreAnswerAgeMillis = min(*s.StoreAnswerAgeMillis, maxStoreAnswerAge)
		}
		s.RightsHash = s.GetRightsHash()[:min(len(s.GetRightsHash()), maxRightsHash)]
	}
	return s
}

func checkChain(chain []*relaypb.Ancestor) error {
	if len(chain) > shard.MaxChain+1 {
		return malformedError("chain")
	}
	for _, a := range chain {
		if a.GetStart() > a.GetBound() || a.GetBound() > maxPosition {
			return malformedError("chain")
		}
		if len(a.GetStream()) > 0 { // else it is the stream's own log
			if _, err := checkStream(a.GetStream()); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkInfo checks the description of a stream, or of the part of one that a page is requested of.
func checkInfo(i *relaypb.Info) error {
	switch n := len(i.GetHold()); {
	case i.GetTail() > maxPosition, i.GetStart() > maxPosition, i.GetLogTail() > maxPosition, i.GetLogTail() < i.GetTail(),
		len(i.GetType()) > maxTextBytes, len(i.GetExpiresRaw()) > maxTextBytes, n != 0 && n != len(shard.AppendID{}):
		return malformedError("description of a stream")
	}
	return checkChain(i.GetChain())
}

// peerOps lists the operations that other nodes may request: those of clients, and those that the
// owners of forks and of their sources request of each other. Only a stream's own owner uses
// OpReleaseDone.
var peerOps = map[shard.Op]bool{
	shard.OpCreate: true, shard.OpAppend: true, shard.OpDelete: true,
	shard.OpHold: true, shard.OpRelease: true, shard.OpCancelFork: true,
}

// checkWriteHead checks a write without its messages. size is their total.
func checkWriteHead(h *relaypb.WriteHead) (id shard.StreamID, size int, err error) {
	if id, err = checkStream(h.GetStream()); err != nil {
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
	}
	if len(h.GetName()) > 0 {
		if _, err := checkStream(h.GetName()); err != nil {
			return "", 0, err
		}
	}
	if err := checkFork(h.GetFork(), h.GetSource()); err != nil {
		return "", 0, err
	}
	return id, size, checkRoute(h.GetRoute())
}

func checkFork(f *relaypb.Fork, s *relaypb.Source) error {
	if f == nil && s == nil {
		return nil
	}
	if _, err := checkStream(f.GetSource()); err != nil {
		return err
	}
	if s == nil || len(f.GetOffset()) > maxTextBytes || s.GetRefused() > 255 || len(s.GetWhy()) > maxTextBytes ||
		len(s.GetType()) > maxTextBytes || len(s.GetExpiresRaw()) > maxTextBytes {
		return malformedError("fork")
	}
	return checkChain(s.GetChain())
}

func checkOutcome(o *relaypb.WriteReply) error {
	if o.GetCode() == 0 || o.GetCode() > 255 || len(o.GetWhy()) > maxTextBytes ||
		len(o.GetProducer().GetId()) > shard.MaxProducerID {
		return malformedError("outcome")
	}
	return checkInfo(o.GetInfo())
}

func checkStateRequest(q *relaypb.StateRequest) (shard.StreamID, shard.InfoOptions, error) {
	const all = shard.InfoTouch | shard.InfoAllowCached | shard.InfoRequireFresh | shard.InfoWillFollow
	id, err := checkStream(q.GetStream())
	if err == nil && q.GetOptions() > uint32(all) {
		err = malformedError("ask")
	}
	if err == nil {
		err = checkRoute(q.GetRoute())
	}
	return id, shard.InfoOptions(q.GetOptions()), err
}

func checkPageRequest(q *relaypb.PageRequest) (shard.StreamID, error) {
	id, err := checkStream(q.GetStream())
	if err == nil {
		err = checkInfo(q.GetInfo())
	}
	if err == nil && q.GetFrom() >= q.GetInfo().GetTail() {
		err = malformedError("page at or above the tail")
	}
	return id, err
}

func checkHandoverRequest(q *relaypb.HandoverRequest) (shard.StreamID, error) {
	id, err := checkStream(q.GetStream())
	if err == nil && (len(q.GetCaller().GetName()) == 0 || q.GetFrom() > maxPosition) {
		err = malformedError("hand")
	}
	if err == nil {
		err = checkPeerAddr(q.GetCaller())
	}
	return id, err
}

// checkHandover checks and converts a Handover.
func checkHandover(reply *relaypb.HandoverReply) (h shard.Handover, err error) {
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

// checkPart checks a Part of a known subscription. Its data, if any, are checked once they are
// complete.
func checkPart(p *relaypb.Part) error {
	switch p.GetKind() {
	case relaypb.PartKind_PART_KIND_SUBSCRIBED:
		if p.GetSubscribed().GetStart() > maxPosition {
			return malformedError("start")
		}
		return checkInfo(p.GetSubscribed().GetInfo())
	case relaypb.PartKind_PART_KIND_MOVED:
		return checkPeerAddr(p.GetMoved())
	case relaypb.PartKind_PART_KIND_END:
		return checkPeerAddr(p.GetRefusal().GetOwner())
	default:
		return nil
	}
}
