package s2dev

import (
	"encoding/binary"
	"unicode/utf8"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// position is a place in a stream: the next sequence number and the last record's timestamp.
type position struct {
	Seq  uint64 `json:"seq_num"`
	Time uint64 `json:"timestamp"` // milliseconds since 1970
}

func (p position) pb() *pb.StreamPosition {
	return &pb.StreamPosition{SeqNum: p.Seq, Timestamp: p.Time}
}

// record is one stored record. wire is its SequencedRecord in protobuf, made once at the append
// and copied as it is into every reply that carries it.
type record struct {
	seq  uint64
	time uint64 // milliseconds since 1970, as the stream's timestamping made it
	at   uint64 // milliseconds since 1970 at arrival; what retention counts from
	size int    // metered bytes
	wire []byte
}

// recordOverhead is what a record costs in memory beside its wire bytes.
const recordOverhead = 64

func metered(headers []*pb.Header, body []byte) int {
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

// parseCommand returns the command a record is, and false for a record of data.
func parseCommand(r *pb.AppendRecord) (command, bool, *apiError) {
	if len(r.GetHeaders()) != 1 || len(r.GetHeaders()[0].GetName()) > 0 {
		for _, h := range r.GetHeaders() {
			if len(h.GetName()) == 0 {
				return command{}, false, invalid("invalid header: name is empty")
			}
		}
		return command{}, false, nil
	}
	switch string(r.GetHeaders()[0].GetValue()) {
	case "fence":
		token := string(r.GetBody())
		if len(token) > maxFenceToken {
			return command{}, true, invalid("fencing token exceeds %d bytes", maxFenceToken)
		}
		if !utf8.ValidString(token) {
			return command{}, true, invalid("invalid `fence` command: invalid UTF-8")
		}
		return command{fence: &token}, true, nil
	case "trim":
		if len(r.GetBody()) != 8 {
			return command{}, true, invalid("earliest sequence number to trim to was %d bytes, "+
				"must be 8", len(r.GetBody()))
		}
		seq := binary.BigEndian.Uint64(r.GetBody())
		return command{trim: &seq}, true, nil
	}
	return command{}, true, invalid("unknown command")
}

// input is a checked append.
type input struct {
	records  []*pb.AppendRecord
	commands map[int]command // by record; nil: none is one
	spare    bool            // only commands, or with a trim: may use the memory's reserve
	size     int             // metered bytes
	match    *uint64
	fence    *string
}

func checkInput(in *pb.AppendInput) (*input, *apiError) {
	out := &input{records: in.GetRecords(), match: in.MatchSeqNum, fence: in.FencingToken}
	if len(out.records) == 0 {
		return nil, invalid("record batch must not be empty")
	}
	if len(out.records) > maxBatchRecords {
		return nil, tooManyRecords()
	}
	if out.fence != nil && len(*out.fence) > maxFenceToken {
		return nil, invalid("fencing token exceeds %d bytes", maxFenceToken)
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
		out.size += metered(r.GetHeaders(), r.GetBody())
	}
	out.spare = onlyCmds || trims
	if out.size > maxBatchBytes {
		return nil, batchTooLarge()
	}
	return out, nil
}

// The fields of a SequencedRecord, and of a header within it.
const (
	fieldSeq, fieldTime, fieldHeader, fieldBody protowire.Number = 1, 2, 3, 4

	fieldName, fieldValue protowire.Number = 1, 2
)

// sequence lays the record out as proto.Marshal would, without a message made for it.
func sequence(r *pb.AppendRecord, seq, time, at uint64) record {
	b := make([]byte, 0, wireSize(r, seq, time))
	b = appendNumber(b, fieldSeq, seq)
	b = appendNumber(b, fieldTime, time)
	for _, h := range r.GetHeaders() {
		b = protowire.AppendTag(b, fieldHeader, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(headerSize(h)))
		b = appendBytes(b, fieldName, h.GetName())
		b = appendBytes(b, fieldValue, h.GetValue())
	}
	b = appendBytes(b, fieldBody, r.GetBody())
	return record{seq: seq, time: time, at: at, size: metered(r.GetHeaders(), r.GetBody()), wire: b}
}

// wireSize is what sequence makes of the record, exactly: it stays in memory.
func wireSize(r *pb.AppendRecord, seq, time uint64) int {
	n := bytesSize(r.GetBody())
	for _, v := range []uint64{seq, time} {
		if v != 0 {
			n += 1 + protowire.SizeVarint(v)
		}
	}
	for _, h := range r.GetHeaders() {
		n += 1 + protowire.SizeBytes(headerSize(h))
	}
	return n
}

func headerSize(h *pb.Header) int { return bytesSize(h.GetName()) + bytesSize(h.GetValue()) }

// An absent field and an empty one are the same. All tags are of one byte.
func bytesSize(v []byte) int {
	if len(v) == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(len(v))
}

func appendNumber(b []byte, f protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, f, protowire.VarintType), v)
}

func appendBytes(b []byte, f protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, f, protowire.BytesType), v)
}

// batchWire is a ReadBatch of the records and, if not nil, the tail.
func batchWire(recs []record, tail *position) []byte {
	n := 32
	for _, r := range recs {
		n += len(r.wire) + 6
	}
	b := make([]byte, 0, n)
	for _, r := range recs {
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendBytes(b, r.wire)
	}
	if tail != nil {
		// A position of two numbers cannot fail to marshal.
		p, _ := proto.Marshal(tail.pb())
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, p)
	}
	return b
}
