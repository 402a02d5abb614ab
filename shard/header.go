package shard

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/fantail-dev/fantail/shard/tail"
)

// HeaderName is the name of the one header that Fantail puts on its records.
const HeaderName = "f"

// The fixed part of a header's value:
//
//	0      magic
//	1      format version
//	2      kind
//	3      flags
//	4…     fields: tag (1 byte), length (uvarint), that many bytes
//	last 4 CRC-32C of the record's position (8 bytes, big-endian) and of all above
//
// The position is in the sum, so a header that was copied to another position is foreign there.
// Fields are in ascending order of tag. An unknown tag up to 127 is skipped; one of 128 to 254
// changes what the record means, so a release that does not know it declines the stream.
const (
	headerMagic   = 0xFA
	headerVersion = 1
	headerFixed   = 4
	headerSum     = 4
)

// FormatLevel is the level of the log format that this release speaks. Members gossip their level,
// and a field of a higher level is written only once every member speaks that level:
//
//	0  unknown fields of a State are lost at the next checkpoint
//	1  keeps them, and reads everything that this file and checkpoint.go name
//	2  writes header fields 17 to 25 and State fields 23 to 30
const FormatLevel = 2

// RecordKind is the kind of a record of ours. An unknown kind makes a node decline the stream, so a later
// release may add kinds safely.
type RecordKind uint8

// The kinds. Reserved: 9 for the mark of a log that ended for good, 11 for the
// checkpoint of a stream with seals (a release without seals must decline it), and
// 32 to 63 for logs that are no streams, which a stream's fold declines.
const (
	KindMessage     RecordKind = 1  // a message, or a fragment of one
	KindCreate      RecordKind = 2  // begins a generation
	KindClose       RecordKind = 3  // closes the stream without a message
	KindCheckpoint  RecordKind = 4  // replaces the fold's state
	KindTouch       RecordKind = 5  // moves the time of last use (its S2 timestamp)
	KindTombstone   RecordKind = 6  // ends a generation; counts as a checkpoint
	KindHold        RecordKind = 7  // a fork refers to this stream: Ref, Name
	KindRelease     RecordKind = 8  // it no longer does: Ref
	KindReleaseDone RecordKind = 10 // a reference was given back, or will never be used: Ref
	KindClock       RecordKind = 12 // changes nothing; its acknowledgement tells S2's time
	KindRetain      RecordKind = 13 // replaces the retention policy: Retain

	KindFleet RecordKind = 32 // the fleet's record: in a log that is no stream
)

// isKnown reports whether this release can fold records of the kind.
func (k RecordKind) isKnown() bool {
	return k <= KindRelease || k == KindReleaseDone || k == KindClock || k == KindRetain
}

// Flags holds the flags of a message record.
type Flags uint8

// The flags. The records of an append in several batches (a large append) are a contiguous run.
// All carry FlagPart, from FlagFirst to FlagLast|FlagCommit, and they become visible when the
// run is whole. Every other append is one batch, and visible immediately.
const (
	FlagContinues Flags = 1 << 0 // continues the message of the record before
	FlagFirst     Flags = 1 << 1 // first record of an append
	FlagLast      Flags = 1 << 2 // last record of an append
	FlagPart      Flags = 1 << 3 // belongs to an append in several batches
	FlagCommit    Flags = 1 << 4 // makes the whole run visible
)

// Field tags. Tags are never reused.
const (
	tagAppendID           = 1  // 8 bytes
	tagProducer           = 2  // epoch, seq (uvarints), id
	tagStreamSeq          = 3  // bytes
	tagClose              = 4  // empty: the append closes the stream
	tagCheckpointDistance = 5  // records, bytes (uvarints) back to the last checkpoint
	tagGeneration         = 6  // uvarint
	tagType               = 7  // content type as given
	tagTTL                = 8  // seconds, uvarint
	tagExpires            = 9  // milliseconds since 1970, uvarint
	tagChain              = 10 // generation, start, bound (uvarints), ancestor; repeated
	tagReason             = 11 // why a generation ended, one byte
	tagState              = 12 // checkpoint, tombstone: the encoded State
	tagExpiresRaw         = 13 // Stream-Expires-At as given
	tagFork               = 14 // create: see Fork
	tagRef                = 15 // 8 bytes: the reference that a hold, a release or a release-done record is about
	tagName               = 16 // hold: the fork

	// Read by format level 1, written by level 2.
	tagBatchID        = 17 // last record of a batch on an append session: 8 bytes, random for each composition
	tagBaseBatch      = 18 // first record of a speculative batch: the batch expected directly below (batch_ids.go)
	tagPrevCheckpoint = 19 // checkpoint, tombstone: records, bytes (uvarints) back to the checkpoint before
	tagHoldFrom       = 20 // hold: generation, position (uvarints) from which the fork needs the source
	tagKey            = 21 // Stream-Key
	tagTrace          = 22 // traceparent in binary: version, trace id, parent id, flags (1, 16, 8, 1 bytes)
	tagDigest         = 23 // algorithm (1 byte), digest
	tagRetain         = 24 // create, retain: seconds, bytes, messages (uvarints); 0 is no bound
	tagChainTimes     = 25 // create: S2 ms of each bound of the chain (uvarints)

	tagMustKnow = 128 // from here on: decline what is unknown
	tagSeal     = 255 // key id (4 bytes), tag (12 bytes); always last. No release checks it yet.
)

// Bounds of the fields that level 2 writes, in bytes.
const (
	maxKey    = tail.MaxKey
	traceSize = tail.MaxTrace
	maxDigest = 32
	sealSize  = 16
)

// Producer is an idempotent producer's claim on an append (protocol 5.2.1).
type Producer struct {
	ID    string
	Epoch uint64
	Seq   uint64
}

// Header is a decoded header. Absent fields are zero. A field that may be present and zero has a
// flag of its own.
type Header struct {
	Kind  RecordKind
	Flags Flags

	Append    AppendID
	Producer  *Producer
	StreamSeq []byte // nil: absent
	Close     bool

	HasCheckpoint                                bool
	RecordsSinceCheckpoint, BytesSinceCheckpoint uint64

	// Create.
	Generation Generation
	Type       string
	HasTTL     bool
	TTL        uint64 // seconds
	Expires    Millis // milliseconds since 1970; 0: none
	ExpiresRaw string
	Chain      []Ancestor
	Fork       *Fork // nil: no fork

	Ref  AppendID // hold, release, release done
	Name StreamID // hold

	Reason Reason // tombstone
	State  []byte // checkpoint and tombstone: the fold's state after it

	Batch      AppendID // zero: absent
	Base       AppendID // zero: the batch is not speculative
	HasPrev    bool
	Prev       distance
	From       *sourcePosition // hold; nil: the fork needs everything that is there
	Key        string
	Trace      []byte // nil: absent
	Digest     []byte // nil: absent
	Retain     *retention
	ChainTimes []Millis
}

// distance holds the records and bytes between a record and one above it.
type distance struct{ Records, Bytes uint64 }

// sourcePosition is a position in the source of a fork.
type sourcePosition struct {
	Generation Generation
	Pos        Pos
}

// retention holds how much of a stream is kept; a zero bound is no bound.
type retention struct{ Seconds, Bytes, Messages uint64 }

// Reason is the reason for which a generation ended.
type Reason uint8

// The reasons.
const (
	ReasonDeleted Reason = 1
	ReasonExpired Reason = 2
)

var (
	// errForeign reports that the value is not a header of ours: the record is foreign.
	errForeign = errors.New("foreign record")
	// ErrNeedsLaterRelease reports that a later release wrote the log: it has a higher format
	// version, or a kind or field that this release does not know and must know. This node must not
	// append to it.
	ErrNeedsLaterRelease = errors.New("stream needs a later release of Fantail")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// headerCRC returns the checksum of b at position pos.
func headerCRC(pos Pos, b []byte) uint32 {
	sum := ^uint32(0)
	for shift := 56; shift >= 0; shift -= 8 { // without an array, which would be allocated on the heap
		sum = castagnoli[byte(sum)^byte(pos>>shift)] ^ sum>>8
	}
	return crc32.Update(^sum, castagnoli, b)
}

// encode returns the header's value for a record at position pos.
func (h *Header) encode(pos Pos) []byte {
	return h.appendTo(make([]byte, 0, 48+len(h.State)), pos)
}

// appendTo appends the header's value for a record at position pos.
func (h *Header) appendTo(b []byte, pos Pos) []byte {
	start := len(b)
	b = append(b, headerMagic, headerVersion, byte(h.Kind), byte(h.Flags))
	if !h.Append.IsZero() {
		b = appendField(b, tagAppendID, h.Append[:])
	}
	if p := h.Producer; p != nil {
		b = appendField(b, tagProducer, append(uvarints(p.Epoch, p.Seq), p.ID...))
	}
	if h.StreamSeq != nil {
		b = appendField(b, tagStreamSeq, h.StreamSeq)
	}
	if h.Close {
		b = appendField(b, tagClose, nil)
	}
	if h.HasCheckpoint {
		b = appendField(b, tagCheckpointDistance, uvarints(h.RecordsSinceCheckpoint, h.BytesSinceCheckpoint))
	}
	b = h.encodeControl(b)
	return binary.BigEndian.AppendUint32(b, headerCRC(pos, b[start:]))
}

// encodeControl appends the fields that only control records have.
func (h *Header) encodeControl(b []byte) []byte {
	if h.Generation != 0 {
		b = appendField(b, tagGeneration, uvarints(uint64(h.Generation)))
	}
	if h.Type != "" {
		b = appendField(b, tagType, []byte(h.Type))
	}
	if h.HasTTL {
		b = appendField(b, tagTTL, uvarints(h.TTL))
	}
	if h.Expires != 0 {
		b = appendField(b, tagExpires, uvarints(uint64(h.Expires)))
	}
	for _, a := range h.Chain {
		b = appendField(b, tagChain, encodeAncestor(a))
	}
	if h.Reason != 0 {
		b = appendField(b, tagReason, []byte{byte(h.Reason)})
	}
	if h.State != nil {
		b = appendField(b, tagState, h.State)
	}
	if h.ExpiresRaw != "" {
		b = appendField(b, tagExpiresRaw, []byte(h.ExpiresRaw))
	}
	if h.Fork != nil {
		b = appendField(b, tagFork, h.Fork.encode())
	}
	if !h.Ref.IsZero() {
		b = appendField(b, tagRef, h.Ref[:])
	}
	if h.Name != "" {
		b = appendField(b, tagName, []byte(h.Name))
	}
	return h.encodeLevel2(b)
}

// encodeLevel2 appends the fields that format level 2 added.
func (h *Header) encodeLevel2(b []byte) []byte {
	if !h.Batch.IsZero() {
		b = appendField(b, tagBatchID, h.Batch[:])
	}
	if !h.Base.IsZero() {
		b = appendField(b, tagBaseBatch, h.Base[:])
	}
	if h.HasPrev {
		b = appendField(b, tagPrevCheckpoint, uvarints(h.Prev.Records, h.Prev.Bytes))
	}
	if h.From != nil {
		b = appendField(b, tagHoldFrom, uvarints(uint64(h.From.Generation), uint64(h.From.Pos)))
	}
	if h.Key != "" {
		b = appendField(b, tagKey, []byte(h.Key))
	}
	if h.Trace != nil {
		b = appendField(b, tagTrace, h.Trace)
	}
	if h.Digest != nil {
		b = appendField(b, tagDigest, h.Digest)
	}
	if h.Retain != nil {
		b = appendField(b, tagRetain, h.Retain.encode())
	}
	if h.ChainTimes != nil {
		b = appendField(b, tagChainTimes, encodeMillis(h.ChainTimes))
	}
	return b
}

func (p *retention) encode() []byte { return uvarints(p.Seconds, p.Bytes, p.Messages) }

func (r *fieldReader) retention() *retention {
	return &retention{r.uvarint(), r.uvarint(), r.uvarint()}
}

func encodeMillis(ms []Millis) (b []byte) {
	for _, m := range ms {
		b = binary.AppendUvarint(b, uint64(m))
	}
	return b
}

// millis returns the rest as instants.
func (r *fieldReader) millis() []Millis {
	out := []Millis{}
	for len(r.b) > 0 {
		out = append(out, Millis(r.uvarint()))
	}
	return out
}

func encodeAncestor(a Ancestor) []byte {
	return append(uvarints(uint64(a.Generation), uint64(a.Start), uint64(a.Bound)), a.Stream...)
}

func (r *fieldReader) ancestor() Ancestor {
	return Ancestor{
		Generation: Generation(r.uvarint()), Start: Pos(r.uvarint()), Bound: Pos(r.uvarint()), Stream: StreamID(r.restAsString()),
	}
}

// decodeHeader reads the header of the record at pos. errForeign: it is not ours, or no Fantail
// writes it. ErrNeedsLaterRelease: it is ours, but of a later release. The header refers to value.
func decodeHeader(pos Pos, value []byte) (*Header, error) {
	n := len(value) - headerSum
	if n < headerFixed || value[0] != headerMagic ||
		binary.BigEndian.Uint32(value[n:]) != headerCRC(pos, value[:n]) {
		return nil, errForeign
	}
	if value[1] > headerVersion {
		return nil, ErrNeedsLaterRelease
	}
	h := &Header{Kind: RecordKind(value[2]), Flags: Flags(value[3])}
	if value[1] == 0 || h.Kind == 0 {
		return nil, errForeign
	}
	if !h.Kind.isKnown() {
		return nil, ErrNeedsLaterRelease
	}
	declined := false
	for b, last := value[headerFixed:n], byte(0); len(b) > 0; {
		tag := b[0]
		size, used := binary.Uvarint(b[1:])
		if used <= 0 || size > uint64(len(b)-1-used) || tag < last || tag == last && tag != tagChain {
			return nil, errForeign
		}
		v := b[1+used : 1+used+int(size)]
		if !h.setField(tag, v) {
			return nil, errForeign
		}
		declined = declined || tag >= tagMustKnow && tag != tagSeal
		b, last = b[1+used+int(size):], tag
	}
	switch {
	case declined:
		return nil, ErrNeedsLaterRelease
	case !h.valid(pos):
		return nil, errForeign
	}
	return h, nil
}

// setField stores one field; false: the field is malformed.
func (h *Header) setField(tag byte, v []byte) bool {
	r := fieldReader{b: v}
	switch tag {
	case tagAppendID:
		h.Append = r.restAsID()
	case tagProducer:
		h.Producer = &Producer{Epoch: r.uvarint(), Seq: r.uvarint(), ID: r.restAsString()}
	case tagStreamSeq:
		h.StreamSeq = append([]byte{}, v...)
	case tagClose:
		h.Close = true
	case tagCheckpointDistance:
		h.HasCheckpoint, h.RecordsSinceCheckpoint, h.BytesSinceCheckpoint = true, r.uvarint(), r.uvarint()
	case tagGeneration:
		h.Generation = Generation(r.uvarint())
	case tagType:
		h.Type = string(v)
	case tagTTL:
		h.HasTTL, h.TTL = true, r.uvarint()
	case tagExpires:
		h.Expires = Millis(r.uvarint())
	case tagChain:
		h.Chain = append(h.Chain, r.ancestor())
	case tagReason:
		if len(v) != 1 {
			return false
		}
		h.Reason = Reason(v[0])
	case tagState:
		h.State = v
	case tagExpiresRaw:
		h.ExpiresRaw = string(v)
	case tagFork:
		h.Fork = r.fork()
	case tagRef:
		h.Ref = r.restAsID()
	case tagName:
		h.Name = StreamID(v)
	default:
		return h.setLevel2(tag, v)
	}
	return !r.bad
}

// setLevel2 does what setField does, for the fields that format level 2 added and for the fields
// that this release does not know.
func (h *Header) setLevel2(tag byte, v []byte) bool {
	r := fieldReader{b: v}
	switch tag {
	case tagBatchID:
		h.Batch = r.restAsID()
	case tagBaseBatch:
		h.Base = r.restAsID()
	case tagPrevCheckpoint:
		h.HasPrev, h.Prev = true, distance{r.uvarint(), r.uvarint()}
	case tagHoldFrom:
		h.From = &sourcePosition{Generation(r.uvarint()), Pos(r.uvarint())}
	case tagKey:
		h.Key = string(v)
		return len(v) <= maxKey
	case tagTrace:
		h.Trace = v
		return len(v) == traceSize
	case tagDigest:
		h.Digest = v
		return len(v) >= 1 && len(v) <= 1+maxDigest
	case tagRetain:
		h.Retain = r.retention()
	case tagChainTimes:
		h.ChainTimes = r.millis()
	case tagSeal:
		return len(v) == sealSize
	}
	return !r.bad
}
