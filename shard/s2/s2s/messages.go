package s2s

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// Record is one record that a read session brought. Its bytes are the receiver's to keep.
type Record struct {
	SeqNum    uint64
	Timestamp uint64 // in ms
	Headers   []Header
	Body      []byte
}

// Header is one header of a record.
type Header struct{ Name, Value []byte }

// MeteredSize returns the size for which S2 bills a record.
func (r *Record) MeteredSize() int {
	n := 8 + 2*len(r.Headers) + len(r.Body)
	for _, h := range r.Headers {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

// IsCommand reports whether a record is one of S2's commands, such as a trim.
func (r *Record) IsCommand() bool { return len(r.Headers) == 1 && len(r.Headers[0].Name) == 0 }

// Position is a place in a stream.
type Position struct{ SeqNum, Timestamp uint64 }

// Batch holds what has arrived on a read session. It can be used again: TakeBatch overwrites it.
type Batch struct {
	Records []Record // may be none: all were skipped
	Next    uint64   // the least position of the next record; set by TakeBatch
	Tail    Position // the stream's tail when S2 sent this; valid if HasTail
	HasTail bool

	headers []Header // of all Records
	size    int      // metered, of all Records
}

func (b *Batch) reset() {
	clear(b.Records)
	clear(b.headers)
	*b = Batch{Records: b.Records[:0], headers: b.headers[:0]}
}

// errMalformed is the error of a message that is no protobuf.
var errMalformed = errors.New("malformed message")

// The fields of the messages.
const (
	batchRecords, batchTail                                   protowire.Number = 1, 2
	recordSeqNum, recordTimestamp, recordHeaders, recordBody  protowire.Number = 1, 2, 3, 4
	headerName, headerValue                                   protowire.Number = 1, 2
	positionSeqNum, positionTimestamp                         protowire.Number = 1, 2
	inputRecords, inputMatchSeqNum                            protowire.Number = 1, 2
	inputRecordTimestamp, inputRecordHeaders, inputRecordBody protowire.Number = 1, 2, 3
	ackStart, ackEnd, ackTail                                 protowire.Number = 1, 2, 3
)

// scanMessage calls varint and bytes with the fields of a message. Other wire types are skipped.
func scanMessage(b []byte, varint func(protowire.Number, uint64), bytes func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 || !num.IsValid() {
			return errMalformed
		}
		b = b[n:]
		switch kind {
		case protowire.VarintType:
			v, k := protowire.ConsumeVarint(b)
			if n = k; n >= 0 && varint != nil {
				varint(num, v)
			}
		case protowire.BytesType:
			v, k := protowire.ConsumeBytes(b)
			if n = k; n >= 0 && bytes != nil {
				if err := bytes(num, v); err != nil {
					return err
				}
			}
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
	}
	return nil
}

// decodePosition decodes a position into p.
func decodePosition(b []byte, p *Position) error {
	return scanMessage(b, func(num protowire.Number, v uint64) {
		switch num {
		case positionSeqNum:
			p.SeqNum = v
		case positionTimestamp:
			p.Timestamp = v
		}
	}, nil)
}

// scanBatch returns the tail of a read batch, and whether the batch has records. It does not look
// into the records.
func scanBatch(payload []byte) (tail Position, hasTail, hasRecords bool, err error) {
	err = scanMessage(payload, nil, func(num protowire.Number, v []byte) error {
		switch num {
		case batchRecords:
			hasRecords = true
		case batchTail:
			hasTail = true
			return decodePosition(v, &tail)
		}
		return nil
	})
	return tail, hasTail, hasRecords, err
}

// decode adds the records of a read batch to b, and sets its tail if the batch has one. The records
// share the payload's memory. Records below skip are left out, if their position is their first
// field, as S2 encodes it. place is called with each record's position, skipped or not.
func (b *Batch) decode(payload []byte, skip uint64, place func(uint64) error) error {
	return scanMessage(payload, nil, func(num protowire.Number, v []byte) error {
		switch num {
		case batchRecords:
			if at, ok := firstSeqNum(v); ok && at < skip {
				return place(at)
			}
			if err := b.decodeRecord(v); err != nil {
				return err
			}
			return place(b.Records[len(b.Records)-1].SeqNum)
		case batchTail:
			if !b.HasTail {
				b.Tail, b.HasTail = Position{}, true
			}
			return decodePosition(v, &b.Tail)
		}
		return nil
	})
}

// firstSeqNum returns a record's position, if that is the record's first field.
func firstSeqNum(v []byte) (uint64, bool) {
	num, kind, n := protowire.ConsumeTag(v)
	if n < 0 || num != recordSeqNum || kind != protowire.VarintType {
		return 0, false
	}
	at, k := protowire.ConsumeVarint(v[n:])
	return at, k >= 0
}

func (b *Batch) decodeRecord(v []byte) error {
	var r Record
	first := len(b.headers)
	err := scanMessage(v, func(num protowire.Number, v uint64) {
		switch num {
		case recordSeqNum:
			r.SeqNum = v
		case recordTimestamp:
			r.Timestamp = v
		}
	}, func(num protowire.Number, v []byte) error {
		switch num {
		case recordHeaders:
			var h Header
			err := decodeHeader(v, &h)
			b.headers = append(b.headers, h)
			return err
		case recordBody:
			r.Body = v[:len(v):len(v)]
		}
		return nil
	})
	if n := len(b.headers); n > first {
		r.Headers = b.headers[first:n:n]
	}
	b.size += r.MeteredSize()
	b.Records = append(b.Records, r)
	return err
}

func decodeHeader(v []byte, h *Header) error {
	return scanMessage(v, nil, func(num protowire.Number, v []byte) error {
		switch num {
		case headerName:
			h.Name = v[:len(v):len(v)]
		case headerValue:
			h.Value = v[:len(v):len(v)]
		}
		return nil
	})
}

// Ack is S2's acknowledgement of one batch: the places of its first record, behind its last, and of
// the tail. The timestamps are those of its first and last record.
type Ack struct{ Start, End, Tail Position }

func decodeAck(payload []byte) (a Ack, err error) {
	err = scanMessage(payload, nil, func(num protowire.Number, v []byte) error {
		switch num {
		case ackStart:
			return decodePosition(v, &a.Start)
		case ackEnd:
			return decodePosition(v, &a.End)
		case ackTail:
			return decodePosition(v, &a.Tail)
		}
		return nil
	})
	return a, err
}

// AppendRecord is a record to be appended. S2 sets its timestamp.
type AppendRecord struct {
	Headers []Header
	Body    []byte
}

// encodeInput returns the frame of a batch that is written if the stream's tail is match.
func encodeInput(match uint64, records []AppendRecord) []byte {
	size := protowire.SizeTag(inputMatchSeqNum) + protowire.SizeVarint(match)
	for i := range records {
		size += protowire.SizeTag(inputRecords) + protowire.SizeBytes(records[i].encodedSize())
	}
	b := appendFrameHead(make([]byte, 0, frameHead+1+size), 0, size)
	for i := range records {
		b = protowire.AppendTag(b, inputRecords, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(records[i].encodedSize()))
		b = records[i].encode(b)
	}
	b = protowire.AppendTag(b, inputMatchSeqNum, protowire.VarintType)
	return protowire.AppendVarint(b, match)
}

func (r *AppendRecord) encodedSize() int {
	n := protowire.SizeTag(inputRecordBody) + protowire.SizeBytes(len(r.Body))
	for _, h := range r.Headers {
		n += protowire.SizeTag(inputRecordHeaders) + protowire.SizeBytes(h.encodedSize())
	}
	return n
}

func (h *Header) encodedSize() int {
	return protowire.SizeTag(headerName) + protowire.SizeBytes(len(h.Name)) +
		protowire.SizeTag(headerValue) + protowire.SizeBytes(len(h.Value))
}

func (r *AppendRecord) encode(b []byte) []byte {
	for _, h := range r.Headers {
		b = protowire.AppendTag(b, inputRecordHeaders, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(h.encodedSize()))
		b = protowire.AppendTag(b, headerName, protowire.BytesType)
		b = protowire.AppendBytes(b, h.Name)
		b = protowire.AppendTag(b, headerValue, protowire.BytesType)
		b = protowire.AppendBytes(b, h.Value)
	}
	b = protowire.AppendTag(b, inputRecordBody, protowire.BytesType)
	return protowire.AppendBytes(b, r.Body)
}
