package cluster

import (
	"errors"
	"fmt"

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// What a peer says is checked as if a stranger said it, before anything is made of it: one
// function for each message, and one bound for each part of it that has a size. What is wrong
// costs the call or the subscription that it came with; a control message that no release
// says costs the link.
const (
	// maxMessage bounds one message in bytes, whatever it is; gRPC refuses more.
	maxMessage = 4 << 20
	// maxName bounds a member's name, maxWithout how many of them a route has.
	maxName    = 255
	maxWithout = 256
	// maxText bounds a text that logs hold, such as a content type: a header of a record is
	// no longer.
	maxText = 64 << 10
	// maxSay bounds the subscriptions of which one control message speaks.
	maxSay = 4096
	// maxPos is above every position that S2 will ever have.
	maxPos = 1 << 62
	// maxTail bounds the Ranges of a Handover.
	maxTail = 1 << 16
	// maxReaders bounds what a node says of its readers.
	maxReaders = 1 << 30
)

var errMalformed = errors.New("malformed message")

func malformed(what string) error { return fmt.Errorf("%w: %s", errMalformed, what) }

func checkPlace(p *relaypb.Place) error {
	if len(p.GetName()) > maxName || len(p.GetAddress()) > maxAddress {
		return malformed("place")
	}
	return nil
}

func checkRoute(r *relaypb.Route) error {
	if len(r.GetWithout()) > maxWithout {
		return malformed("route")
	}
	for _, name := range r.GetWithout() {
		if len(name) > maxName {
			return malformed("route")
		}
	}
	return nil
}

func checkStream(name []byte) (shard.StreamID, error) {
	id, err := shard.ParseStreamID(text(name))
	if err != nil {
		return "", fmt.Errorf("%w: %w", errMalformed, err)
	}
	return id, nil
}

func checkHello(h *relaypb.Hello) error {
	if h.GetLink() == 0 || len(h.GetTo()) > maxName || len(h.GetFrom().GetName()) == 0 || h.GetVersion() == 0 {
		return malformed("hello")
	}
	return checkPlace(h.GetFrom())
}

// checkSaid is of a control message of an edge. Subscribe is checked by itself.
func checkSaid(m *relaypb.ToOwner) error {
	if len(m.GetSubscribe()) > maxSay || len(m.GetUnsubscribe()) > maxSay || len(m.GetCredit()) > maxSay {
		return malformed("control")
	}
	return nil
}

func checkStatus(s *relaypb.Status) *relaypb.Status {
	if s != nil {
		s.Readers, s.Owed = min(s.GetReaders(), maxReaders), min(s.GetOwed(), maxReaders)
	}
	return s
}

func checkChain(chain []*relaypb.Ancestor) error {
	if len(chain) > shard.MaxChain+1 {
		return malformed("chain")
	}
	for _, a := range chain {
		if len(a.GetStream()) > shard.MaxStreamID || a.GetStart() > a.GetBound() || a.GetBound() > maxPos {
			return malformed("chain")
		}
	}
	return nil
}

// checkInfo is of what is said of a stream, or of a part of one that a page is wanted of.
func checkInfo(i *relaypb.Info) error {
	switch n := len(i.GetHold()); {
	case i.GetTail() > maxPos, i.GetStart() > maxPos, i.GetLogTail() > maxPos, i.GetLogTail() < i.GetTail(),
		len(i.GetType()) > maxText, len(i.GetExpiresRaw()) > maxText, n != 0 && n != len(shard.AppendID{}):
		return malformed("description of a stream")
	}
	return checkChain(i.GetChain())
}

// peersSay are the operations that come from other nodes: what clients ask for, and what the
// owners of forks and of their sources ask of each other. OpSettled is of a stream's own owner.
var peersSay = map[shard.Op]bool{
	shard.OpCreate: true, shard.OpAppend: true, shard.OpDelete: true,
	shard.OpHold: true, shard.OpRelease: true, shard.OpVoid: true,
}

// checkHead is of a write, without its messages; size is what they have together.
func checkHead(h *relaypb.DoHead) (id shard.StreamID, size int, err error) {
	if id, err = checkStream(h.GetStream()); err != nil {
		return "", 0, err
	}
	if len(h.GetSizes()) > shard.MaxMessages {
		return "", 0, malformed("number of messages")
	}
	for _, n := range h.GetSizes() {
		if size += int(min(n, shard.MaxBody+1)); n == 0 || size > shard.MaxBody {
			return "", 0, malformed("size of the messages")
		}
	}
	op := h.GetOp()
	switch ref := len(h.GetRef()); {
	case op > uint32(shard.LastOp) || !peersSay[shard.Op(op)]:
		return "", 0, malformed("operation")
	case len(h.GetId()) != len(shard.AppendID{}), ref != 0 && ref != len(shard.AppendID{}), len(h.GetName()) > shard.MaxStreamID,
		len(h.GetType()) > maxText, len(h.GetBad()) > maxText, len(h.GetExpiresRaw()) > maxText,
		len(h.GetStreamSeq()) > shard.MaxStreamSeq, len(h.GetProducer().GetId()) > shard.MaxProducerID:
		return "", 0, malformed("write")
	case shard.Op(op) >= shard.OpHold && (ref == 0 || size > 0 || h.GetFork() != nil):
		return "", 0, malformed("write about a reference")
	case shard.Op(op) != shard.OpCreate && h.GetFork() != nil:
		return "", 0, malformed("fork")
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
	if s == nil || len(f.GetAt()) > maxText || s.GetRefused() > 255 || len(s.GetWhy()) > maxText ||
		len(s.GetType()) > maxText || len(s.GetExpiresRaw()) > maxText {
		return malformed("fork")
	}
	return checkChain(s.GetChain())
}

func checkOutcome(o *relaypb.DoReply) error {
	if o.GetCode() == 0 || o.GetCode() > 255 || len(o.GetWhy()) > maxText ||
		len(o.GetProducer().GetId()) > shard.MaxProducerID {
		return malformed("outcome")
	}
	return checkInfo(o.GetInfo())
}

func checkState(q *relaypb.StateRequest) (shard.StreamID, shard.Ask, error) {
	const all = shard.AskTouch | shard.AskLocal | shard.AskSure | shard.AskFollow
	id, err := checkStream(q.GetStream())
	if err == nil && q.GetAsk() > uint32(all) {
		err = malformed("ask")
	}
	if err == nil {
		err = checkRoute(q.GetRoute())
	}
	return id, shard.Ask(q.GetAsk()), err
}

func checkPage(q *relaypb.PageRequest) (shard.StreamID, error) {
	id, err := checkStream(q.GetStream())
	if err == nil {
		err = checkInfo(q.GetInfo())
	}
	if err == nil && q.GetFrom() >= q.GetInfo().GetTail() {
		err = malformed("page at or above the tail")
	}
	return id, err
}

func checkHand(q *relaypb.HandRequest) (shard.StreamID, error) {
	id, err := checkStream(q.GetStream())
	if err == nil && (len(q.GetTo().GetName()) == 0 || q.GetFrom() > maxPos) {
		err = malformed("hand")
	}
	if err == nil {
		err = checkPlace(q.GetTo())
	}
	return id, err
}

// handoverFrom checks what an owner hands over.
func handoverFrom(reply *relaypb.HandReply) (h shard.Handover, err error) {
	if len(reply.GetTail()) > maxTail {
		return h, malformed("handover")
	}
	h.State = reply.GetState()
	for _, b := range reply.GetTail() {
		r, err := shard.ParseRange(b)
		if err != nil {
			return h, err
		}
		h.Tail = append(h.Tail, r)
	}
	return h, nil
}

// checkPart is of a Part of a known subscription. Its data, if any, are checked whole.
func checkPart(p *relaypb.Part) error {
	switch p.GetKind() {
	case relaypb.Kind_KIND_SUBSCRIBED:
		if p.GetSubscribed().GetStart() > maxPos {
			return malformed("start")
		}
		return checkInfo(p.GetSubscribed().GetInfo())
	case relaypb.Kind_KIND_MOVED:
		return checkPlace(p.GetMoved())
	case relaypb.Kind_KIND_END:
		return checkPlace(p.GetRefusal().GetOwner())
	default:
		return nil
	}
}
