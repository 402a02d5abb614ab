package s2

import (
	"encoding/binary"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2/s2s"
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
	if len(r.Headers) == 1 {
		takeHeader(&out, r.Headers[0].Name, r.Headers[0].Value)
	}
	return out
}

func fromS2SRecord(r *s2s.Record) shard.Record {
	out := shard.Record{
		Pos: shard.Pos(r.SeqNum), Time: shard.Millis(r.Timestamp), Body: r.Body, Command: r.IsCommand(),
		Size: r.MeteredSize(),
	}
	if len(r.Headers) == 1 {
		takeHeader(&out, r.Headers[0].Name, r.Headers[0].Value)
	}
	return out
}

// takeHeader sets what the only header of a record says.
func takeHeader(out *shard.Record, name, value []byte) {
	switch {
	case out.Command && string(value) == "trim" && len(out.Body) == 8:
		out.TrimTo = shard.Pos(binary.BigEndian.Uint64(out.Body))
	case string(name) == shard.HeaderName:
		out.Header = value
		if out.Header == nil {
			out.Header = []byte{}
		}
	}
}
