package sse

import (
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/shard"
)

// Framing is the layout of a stream's messages as SSE data (PROTOCOL 5.8).
type Framing uint8

// The framings.
const (
	FramingText   Framing = iota + 1 // text/* in UTF-8: the bytes, one data line per line
	FramingJSON                      // one JSON array per event
	FramingBase64                    // anything else
)

// FramingOf returns the framing of a stream of a content type.
func FramingOf(contentType string) Framing {
	switch t := shard.MediaType(contentType); {
	case t == "application/json":
		return FramingJSON
	case strings.HasPrefix(t, "text/") && !otherCharset(contentType):
		return FramingText
	default:
		return FramingBase64
	}
}

// frame is a run of messages in one framing: a data event, shared by all readers
// that need exactly these messages. Its control event is separate, because that
// depends on what follows and on the reader's cursor; the control events that most readers
// need are kept here. A reader holds a frame by pointer until its last byte is
// written. A rendered frame never changes, except for its cached control events.
type frame struct {
	generation shard.Generation
	nextPos    shard.Pos // the position after the last message
	messages   int
	storedAt   shard.Millis // S2's time of the last message (ms); 0: it came from history
	cacheSize  int          // what the frame cache counts it as
	pins       atomic.Int32 // readers to which it is being written; see Budget

	once        sync.Once
	data        []byte
	moreControl []byte // the control event with more to follow
	moreCursor  uint64 // the cursor in moreControl

	tipControl atomic.Pointer[cachedControl] // the control event at the tip, with the newest cursor asked for
	endControl atomic.Pointer[[]byte]        // the control event at the end of a closed stream
}

// cachedControl is a control event that says "up to date".
type cachedControl struct {
	cursor uint64
	b      []byte
}

// newFrame renders a frame for one reader alone.
func newFrame(form Framing, generation shard.Generation, next shard.Pos, interval uint64, messages [][]byte) *frame {
	f := &frame{generation: generation, nextPos: next, messages: len(messages)}
	f.render(form, interval, messages)
	return f
}

// render fills the frame with the messages, once, before any reader uses it.
func (f *frame) render(form Framing, interval uint64, messages [][]byte) {
	f.data = renderData(form, f.generation, f.nextPos, messages)
	f.moreCursor = interval
	f.moreControl = renderControl(f.generation, f.nextPos, interval, endNotReached)
}

// controlEvent returns the control event after the frame, and the cursor in it, for a reader
// that needs a Stream-Cursor of at least minCursor.
func (f *frame) controlEvent(at streamEnd, minCursor, cursorNow uint64) (b []byte, cursor uint64) {
	cursor = max(minCursor, cursorNow)
	switch {
	case at == endClosed:
		if p := f.endControl.Load(); p != nil {
			return *p, cursor
		}
		end := renderControl(f.generation, f.nextPos, 0, at) // a variable of its own, or b would always escape to the heap
		f.endControl.Store(&end)
		return end, cursor
	case at == endNotReached && f.moreCursor >= minCursor:
		return f.moreControl, f.moreCursor
	case at == endUpToDate && cursor == cursorNow:
		if p := f.tipControl.Load(); p != nil && p.cursor == cursorNow {
			return p.b, cursor
		}
		b = renderControl(f.generation, f.nextPos, cursor, at)
		f.tipControl.Store(&cachedControl{cursor, b})
		return b, cursor
	}
	return renderControl(f.generation, f.nextPos, cursor, at), cursor
}

// pin notes that one more reader holds the frame until its last byte is written.
func (f *frame) pin(p *sendbudget.Budget) {
	if f.pins.Add(1) == 1 {
		p.Charge(int64(len(f.data)))
	}
}

func (f *frame) unpin(p *sendbudget.Budget) {
	if f.pins.Add(-1) == 0 {
		p.Charge(-int64(len(f.data)))
	}
}

// renderData lays out the data event of messages; next is the position after
// them. A line break in a message begins a new data line.
func renderData(form Framing, generation shard.Generation, next shard.Pos, messages [][]byte) []byte {
	size := 0
	for _, m := range messages {
		size += len(m) + 1
	}
	if form == FramingBase64 {
		size = base64.StdEncoding.EncodedLen(size)
	}
	b := append(make([]byte, 0, size+size/32+96), "event: data\ndata:"...)
	switch form {
	case FramingJSON:
		b = append(b, '[')
		for i, m := range messages {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendDataLines(b, m)
		}
		b = append(b, ']')
	case FramingText:
		text := messages[0]
		if len(messages) > 1 { // a CRLF may be split between two messages
			text = joinMessages(messages)
		}
		b = appendDataLines(appendSpareSpace(b, text), text)
	default:
		b = appendBase64(b, messages)
	}
	return appendEventEnd(b, generation, next)
}

// joinMessages returns the messages as one.
func joinMessages(messages [][]byte) []byte {
	var b []byte
	for _, m := range messages {
		b = append(b, m...)
	}
	return b
}

// appendBase64 appends the messages, joined, as one padded run.
func appendBase64(b []byte, messages [][]byte) []byte {
	if len(messages) == 1 {
		return base64.StdEncoding.AppendEncode(b, messages[0])
	}
	return base64.StdEncoding.AppendEncode(b, joinMessages(messages))
}

// appendEventEnd ends a line, and then the event with the id of a position. The id must be the
// last line: some clients use an id as soon as its line arrives, and would lose the rest of the
// event if the connection broke below it.
func appendEventEnd(b []byte, generation shard.Generation, pos shard.Pos) []byte {
	b = append(b, "\nid: "...)
	b = position.AppendOffset(b, generation, pos)
	return append(b, "\n\n"...)
}

// appendDataLines appends p and begins a new data line at each line break (CRLF, CR, LF): no
// message can end its event or begin another field.
func appendDataLines(b, p []byte) []byte {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\r':
			if i+1 < len(p) && p[i+1] == '\n' {
				i++
			}
			fallthrough
		case '\n':
			b = appendSpareSpace(append(b, "\ndata:"...), p[i+1:])
		default:
			b = append(b, p[i])
		}
	}
	return b
}

// appendSpareSpace appends a space if p, the start of a data line, begins with one: clients
// remove one space after the colon.
func appendSpareSpace(b, p []byte) []byte {
	if len(p) > 0 && p[0] == ' ' {
		return append(b, ' ')
	}
	return b
}

// streamEnd tells in a control event whether the stream goes on.
type streamEnd uint8

const (
	endNotReached streamEnd = iota + 1 // more follows the event
	endUpToDate                        // nothing follows yet
	endClosed                          // nothing follows, ever
)

// renderControl lays out a control event after the data event of the same position, which
// carries the id.
func renderControl(generation shard.Generation, pos shard.Pos, cursor uint64, at streamEnd) []byte {
	return append(appendControl(make([]byte, 0, 160), generation, pos, cursor, at, readersUnknown), "\n\n"...)
}

// renderStandaloneControl lays out a control event without a data event before it; it carries an id.
func renderStandaloneControl(generation shard.Generation, pos shard.Pos, cursor uint64, at streamEnd) []byte {
	return appendEventEnd(appendControl(make([]byte, 0, 192), generation, pos, cursor, at, readersUnknown), generation, pos)
}

// RenderControl lays out a control event for a response that has no Session: its client is to go on
// from there.
func RenderControl(generation shard.Generation, pos shard.Pos, cursor uint64) []byte {
	return renderStandaloneControl(generation, pos, cursor, endNotReached)
}

// appendControl appends a control event up to the end of its data. readers may be readersUnknown.
func appendControl(b []byte, generation shard.Generation, pos shard.Pos, cursor uint64, at streamEnd, readers int) []byte {
	b = append(b, "event: control\ndata:{\"streamNextOffset\":\""...)
	b = position.AppendOffset(b, generation, pos)
	b = append(b, '"')
	if at != endClosed {
		b = append(b, ",\"streamCursor\":\""...)
		b = strconv.AppendUint(b, cursor, 10)
		b = append(b, '"')
	}
	if at != endNotReached {
		b = append(b, ",\"upToDate\":true"...)
	}
	if at == endClosed {
		b = append(b, ",\"streamClosed\":true"...)
	}
	if readers != readersUnknown {
		b = append(b, ",\"readers\":"...)
		b = strconv.AppendInt(b, int64(readers), 10)
	}
	return append(b, '}')
}
