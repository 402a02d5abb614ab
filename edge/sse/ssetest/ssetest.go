package ssetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/shard"
)

// Batch lays a RecordBatch out as shard/tail/record_batch.go documents it.
func Batch(t interface{ Fatal(...any) }, from, to, tail shard.Pos, closed bool, ms []shard.Message) shard.RecordBatch {
	b := make([]byte, 40)
	b[0] = 1
	if closed {
		b[1] = 1
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(ms)))
	binary.BigEndian.PutUint64(b[8:], uint64(from))
	binary.BigEndian.PutUint64(b[16:], uint64(to))
	binary.BigEndian.PutUint64(b[24:], uint64(tail))
	var payload []byte
	for _, m := range ms {
		payload = append(payload, m.Body...)
		b = binary.BigEndian.AppendUint32(b, uint32(m.Pos-from))
		b = binary.BigEndian.AppendUint32(b, uint32(m.Next-from))
		b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	}
	r, err := shard.ParseBatch(append(b, payload...))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Parse reads whole events as the HTML standard says a client does; rest is
// what begins after the last of them. Comments are dropped. An id is an event's last line;
// an event without one, which only the control event of a data event may be, has the id of
// the event before it, or none if that is not in b.
func Parse(b []byte) (events []Event, rest []byte, err error) {
	var e Event
	fields := 0
	var data []string
	for rest = b; len(b) > 0; {
		n := bytes.IndexAny(b, "\r\n")
		if n < 0 {
			break
		}
		line := string(b[:n])
		if b[n] == '\r' && n+1 < len(b) && b[n+1] == '\n' {
			n++
		}
		b = b[n+1:]
		k, v, _ := strings.Cut(line, ":")
		v = strings.TrimPrefix(v, " ")
		fields++
		switch {
		case line == "":
			if fields > 1 {
				e.Data = strings.Join(data, "\n")
				if e.ID == "" && e.Name != "control" {
					return events, rest, fmt.Errorf("no id in %+v", e)
				}
				if n := len(events); e.ID == "" && n > 0 {
					e.ID = events[n-1].ID
				}
				events = append(events, e)
			}
			e, fields, data, rest = Event{}, 0, nil, b
		case k == "", k == "retry": // a comment, or how long to wait
			fields--
		case e.ID != "":
			return events, rest, fmt.Errorf("line %q after the id", line)
		case k == "id" && data != nil:
			e.ID = v
		case k == "event" && e.Name == "" && data == nil:
			e.Name = v
		case k == "data":
			data = append(data, v)
		default:
			return events, rest, fmt.Errorf("line %q", line)
		}
	}
	return events, rest, nil
}

// OneBreak writes every line break as \n, which is all that SSE can carry.
var OneBreak = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// Event is one SSE event.
type Event struct{ ID, Name, Data string }

// Shown returns text as a reader sees it: the beginning of a character at its end becomes U+FFFD.
func Shown(text string) string {
	for size := 1; size < utf8.UTFMax && size <= len(text); size++ {
		rest := text[len(text)-size:]
		if utf8.RuneStart(rest[0]) {
			if !utf8.FullRuneInString(rest) {
				return text[:len(text)-size] + string(utf8.RuneError)
			}
			break
		}
	}
	return text
}
