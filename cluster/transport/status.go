package transport

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// Status holds what a node tells a peer of itself with each heartbeat.
type Status struct {
	// Readers counts the readers that are connected to the node.
	Readers int
	// StoreDown says that S2 does not answer the node. StoreAnswered is when it last did, by the clock of
	// the node that reads this; zero: it does not say.
	StoreDown     bool
	StoreAnswered time.Time
	// PeerOwns says that by the node's table the peer owns streams, and HandoversDue how many of those in
	// use the node has still to hand over to it.
	PeerOwns     bool
	HandoversDue int
	// Clock is the node's clock; zero: it does not say.
	Clock time.Time
	// RightsHash is the hash of the file of rights by which the node judges requests, and Revocations how
	// far it has read the stream of revocations. Empty: it judges none.
	RightsHash  string
	Revocations uint64
}

func encodeStatus(s Status) *relaypb.Status {
	out := &relaypb.Status{
		Readers: uint64(max(s.Readers, 0)), StoreDown: s.StoreDown, PeerOwns: s.PeerOwns,
		HandoversDue: uint64(max(s.HandoversDue, 0)), ClockMillis: uint64(shard.MillisOf(s.Clock)),
		RightsHash: wire.Bytes(s.RightsHash), RevocationsPosition: s.Revocations,
	}
	if !s.StoreAnswered.IsZero() {
		out.StoreAnswerAgeMillis = proto.Uint64(uint64(max(s.Clock.Sub(s.StoreAnswered), 0).Milliseconds()))
	}
	return out
}

// maxPeerClock bounds the clock that a peer may report, in milliseconds since 1970.
const maxPeerClock = 1 << 45

// decodeStatus checks and converts a Status that arrives now.
func decodeStatus(m *relaypb.Status, now time.Time) *Status {
	m = wire.CheckStatus(m)
	s := &Status{
		Readers: int(m.GetReaders()), StoreDown: m.GetStoreDown(), PeerOwns: m.GetPeerOwns(),
		HandoversDue: int(m.GetHandoversDue()), RightsHash: string(m.GetRightsHash()), Revocations: m.GetRevocationsPosition(),
	}
	if m.StoreAnswerAgeMillis != nil {
		s.StoreAnswered = now.Add(-time.Duration(m.GetStoreAnswerAgeMillis()) * time.Millisecond)
	}
	if at := m.GetClockMillis(); at != 0 {
		s.Clock = time.UnixMilli(int64(min(at, maxPeerClock)))
	}
	return s
}
