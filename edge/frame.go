package edge

import (
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/shard"
)

// framing is how a stream's messages become SSE data (PROTOCOL 5.8).
type framing uint8

const (
	framingText   framing = iota + 1 // text/* in UTF-8: the bytes, one data line per line
	framingJSON                      // one JSON array per event
	framingBase64                    // anything else
)

func framingOf(contentType string) framing {
	switch t := shard.MediaType(contentType); {
	case t == "application/json":
		return framingJSON
	case strings.HasPrefix(t, "text/") && !otherCharset(contentType):
		return framingText
	default:
		return framingBase64
	}
}

// frame is a run of messages in one framing: a data event, shared by all readers
// that need just these messages. Its control event is apart from it, because that
// depends on what follows and on the reader's cursor; the forms that most readers
// need are kept here. A reader holds a frame by pointer until its last byte is
// written. What is rendered never changes.
type frame struct {
	life     uint64
	next     uint64 // the position after the last message
	messages int
	time     uint64       // S2's, of the last message (ms); 0: of history
	size     int          // what it counts for in a bound
	pinned   atomic.Int32 // readers that it is being written to; see pins

	once sync.Once
	data []byte
	mid  []byte // control with more to follow
	born uint64 // the cursor in mid

	tip atomic.Pointer[tipControl] // control at the tip, of the newest interval asked for
	end atomic.Pointer[[]byte]     // control at the end of a closed stream
}

// tipControl is a control event that says "up to date".
type tipControl struct {
	cursor uint64
	b      []byte
}

// newFrame renders a frame of its own for one reader.
func newFrame(form framing, life, next, interval uint64, messages [][]byte) *frame {
	f := &frame{life: life, next: next, messages: len(messages)}
	f.render(form, interval, messages)
	return f
}

// render is called once, before anybody reads the frame.
func (f *frame) render(form framing, interval uint64, messages [][]byte) {
	f.data = renderData(form, f.life, f.next, messages)
	f.born = interval
	f.mid = renderControl(f.life, f.next, interval, whereMid)
}

// control is the control event after the frame for a reader whose streamCursor
// must be at least least, and the cursor in it.
func (f *frame) control(at where, least, interval uint64) (b []byte, cursor uint64) {
	cursor = max(least, interval)
	switch {
	case at == whereClosed:
		if p := f.end.Load(); p != nil {
			return *p, cursor
		}
		end := renderControl(f.life, f.next, 0, at) // b itself would be on the heap, always
		f.end.Store(&end)
		return end, cursor
	case at == whereMid && f.born >= least:
		return f.mid, f.born
	case at == whereTip && cursor == interval:
		if p := f.tip.Load(); p != nil && p.cursor == interval {
			return p.b, cursor
		}
		b = renderControl(f.life, f.next, cursor, at)
		f.tip.Store(&tipControl{cursor, b})
		return b, cursor
	}
	return renderControl(f.life, f.next, cursor, at), cursor
}

// renderData lays out the data event of messages; next is the position after
// them. A line break in a message begins a data line of its own.
func renderData(form framing, life, next uint64, messages [][]byte) []byte {
	size := 0
	for _, m := range messages {
		size += len(m) + 1
	}
	if form == framingBase64 {
		size = base64.StdEncoding.EncodedLen(size)
	}
	b := append(make([]byte, 0, size+size/32+96), "event: data\ndata:"...)
	switch form {
	case framingJSON:
		b = append(b, '[')
		for i, m := range messages {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendLines(b, m)
		}
		b = append(b, ']')
	case framingText:
		text := messages[0]
		if len(messages) > 1 { // a line break may lie across two messages
			text = concat(messages)
		}
		b = appendLines(appendSpare(b, text), text)
	default:
		b = appendBase64(b, messages)
	}
	return appendEnd(b, life, next)
}

func concat(messages [][]byte) []byte {
	var b []byte
	for _, m := range messages {
		b = append(b, m...)
	}
	return b
}

// appendBase64 appends the messages, one after the other, as one padded run.
func appendBase64(b []byte, messages [][]byte) []byte {
	if len(messages) == 1 {
		return base64.StdEncoding.AppendEncode(b, messages[0])
	}
	return base64.StdEncoding.AppendEncode(b, concat(messages))
}

// appendEnd ends a line, and the event that it is of with the id that a position has. The id
// is the last line: some clients take it when that line comes, and whatever stood below it
// would be lost to them if the connection broke there.
func appendEnd(b []byte, life, pos uint64) []byte {
	b = append(b, "\nid: "...)
	b = appendOffset(b, life, pos)
	return append(b, "\n\n"...)
}

// appendLines appends p with every line break (CRLF, CR, LF) as the start of a
// new data line: no message can end its event or begin another field.
func appendLines(b, p []byte) []byte {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\r':
			if i+1 < len(p) && p[i+1] == '\n' {
				i++
			}
			fallthrough
		case '\n':
			b = appendSpare(append(b, "\ndata:"...), p[i+1:])
		default:
			b = append(b, p[i])
		}
	}
	return b
}

// appendSpare begins a data line that holds the start of p: clients take one space
// away after the colon, so a line that begins with one gets another.
func appendSpare(b, p []byte) []byte {
	if len(p) > 0 && p[0] == ' ' {
		return append(b, ' ')
	}
	return b
}

// where says what a control event tells about the place after it.
type where uint8

const (
	whereMid    where = iota + 1 // more follows
	whereTip                     // nothing above it, yet
	whereClosed                  // nothing above it, ever
)

// renderControl lays out a control event that follows the data event of the same position,
// which has said the id.
func renderControl(life, pos, cursor uint64, at where) []byte {
	return append(appendControl(make([]byte, 0, 160), life, pos, cursor, at), "\n\n"...)
}

// renderLoneControl lays out a control event that stands alone, and moves the client's id.
func renderLoneControl(life, pos, cursor uint64, at where) []byte {
	return appendEnd(appendControl(make([]byte, 0, 192), life, pos, cursor, at), life, pos)
}

// appendControl appends a control event up to the end of its data.
func appendControl(b []byte, life, pos, cursor uint64, at where) []byte {
	b = append(b, "event: control\ndata:{\"streamNextOffset\":\""...)
	b = appendOffset(b, life, pos)
	b = append(b, '"')
	if at != whereClosed {
		b = append(b, ",\"streamCursor\":\""...)
		b = strconv.AppendUint(b, cursor, 10)
		b = append(b, '"')
	}
	if at != whereMid {
		b = append(b, ",\"upToDate\":true"...)
	}
	if at == whereClosed {
		b = append(b, ",\"streamClosed\":true"...)
	}
	return append(b, '}')
}

// cutsCharacter reports whether the messages, one after the other, end inside a
// UTF-8 character.
func cutsCharacter(messages []heldMessage) bool {
	var end [utf8.UTFMax - 1]byte // the last bytes: as many as may lack one more
	n := len(end)
	for i := len(messages) - 1; i >= 0 && n > 0; i-- {
		body := messages[i].Body
		for j := len(body) - 1; j >= 0 && n > 0; j-- {
			n--
			end[n] = body[j]
		}
	}
	last := end[n:]
	for i := len(last) - 1; i >= 0; i-- {
		if utf8.RuneStart(last[i]) {
			return !utf8.FullRune(last[i:])
		}
	}
	return false
}
