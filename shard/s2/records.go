package s2

import (
	"encoding/binary"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

var headerName = []byte(shard.HeaderName)

// recordParts returns an entry as S2 stores it: its one header, if it has one, and its body.
func recordParts(e shard.Entry) (name, value, body []byte, has bool) {
	switch {
	case e.Trim:
		return nil, []byte("trim"), binary.BigEndian.AppendUint64(nil, uint64(e.TrimTo)), true
	case e.Header == nil:
		return nil, nil, e.Body, false
	default:
		return headerName, e.Header, e.Body, true
	}
}

func toSDKRecord(e shard.Entry) s2.AppendRecord {
	name, value, body, has := recordParts(e)
	if !has {
		return s2.AppendRecord{Body: body}
	}
	return s2.AppendRecord{Headers: []s2.Header{{Name: name, Value: value}}, Body: body}
}

func fromSDKRecord(r s2.SequencedRecord) shard.Record {
	out := shard.Record{
		Pos: shard.Pos(r.SeqNum), Time: shard.Millis(r.Timestamp), Body: r.Body, Command: r.IsCommandRecord(),
		Size: int(s2.MeteredSequencedRecordBytes(r)),
	}
	if len(r.Headers) != 1 {
		return out
	}
	h := r.Headers[0]
	switch {
	case out.Command && string(h.Value) == "trim" && len(r.Body) == 8:
		out.TrimTo = shard.Pos(binary.BigEndian.Uint64(r.Body))
	case string(h.Name) == shard.HeaderName:
		out.Header = h.Value
		if out.Header == nil {
			out.Header = []byte{}
		}
	}
	return out
}
