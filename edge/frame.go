package edge

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/shard"
)

// framing is how a stream's messages become SSE data (PROTOCOL 5.8).
type framing uint8

const (
	framingText   framing = iota + 1 // text/*: the bytes, one data line per line
	framingJSON                      // one JSON array per event
	framingBase64                    // anything else
)

func framingOf(contentType string) framing {
	switch t := shard.MediaType(contentType); {
	case t == "application/json":
		return framingJSON
	case strings.HasPrefix(t, "text/"):
		return framingText
	default:
		return framingBase64
	}
}

// frame is a run of messages in one framing: a data event, shared by every reader
// that needs just these messages. Its control event is rendered apart, because
// it depends on where the stream's tip is and on the reader's cursor. Immutable;
// a reader holds it by pointer until its last byte is written.
type frame struct {
	data     []byte
	next     uint64 // the position after the last message
	messages int
}

// render lays out the data event of messages; next is the position after them.
func render(f framing, life, next uint64, messages [][]byte) *frame {
	size := 0
	for _, m := range messages {
		size += len(m)
	}
	b := bytes.NewBuffer(make([]byte, 0, size+size/16+128))
	writeID(b, life, next)
	b.WriteString("event: data\n")
	switch f {
	case framingJSON:
		b.WriteString("data:[")
		for i, m := range messages {
			if i > 0 {
				b.WriteByte(',')
			}
			writeLines(b, m)
		}
		b.WriteString("]\n\n")
	case framingText:
		b.WriteString("data:")
		writeLines(b, bytes.Join(messages, nil))
		b.WriteString("\n\n")
	default:
		b.WriteString("data:")
		enc := base64.NewEncoder(base64.StdEncoding, b)
		for _, m := range messages {
			_, _ = enc.Write(m) // a Buffer takes everything
		}
		_ = enc.Close()
		b.WriteString("\n\n")
	}
	return &frame{data: b.Bytes(), next: next, messages: len(messages)}
}

func writeID(b *bytes.Buffer, life, pos uint64) {
	b.WriteString("id: ")
	b.WriteString(formatOffset(life, pos))
	b.WriteByte('\n')
}

// writeLines writes p with every line break (CRLF, CR, LF) as the start of a new
// data line. NUL has no meaning in SSE data and passes.
func writeLines(b *bytes.Buffer, p []byte) {
	for {
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			b.Write(p)
			return
		}
		b.Write(p[:i])
		b.WriteString("\ndata:")
		if p[i] == '\r' && i+1 < len(p) && p[i+1] == '\n' {
			i++
		}
		p = p[i+1:]
	}
}

// where says what a control event tells about the place after it.
type where uint8

const (
	whereMid    where = iota + 1 // more follows
	whereTip                     // nothing above it, yet
	whereClosed                  // nothing above it, ever
)

// control renders a control event.
func control(life, pos, cursor uint64, at where) []byte {
	b := bytes.NewBuffer(make([]byte, 0, 192))
	writeID(b, life, pos)
	b.WriteString("event: control\ndata:{\"streamNextOffset\":\"")
	b.WriteString(formatOffset(life, pos))
	b.WriteByte('"')
	if at != whereClosed {
		b.WriteString(",\"streamCursor\":\"")
		b.WriteString(strconv.FormatUint(cursor, 10))
		b.WriteByte('"')
	}
	if at != whereMid {
		b.WriteString(",\"upToDate\":true")
	}
	if at == whereClosed {
		b.WriteString(",\"streamClosed\":true")
	}
	b.WriteString("}\n\n")
	return b.Bytes()
}

// cutsCharacter reports whether parts, one after the other, end inside a UTF-8
// character.
func cutsCharacter(parts ...[]byte) bool {
	var end []byte // the last bytes, as many as a character may lack one of
	for i := len(parts) - 1; i >= 0 && len(end) < utf8.UTFMax-1; i-- {
		p := parts[i]
		end = append(append([]byte{}, p[max(0, len(p)-(utf8.UTFMax-1)):]...), end...)
	}
	for i := len(end) - 1; i >= max(0, len(end)-(utf8.UTFMax-1)); i-- {
		if utf8.RuneStart(end[i]) {
			return end[i] >= utf8.RuneSelf && !utf8.FullRune(end[i:])
		}
	}
	return false
}

// frameSets are the frames that readers share, per Tail and framing. A set lives
// as long as somebody reads.
type frameSets struct {
	limit int
	mu    sync.Mutex
	m     map[frameKey]*frameSet
}

type frameKey struct {
	tail *shard.Tail
	form framing
}

func (s *frameSets) open(t *shard.Tail, form framing) *frameSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := frameKey{t, form}
	set := s.m[k]
	if set == nil {
		set = &frameSet{limit: s.limit, by: map[uint64]*frame{}}
		s.m[k] = set
	}
	set.readers++
	return set
}

func (s *frameSets) close(t *shard.Tail, form framing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := frameKey{t, form}
	if set := s.m[k]; set != nil {
		if set.readers--; set.readers == 0 {
			delete(s.m, k)
		}
	}
}

// frameSet holds the newest frames of one Tail in one framing, by the first
// position of their Range. Full: the oldest goes.
type frameSet struct {
	limit   int
	readers int // guarded by frameSets.mu

	mu    sync.Mutex
	by    map[uint64]*frame
	order []uint64
	bytes int
}

// of is the frame of a whole Range.
func (s *frameSet) of(r shard.Range, form framing, life uint64) *frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.by[r.From()]; f != nil && f.next == r.Message(r.Len()-1).Next {
		return f
	}
	messages := make([][]byte, r.Len())
	for i := range messages {
		messages[i] = r.Message(i).Body
	}
	f := render(form, life, r.Message(r.Len()-1).Next, messages)
	if s.by[r.From()] == nil {
		s.order = append(s.order, r.From())
	} else {
		s.bytes -= len(s.by[r.From()].data)
	}
	s.by[r.From()] = f
	s.bytes += len(f.data)
	for s.bytes > s.limit && len(s.order) > 1 {
		s.bytes -= len(s.by[s.order[0]].data)
		delete(s.by, s.order[0])
		s.order = s.order[1:]
	}
	return f
}
