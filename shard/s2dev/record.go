package s2dev

import (
	"encoding/binary"
	"unicode/utf8"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// position is a position in a stream: the next sequence number, and the last record's timestamp.
type position struct {
	Seq  uint64 `json:"seq_num"`
	Time uint64 `json:"timestamp"` // milliseconds since 1970
}

func (p position) pb() *pb.StreamPosition {
	return &pb.StreamPosition{SeqNum: p.Seq, Timestamp: p.Time}
}

// record is one stored record. encoded is its SequencedRecord in protobuf. It is encoded once, at
// the append, and copied into every answer.
type record struct {
	seq     uint64
	time    uint64 // milliseconds since 1970, as set by the stream's timestamping
	arrived uint64 // milliseconds since 1970; retention counts from it
	size    int    // metered bytes
	encoded []byte
}

// recordOverhead is the memory that a record takes beside its encoded bytes.
const recordOverhead = 64

func meteredSize(headers []*pb.Header, body []byte) int {
	n := 8 + 2*len(headers) + len(body)
	for _, h := range headers {
		n += len(h.GetName()) + len(h.GetValue())
	}
	return n
}

type command struct {
	fence *string
	trim  *uint64
}

// parseCommand returns the command in a record, and false for a record of data.
func parseCommand(r *pb.AppendRecord) (command, bool, *apiError) {
	if len(r.GetHeaders()) != 1 || len(r.GetHeaders()[0].GetName()) > 0 {
		for _, h := range r.GetHeaders() {
			if len(h.GetName()) == 0 {
				return command{}, false, invalidError("invalid header: name is empty")
			}
		}
		return command{}, false, nil
	}
	switch string(r.GetHeaders()[0].GetValue()) {
	case "fence":
		token := string(r.GetBody())
		if len(token) > maxFenceToken {
			return command{}, true, invalidError("fencing token exceeds %d bytes", maxFenceToken)
		}
		if !utf8.ValidString(token) {
			return command{}, true, invalidError("invalid `fence` command: invalid UTF-8")
		}
		return command{fence: &token}, true, nil
	case "trim":
		if len(r.GetBody()) != 8 {
			return command{}, true, invalidError("earliest sequence number to trim to was %d bytes, "+
				"must be 8", len(r.GetBody()))
		}
		seq := binary.BigEndian.Uint64(r.GetBody())
		return command{trim: &seq}, true, nil
	}
	return command{}, true, invalidError("unknown command")
}

// checkedAppend is an append that has passed the checks without state.
type checkedAppend struct {
	records       []*pb.AppendRecord
	commands      map[int]command // by index of the record; nil: there is none
	mayUseReserve bool            // the batch has only commands, or a trim
	size          int             // metered bytes
	match         *uint64
	fence         *string
}

func checkAppend(in *pb.AppendInput) (*checkedAppend, *apiError) {
	out := &checkedAppend{records: in.GetRecords(), match: in.MatchSeqNum, fence: in.FencingToken}
	if len(out.records) == 0 {
		return nil, invalidError("record batch must not be empty")
	}
	if len(out.records) > maxBatchRecords {
		return nil, tooManyRecords()
	}
	if out.fence != nil && len(*out.fence) > maxFenceToken {
		return nil, invalidError("fencing token exceeds %d bytes", maxFenceToken)
	}
	onlyCmds, trims := true, false
	for i, r := range out.records {
		cmd, is, err := parseCommand(r)
		if err != nil {
			return nil, err
		}
		if is {
			if out.commands == nil {
				out.commands = map[int]command{}
			}
			out.commands[i] = cmd
		}
		onlyCmds, trims = onlyCmds && is, trims || cmd.trim != nil
		out.size += meteredSize(r.GetHeaders(), r.GetBody())
	}
	out.mayUseReserve = onlyCmds || trims
	if out.size > maxBatchBytes {
		return nil, batchTooLarge()
	}
	return out, nil
}

// The fields of a SequencedRecord, and of a header in it.
const (
	fieldSeq, fieldTime, fieldHeader, fieldBody protowire.Number = 1, 2, 3, 4

	fieldName, fieldValue protowire.Number = 1, 2
)

// newRecord encodes the record as proto.Marshal would, without allocating a message for it.
func newRecord(r *pb.AppendRecord, seq, time, at uint64) record {
	b := make([]byte, 0, encodedSize(r, seq, time))
	b = appendVarintField(b, fieldSeq, seq)
	b = appendVarintField(b, fieldTime, time)
	for _, h := range r.GetHeaders() {
		b = protowire.AppendTag(b, fieldHeader, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(headerFieldsSize(h)))
		b = appendBytesField(b, fieldName, h.GetName())
		b = appendBytesField(b, fieldValue, h.GetValue())
	}
	b = appendBytesField(b, fieldBody, r.GetBody())
	return record{seq: seq, time: time, arrived: at, size: meteredSize(r.GetHeaders(), r.GetBody()), encoded: b}
}

// encodedSize returns the exact size of what newRecord encodes: the record stays in memory.
func encodedSize(r *pb.AppendRecord, seq, time uint64) int {
	n := bytesFieldSize(r.GetBody())
	for _, v := range []uint64{seq, time} {
		if v != 0 {
			n += 1 + protowire.SizeVarint(v)
		}
	}
	for _, h := range r.GetHeaders() {
		n += 1 + protowire.SizeBytes(headerFieldsSize(h))
	}
	return n
}

func headerFieldsSize(h *pb.Header) int {
	return bytesFieldSize(h.GetName()) + bytesFieldSize(h.GetValue())
}

// bytesFieldSize returns the encoded size of a field of bytes; 0 for an empty one, which is not
// encoded. All tags take one byte.
func bytesFieldSize(v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(len(v))
}

func appendVarintField(b []byte, f protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, f, protowire.VarintType), v)
}

func appendBytesField(b []byte, f protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, f, protowire.BytesType), v)
}

// encodeBatch encodes a ReadBatch of the records and, if it is not nil, the tail.
func encodeBatch(recs []record, tail *position) []byte {
	n := 32
	for _, r := range recs {
		n += len(r.encoded) + 6
	}
	b := make([]byte, 0, n)
	for _, r := range recs {
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendBytes(b, r.encoded)
	}
	if tail != nil {
		// Marshalling a position cannot fail.
		p, _ := proto.Marshal(tail.pb())
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, p)
	}
	return b
}
