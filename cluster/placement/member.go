package placement

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/fantail-dev/fantail/shard"
)

// Member holds the description of a node that it spreads by gossip.
type Member struct {
	// Name is unique for each process: the node's name and a random suffix.
	Name string
	// RingKey is the stable ring key: the same after a restart.
	RingKey string
	// StartedAt is the time at which the process started, in milliseconds since 1970. Of two members
	// with one Key the later one counts.
	StartedAt shard.Millis
	// Revision grows by one with each change of what the process tells of itself: gossip may repeat
	// an older version.
	Revision uint64
	// OwnsFrom and OwnsUntil bound the time in which the member owns streams, in milliseconds since
	// 1970: OwnsFrom ≤ t < OwnsUntil. Never means that the bound does not come.
	OwnsFrom, OwnsUntil shard.Millis
	// Flags hold its conditions.
	Flags Flags
	// RelayVersion is the newest version of the relay's contract that it knows.
	RelayVersion uint8
	// RelayAddr is the address of its gRPC server, HTTPAddr that of its public server.
	RelayAddr, HTTPAddr string
	// FormatLevel is the level of the log format that it knows (shard.FormatLevel).
	FormatLevel uint8
	// Features holds what its release and its settings support.
	Features Features
	// FleetHash is a hash of the fleet record that it found in S2; 0: none yet.
	FleetHash uint64
}

// Addr returns the member's name and the address of its relay server.
func (m *Member) Addr() PeerAddr { return PeerAddr{m.Name, m.RelayAddr} }

// OwnsAt reports whether the member's dates let it own streams at an instant, in
// milliseconds since 1970.
func (m *Member) OwnsAt(ms shard.Millis) bool { return m.OwnsFrom <= ms && ms < m.OwnsUntil }

// OwnsOrWill reports whether the member owns streams or has announced the date from which it will.
func (m *Member) OwnsOrWill(now shard.Millis) bool { return m.OwnsFrom != Never && now < m.OwnsUntil }

// supersedes reports whether m counts, of two members with one key.
func (m *Member) supersedes(o *Member) bool {
	return m.StartedAt > o.StartedAt || m.StartedAt == o.StartedAt && m.Name > o.Name
}

// Never is an instant that does not come.
const Never = math.MaxUint64

// Flags holds the flags of a Member.
type Flags uint16

// The flags.
const (
	// FlagLeaving marks a node that is leaving.
	FlagLeaving Flags = 1 << 0
	// FlagStoreDown marks a node that cannot reach S2.
	FlagStoreDown Flags = 1 << 1
)

// Features holds the features of a Member: what its release and its settings support.
type Features uint8

// The features.
const (
	// FeatureTLS marks a relay's port that speaks TLS: plaintext must not be sent there.
	FeatureTLS Features = 1 << 0
)

// Features that tell how a member learns of what others write to S2. All members should have the
// same. Neither: it has read sessions, or an earlier release.
const (
	// FeatureReadsAuto: it has read sessions for streams with foreign writers.
	FeatureReadsAuto Features = 1 << 4
	// FeatureReadsExclusive: it has none, because no other program writes.
	FeatureReadsExclusive Features = 1 << 5

	ReadsFeatures = FeatureReadsAuto | FeatureReadsExclusive
)

// Features that tell of S2. Each change is spread by gossip: a probe finds it, and probes are ten
// seconds apart.
const (
	// FeatureStoreAnswered: S2 has answered this process, and allowed all that it needs.
	FeatureStoreAnswered Features = 1 << 1
	// FeatureStoreRefused: S2 refuses this process now.
	FeatureStoreRefused Features = 1 << 2
	// FeatureRecordDiffers: this process found another fleet record than the members that own
	// streams.
	FeatureRecordDiffers Features = 1 << 3

	StoreFeatures = FeatureStoreAnswered | FeatureStoreRefused | FeatureRecordDiffers
)

// The versions of the contract in relay.proto: the newest and the oldest that this release speaks, and
// the first versions with something that matters to a sender. They brought forks, texts as bytes, the call
// TakeOver, appends under a condition, news of an awaited stream's creation, numbers of readers, and the
// call FindTime. A
// release before RelayVersionBytes cannot read texts that are not UTF-8. A release before
// RelayVersionIfMatch would write such an append whatever its condition. A release before
// RelayVersionAwait is asked again and again. While a release before RelayVersionReaders is there, the
// number of readers is not known. A release before RelayVersionFindTime is not asked for times.
const (
	RelayVersionNewest   = 8
	RelayVersionOldest   = 1
	RelayVersionForks    = 2
	RelayVersionBytes    = 3
	RelayVersionTakeOver = 4
	RelayVersionIfMatch  = 5
	RelayVersionAwait    = 6
	RelayVersionReaders  = 7
	RelayVersionFindTime = 8
)

// The metadata of a member in gossip, big-endian. A later layout only adds at
// the end, so that an earlier release reads the part that it knows.
//
//	0   layout version, 1 byte
//	1   flags, 2 bytes
//	3   ring generation, 2 bytes
//	5   relay contract: oldest and newest version spoken, 1 byte each
//	7   revision · 15 start · 23 owns from · 31 owns until, 8 bytes each
//	39  ring key, relay address, http address: length (1 byte) and bytes each
//	…   extension: length (1 byte), then log format level (1), features (1), fleet (8);
//	    a later release may make it longer. Missing parts are 0.
const (
	metaVersion        = 1
	metaFixedBytes     = 39
	metaExtensionBytes = 10
	MaxRingKey         = 64
	MaxAddress         = 128
)

var errMetadata = errors.New("malformed metadata")

// Encode returns the metadata of the member in gossip.
func (m *Member) Encode() []byte {
	b := make([]byte, 0, metaFixedBytes+3+len(m.RingKey)+len(m.RelayAddr)+len(m.HTTPAddr))
	b = append(b, metaVersion)
	b = binary.BigEndian.AppendUint16(b, uint16(m.Flags))
	b = binary.BigEndian.AppendUint16(b, ringGeneration)
	b = append(b, RelayVersionOldest, m.RelayVersion)
	for _, v := range []uint64{m.Revision, uint64(m.StartedAt), uint64(m.OwnsFrom), uint64(m.OwnsUntil)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	for _, s := range []string{m.RingKey, m.RelayAddr, m.HTTPAddr} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	b = append(b, metaExtensionBytes, m.FormatLevel, byte(m.Features))
	return binary.BigEndian.AppendUint64(b, m.FleetHash)
}

// decodeExtension reads what follows the addresses, as far as it is present.
func (m *Member) decodeExtension(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n := int(b[0])
	if len(b) < 1+n {
		return errMetadata
	}
	var ext [metaExtensionBytes]byte
	copy(ext[:], b[1:1+n])
	m.FormatLevel, m.Features = ext[0], Features(ext[1])
	m.FleetHash = binary.BigEndian.Uint64(ext[2:])
	return nil
}

// DecodeMember decodes the metadata of the member with that name in gossip.
func DecodeMember(name string, b []byte) (Member, error) {
	if len(b) < metaFixedBytes || b[0] < metaVersion {
		return Member{}, errMetadata
	}
	if gen := binary.BigEndian.Uint16(b[3:]); gen != ringGeneration {
		return Member{}, fmt.Errorf("ring generation %d, not %d", gen, ringGeneration)
	}
	m := Member{
		Name:         name,
		Flags:        Flags(binary.BigEndian.Uint16(b[1:])),
		RelayVersion: b[6],
		Revision:     binary.BigEndian.Uint64(b[7:]),
		StartedAt:    shard.Millis(binary.BigEndian.Uint64(b[15:])),
		OwnsFrom:     shard.Millis(binary.BigEndian.Uint64(b[23:])),
		OwnsUntil:    shard.Millis(binary.BigEndian.Uint64(b[31:])),
	}
	b = b[metaFixedBytes:]
	for _, f := range []struct {
		s   *string
		max int
	}{{&m.RingKey, MaxRingKey}, {&m.RelayAddr, MaxAddress}, {&m.HTTPAddr, MaxAddress}} {
		if len(b) == 0 || len(b) < 1+int(b[0]) || int(b[0]) > f.max {
			return Member{}, errMetadata
		}
		*f.s, b = string(b[1:1+int(b[0])]), b[1+int(b[0]):]
	}
	if m.RingKey == "" || m.RelayAddr == "" {
		return Member{}, errMetadata
	}
	return m, m.decodeExtension(b)
}

// PeerAddr is a member's name and the address of its relay server.
type PeerAddr struct{ Name, Address string }
