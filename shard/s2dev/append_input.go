package s2dev

import (
	"bytes"
	"encoding/base64"
	"encoding/json"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The bodies of appends are decoded within the bounds of a batch: a body of a few megabytes can
// hold millions of records or headers of two bytes each, and each of them takes dozens of bytes in
// memory.

// maxBatchHeaders is the number of headers that fit into a batch: each takes two metered bytes.
const maxBatchHeaders = maxBatchBytes / 2

func tooManyRecords() *apiError {
	return invalidError("record batch must not exceed %d records", maxBatchRecords)
}

func batchTooLarge() *apiError {
	return invalidError("record batch must not exceed %d metered bytes", maxBatchBytes)
}

type jsonRecord struct {
	Timestamp *uint64     `json:"timestamp,omitempty"`
	Headers   jsonHeaders `json:"headers,omitempty"`
	Body      string      `json:"body,omitempty"`
}

type jsonAppend struct {
	Records jsonRecords `json:"records"`
	Match   *uint64     `json:"match_seq_num"`
	Fence   *string     `json:"fencing_token"`
}

// jsonRecords holds the records of an append. Decoding stops at the first record, and at the
// first header, beyond the bounds of a batch.
type jsonRecords []jsonRecord

// UnmarshalJSON implements json.Unmarshaler.
func (rs *jsonRecords) UnmarshalJSON(raw []byte) error {
	*rs = nil
	headers := 0
	return decodeArray(raw, func(r jsonRecord) error {
		headers += len(r.Headers)
		switch {
		case len(*rs) == maxBatchRecords:
			return tooManyRecords()
		case headers > maxBatchHeaders:
			return batchTooLarge()
		}
		*rs = append(*rs, r)
		return nil
	})
}

// jsonHeaders holds the headers of a record, each a name and a value.
type jsonHeaders [][2]string

// UnmarshalJSON implements json.Unmarshaler.
func (hs *jsonHeaders) UnmarshalJSON(raw []byte) error {
	*hs = nil
	return decodeArray(raw, func(h [2]string) error {
		if len(*hs) == maxBatchHeaders {
			return batchTooLarge()
		}
		*hs = append(*hs, h)
		return nil
	})
}

// decodeArray calls add with each element of a JSON array. It stops at the first error of add. For
// null it does nothing.
func decodeArray[T any](raw []byte, add func(T) error) error {
	if raw[0] != '[' { // null is valid; anything else is the decoder's error
		var v []T
		return json.Unmarshal(raw, &v)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return err
	}
	for dec.More() {
		var v T
		if err := dec.Decode(&v); err != nil {
			return err
		}
		if err := add(v); err != nil {
			return err
		}
	}
	return nil
}

// protobuf converts the append to protobuf. With b64, bodies and headers are decoded from base64.
func (a jsonAppend) protobuf(b64 bool) (in *pb.AppendInput, err *apiError) {
	in = &pb.AppendInput{MatchSeqNum: a.Match, FencingToken: a.Fence}
	text := func(s string) []byte {
		if !b64 {
			return []byte(s)
		}
		b, bad := base64.StdEncoding.DecodeString(s)
		if bad != nil && err == nil {
			err = invalidError("invalid base64: %s", bad)
		}
		return b
	}
	for _, r := range a.Records {
		rec := &pb.AppendRecord{Timestamp: r.Timestamp, Body: text(r.Body)}
		for _, h := range r.Headers {
			rec.Headers = append(rec.Headers, &pb.Header{Name: text(h[0]), Value: text(h[1])})
		}
		in.Records = append(in.Records, rec)
	}
	return in, err
}

// The repeated fields of an AppendInput and of an AppendRecord.
const (
	fieldRecords       protowire.Number = 1
	fieldRecordHeaders protowire.Number = 2
)

// decodeAppendInput decodes an append in protobuf. code is the error's code for a malformed one.
// The records and headers are counted before they are decoded.
func decodeAppendInput(raw []byte, code string) (*pb.AppendInput, *apiError) {
	records, headers := 0, 0
	scanFields(raw, fieldRecords, func(record []byte) bool {
		records++
		scanFields(record, fieldRecordHeaders, func([]byte) bool {
			headers++
			return headers <= maxBatchHeaders
		})
		return records <= maxBatchRecords && headers <= maxBatchHeaders
	})
	switch {
	case records > maxBatchRecords:
		return nil, tooManyRecords()
	case headers > maxBatchHeaders:
		return nil, batchTooLarge()
	}
	in := new(pb.AppendInput)
	if err := proto.Unmarshal(raw, in); err != nil {
		return nil, newError(code, "%s", err)
	}
	return in, nil
}

// scanFields calls fn with each value of a length-delimited field of a message, until fn returns
// false or the message ends. A malformed message ends early: proto.Unmarshal refuses it at the same
// place.
func scanFields(msg []byte, field protowire.Number, fn func(value []byte) bool) {
	for len(msg) > 0 {
		number, kind, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return
		}
		msg = msg[n:]
		if number == field && kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(msg)
			if n < 0 || !fn(value) {
				return
			}
		}
		if n = protowire.ConsumeFieldValue(number, kind, msg); n < 0 {
			return
		}
		msg = msg[n:]
	}
}
