package s2

import (
	"encoding/binary"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

var headerName = []byte(shard.HeaderName)

func toS2(e shard.Entry) s2.AppendRecord {
	switch {
	case e.Trim:
		return s2.AppendRecord{
			Headers: []s2.Header{s2.NewHeader("", "trim")},
			Body:    binary.BigEndian.AppendUint64(nil, e.TrimTo),
		}
	case e.Header == nil:
		return s2.AppendRecord{Body: e.Body}
	default:
		return s2.AppendRecord{
			Headers: []s2.Header{{Name: headerName, Value: e.Header}},
			Body:    e.Body,
		}
	}
}

func fromS2(r s2.SequencedRecord) shard.Record {
	out := shard.Record{
		Pos: r.SeqNum, Time: r.Timestamp, Body: r.Body, Command: r.IsCommandRecord(),
		Size: int(s2.MeteredSequencedRecordBytes(r)),
	}
	if len(r.Headers) != 1 {
		return out
	}
	h := r.Headers[0]
	switch {
	case out.Command && string(h.Value) == "trim" && len(r.Body) == 8:
		out.TrimTo = binary.BigEndian.Uint64(r.Body)
	case string(h.Name) == shard.HeaderName:
		out.Header = h.Value
		if out.Header == nil {
			out.Header = []byte{}
		}
	}
	return out
}
