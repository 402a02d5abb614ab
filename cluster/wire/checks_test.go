package wire

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

var (
	longName = []byte(strings.Repeat("n", maxMemberName+1))
	longText = []byte(strings.Repeat("t", maxTextBytes+1))
	longID   = []byte(strings.Repeat("s", shard.MaxStreamID+1))
	ofFleet  = []byte("__ds/fleet") // no stream's name
)

// validHead returns a write as it should be.
func validHead() *relaypb.WriteHead {
	return &relaypb.WriteHead{Stream: []byte("p/s"), Op: uint32(shard.OpAppend), Id: make([]byte, 8), Sizes: []uint32{1}}
}

func validInfo() *relaypb.Info {
	return &relaypb.Info{Exists: true, Generation: 1, Start: 1, Tail: 5, LogTail: 6, Chain: []*relaypb.Ancestor{{Stream: []byte("p/a"), Bound: 3}}}
}

// Each part of each message of a peer has a bound, and what exceeds it is refused.
func TestEveryPeerMessageIsBounded(t *testing.T) {
	t.Parallel()
	head := func(change func(*relaypb.WriteHead)) error {
		h := validHead()
		change(h)
		_, _, err := checkWriteHead(h)
		return err
	}
	info := func(change func(*relaypb.Info)) error {
		i := validInfo()
		change(i)
		return CheckInfo(i)
	}
	create := func(f *relaypb.Fork, s *relaypb.Source) error {
		return head(func(h *relaypb.WriteHead) { h.Op, h.Fork, h.Source = uint32(shard.OpCreate), f, s })
	}
	fork := &relaypb.Fork{Source: []byte("p/t")}
	state := func(q *relaypb.StateRequest) error { _, _, err := CheckStateRequest(q); return err }
	page := func(q *relaypb.PageRequest) error { _, err := CheckPageRequest(q); return err }
	at := func(q *relaypb.TimeRequest) error { _, err := CheckTimeRequest(q); return err }
	found := func(pos uint64) error {
		_, err := DecodeTime(&relaypb.TimeReply{Position: pos}, shard.Info{Start: 3, Tail: 5})
		return err
	}
	hand := func(q *relaypb.HandoverRequest) error { _, err := CheckHandoverRequest(q); return err }
	me := &relaypb.PeerAddress{Name: []byte("n"), Address: []byte("a:1")}
	for name, err := range map[string]error{
		"write": head(func(*relaypb.WriteHead) {}),
		"condition": head(func(h *relaypb.WriteHead) {
			h.IfMatch = &relaypb.IfMatch{Places: make([]*relaypb.Place, shard.MaxTailPlaces)}
		}),
		"write of a fork":   create(fork, &relaypb.Source{}),
		"hold":              head(func(h *relaypb.WriteHead) { h.Op, h.Sizes, h.Ref = uint32(shard.OpHold), nil, make([]byte, 8) }),
		"info":              info(func(*relaypb.Info) {}),
		"no stream":         info(func(i *relaypb.Info) { *i = relaypb.Info{} }), //nolint:govet // a message of its own
		"hello":             CheckHello(&relaypb.Hello{Incarnation: 1, Version: 1, From: me}),
		"state":             state(&relaypb.StateRequest{Stream: []byte("p/s"), Options: 7}),
		"page":              page(&relaypb.PageRequest{Stream: []byte("p/s"), Info: validInfo(), From: 4}),
		"time":              at(&relaypb.TimeRequest{Stream: []byte("p/s"), Info: validInfo(), Since: maxTime}),
		"time at the start": found(3),
		"time at the end":   found(5),
		"hand":              hand(&relaypb.HandoverRequest{Stream: []byte("p/s"), Caller: me}),
		"outcome":           CheckOutcome(&relaypb.WriteReply{Code: 1, Info: validInfo()}),
		"part":              CheckPart(&relaypb.Part{Kind: relaypb.PartKind_PART_KIND_SUBSCRIBED, Subscribed: &relaypb.Subscribed{Info: validInfo()}}),
		"part of later":     CheckPart(&relaypb.Part{Kind: 99}),
		"control":           CheckToOwner(&relaypb.ToOwner{}),
		"handover of a lot": func() error { _, err := DecodeHandover(&relaypb.HandoverReply{}); return err }(),
	} {
		t.Run(name, func(t *testing.T) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	for name, err := range map[string]error{
		"time of none":        at(&relaypb.TimeRequest{Info: validInfo(), Since: 1}),
		"time of the fleet":   at(&relaypb.TimeRequest{Stream: ofFleet, Info: validInfo()}),
		"time beyond":         at(&relaypb.TimeRequest{Stream: []byte("p/s"), Info: validInfo(), Since: maxTime + 1}),
		"time in what":        at(&relaypb.TimeRequest{Stream: []byte("p/s"), Info: &relaypb.Info{Tail: 2}}),
		"time below":          found(2),
		"time above":          found(6),
		"stream none":         head(func(h *relaypb.WriteHead) { h.Stream = nil }),
		"stream long":         head(func(h *relaypb.WriteHead) { h.Stream = longID }),
		"op none":             head(func(h *relaypb.WriteHead) { h.Op = 0 }),
		"op of the owner":     head(func(h *relaypb.WriteHead) { h.Op, h.Sizes, h.Ref = uint32(shard.OpReleaseDone), nil, make([]byte, 8) }),
		"op of later":         head(func(h *relaypb.WriteHead) { h.Op = uint32(shard.LastOp) + 1 }),
		"op beyond a byte":    head(func(h *relaypb.WriteHead) { h.Op = 256 + uint32(shard.OpAppend) }),
		"id":                  head(func(h *relaypb.WriteHead) { h.Id = []byte("x") }),
		"ref":                 head(func(h *relaypb.WriteHead) { h.Ref = []byte("x") }),
		"hold without ref":    head(func(h *relaypb.WriteHead) { h.Op, h.Sizes = uint32(shard.OpHold), nil }),
		"hold with messages":  head(func(h *relaypb.WriteHead) { h.Op, h.Ref = uint32(shard.OpCancelFork), make([]byte, 8) }),
		"empty message":       head(func(h *relaypb.WriteHead) { h.Sizes = []uint32{1, 0} }),
		"large":               head(func(h *relaypb.WriteHead) { h.Sizes = []uint32{shard.MaxBody, 1} }),
		"beyond":              head(func(h *relaypb.WriteHead) { h.Sizes = []uint32{1 << 31, 1 << 31, 1 << 31} }),
		"many":                head(func(h *relaypb.WriteHead) { h.Sizes = make([]uint32, shard.MaxMessages+1) }),
		"type":                head(func(h *relaypb.WriteHead) { h.Type = longText }),
		"bad":                 head(func(h *relaypb.WriteHead) { h.BodyError = longText }),
		"expires":             head(func(h *relaypb.WriteHead) { h.ExpiresRaw = longText }),
		"name":                head(func(h *relaypb.WriteHead) { h.Name = longID }),
		"stream of the fleet": head(func(h *relaypb.WriteHead) { h.Stream = ofFleet }),
		"name of the fleet":   head(func(h *relaypb.WriteHead) { h.Name = ofFleet }),
		"fork of the fleet":   create(&relaypb.Fork{Source: ofFleet}, &relaypb.Source{}),
		"fleet's past":        create(fork, &relaypb.Source{Chain: []*relaypb.Ancestor{{Stream: ofFleet}}}),
		"fleet as ancestor":   info(func(i *relaypb.Info) { i.Chain[0].Stream = ofFleet }),
		"state of the fleet":  state(&relaypb.StateRequest{Stream: ofFleet}),
		"page of the fleet":   page(&relaypb.PageRequest{Stream: ofFleet, Info: validInfo(), From: 4}),
		"hand of the fleet":   hand(&relaypb.HandoverRequest{Stream: ofFleet, Caller: me}),
		"producer":            head(func(h *relaypb.WriteHead) { h.Producer = &relaypb.Producer{Id: longText} }),
		"seq":                 head(func(h *relaypb.WriteHead) { h.StreamSeq = longText }),
		"producer's condition": head(func(h *relaypb.WriteHead) {
			h.Op, h.IfMatch, h.Producer = uint32(shard.OpAppend), &relaypb.IfMatch{}, &relaypb.Producer{}
		}),
		"condition of all": head(func(h *relaypb.WriteHead) {
			h.Op, h.IfMatch = uint32(shard.OpAppend), &relaypb.IfMatch{Places: make([]*relaypb.Place, shard.MaxTailPlaces+1)}
		}),
		"condition to create":  head(func(h *relaypb.WriteHead) { h.Op, h.IfMatch = uint32(shard.OpCreate), &relaypb.IfMatch{} }),
		"append of a fork":     head(func(h *relaypb.WriteHead) { h.Fork, h.Source = fork, &relaypb.Source{} }),
		"route":                head(func(h *relaypb.WriteHead) { h.Route = &relaypb.Route{Excluded: [][]byte{longName}} }),
		"route of all":         head(func(h *relaypb.WriteHead) { h.Route = &relaypb.Route{Excluded: make([][]byte, maxExcluded+1)} }),
		"fork without":         create(fork, nil),
		"source without":       create(nil, &relaypb.Source{}),
		"fork of none":         create(&relaypb.Fork{}, &relaypb.Source{}),
		"fork at":              create(&relaypb.Fork{Source: []byte("p/t"), Offset: longText}, &relaypb.Source{}),
		"source code":          create(fork, &relaypb.Source{Refused: 256}),
		"source type":          create(fork, &relaypb.Source{Type: longText}),
		"source chain":         create(fork, &relaypb.Source{Chain: make([]*relaypb.Ancestor, shard.MaxChain+2)}),
		"info tail":            info(func(i *relaypb.Info) { i.Tail = maxPosition + 1; i.LogTail = maxPosition + 2 }),
		"info tail above log":  info(func(i *relaypb.Info) { i.Tail = 7 }),
		"info start":           info(func(i *relaypb.Info) { i.Start = maxPosition + 1 }),
		"info type":            info(func(i *relaypb.Info) { i.Type = longText }),
		"info hold":            info(func(i *relaypb.Info) { i.Hold = []byte("x") }),
		"ancestor backwards":   info(func(i *relaypb.Info) { i.Chain[0].Start = 4 }),
		"ancestor beyond":      info(func(i *relaypb.Info) { i.Chain[0].Bound = maxPosition + 1 }),
		"ancestor's name":      info(func(i *relaypb.Info) { i.Chain[0].Stream = longID }),
		"hello none":           CheckHello(nil),
		"hello of nobody":      CheckHello(&relaypb.Hello{Incarnation: 1, Version: 1}),
		"hello without a link": CheckHello(&relaypb.Hello{Version: 1, From: me}),
		"hello long":           CheckHello(&relaypb.Hello{Incarnation: 1, Version: 1, From: &relaypb.PeerAddress{Name: longName}}),
		"state ask":            state(&relaypb.StateRequest{Stream: []byte("p/s"), Options: 16}),
		"state ask of a byte":  state(&relaypb.StateRequest{Stream: []byte("p/s"), Options: 257}),
		"state none":           state(&relaypb.StateRequest{}),
		"page of nothing":      page(&relaypb.PageRequest{Stream: []byte("p/s"), Info: &relaypb.Info{Exists: true, Generation: 2}}),
		"page at the tail":     page(&relaypb.PageRequest{Stream: []byte("p/s"), Info: validInfo(), From: 5}),
		"page without info":    page(&relaypb.PageRequest{Stream: []byte("p/s")}),
		"hand none":            hand(&relaypb.HandoverRequest{Caller: me}),
		"hand to nobody":       hand(&relaypb.HandoverRequest{Stream: []byte("p/s")}),
		"outcome none":         CheckOutcome(nil),
		"outcome of later":     CheckOutcome(&relaypb.WriteReply{Code: 257}),
		"outcome's producer":   CheckOutcome(&relaypb.WriteReply{Code: 1, Producer: &relaypb.Producer{Id: longText}}),
		"part's start":         CheckPart(&relaypb.Part{Kind: relaypb.PartKind_PART_KIND_SUBSCRIBED, Subscribed: &relaypb.Subscribed{Start: maxPosition + 1}}),
		"part's place":         CheckPart(&relaypb.Part{Kind: relaypb.PartKind_PART_KIND_MOVED, Moved: &relaypb.PeerAddress{Name: longName}}),
		"part's owner": CheckPart(&relaypb.Part{Kind: relaypb.PartKind_PART_KIND_END, Refusal: &relaypb.Refusal{
			Owner: &relaypb.PeerAddress{Address: longText},
		}}),
		"control of a lot": CheckToOwner(&relaypb.ToOwner{Unsubscribe: make([]uint64, maxControlItems+1)}),
		"handover of too much": func() error {
			_, err := DecodeHandover(&relaypb.HandoverReply{Tail: make([][]byte, maxHandoverBatches+1)})
			return err
		}(),
		"handover of no ranges": func() error { _, err := DecodeHandover(&relaypb.HandoverReply{Tail: [][]byte{{1}}}); return err }(),
	} {
		t.Run(name, func(t *testing.T) {
			if err == nil {
				t.Errorf("%s is taken", name)
			}
		})
	}
	if s := CheckStatus(&relaypb.Status{Readers: 1 << 63, HandoversDue: 1 << 63}); int(s.GetReaders()) != maxReaders || int(s.GetHandoversDue()) != maxReaders {
		t.Errorf("%v", s)
	}
	if s := CheckStatus(&relaypb.Status{StoreAnswerAgeMillis: proto.Uint64(1 << 63)}); s.GetStoreAnswerAgeMillis() != maxStoreAnswerAge {
		t.Errorf("%v", s)
	}
}

// Whatever bytes an edge or an owner sends: nothing panics, and what is accepted keeps its bounds.
func FuzzPeerMessages(f *testing.F) {
	for _, m := range []proto.Message{
		&relaypb.Info{Exists: true, Tail: 1, LogTail: 1}, &relaypb.WriteReply{Code: 1}, &relaypb.Part{Kind: 1}, validHead(), validInfo(),
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var i relaypb.Info
		if proto.Unmarshal(b, &i) == nil && CheckInfo(&i) == nil {
			if info := DecodeInfo(&i); info.Tail > info.LogTail || len(info.Chain) > shard.MaxChain+1 {
				t.Fatalf("%+v", info)
			}
		}
		var p relaypb.Part
		if proto.Unmarshal(b, &p) == nil && CheckPart(&p) == nil {
			_, _ = DecodeInfo(p.GetSubscribed().GetInfo()), DecodeRefusal(p.GetRefusal())
		}
		var o relaypb.WriteReply
		if proto.Unmarshal(b, &o) == nil && CheckOutcome(&o) == nil {
			_ = DecodeOutcome(&o)
		}
		var q relaypb.PageRequest
		if proto.Unmarshal(b, &q) == nil {
			if _, err := CheckPageRequest(&q); err == nil && q.GetFrom() >= q.GetInfo().GetTail() {
				t.Fatal("a page of nothing")
			}
		}
		var h relaypb.HandoverReply
		if proto.Unmarshal(b, &h) == nil {
			_, _ = DecodeHandover(&h)
		}
	})
}

// A peer that announces much and sends little is allocated little.
func TestAnnouncedSizesAreNotAllocated(t *testing.T) {
	t.Parallel()
	a := &BatchAssembler{}
	if _, _, err := a.AddPiece([]byte{1}, MaxBatchBytes); err != nil || cap(a.buf) > maxPreallocated {
		t.Errorf("%v: %d bytes for one", err, cap(a.buf))
	}
	if _, _, err := (&BatchAssembler{}).AddPiece([]byte{1}, MaxBatchBytes+1); err == nil {
		t.Error("more than any Range is taken")
	}
}
