package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/shard"
)

var (
	errJSON     = errors.New("the body is not valid JSON")
	errTooMany  = errors.New("too many messages in one append")
	errNoneSent = errors.New("the array is empty")
)

// splitJSON takes a JSON body apart: the elements of an array, one level deep,
// each as its own bytes; anything else is one message (PROTOCOL 7.1). The
// messages are laid out in body.
func splitJSON(body []byte) (shard.Messages, error) {
	body = bytes.Trim(body, " \t\r\n")
	if !json.Valid(body) || !utf8.Valid(body) {
		return shard.Messages{}, errJSON
	}
	if body[0] != '[' {
		return shard.NewMessages(body), nil
	}
	// An element ends at a comma or at the end, so there are no more than that.
	ends := make([]uint32, 0, min(bytes.Count(body, []byte(",")), shard.MaxMessages)+1)
	out := body[:0] // never reaches what was not looked at yet
	var sc scan
	start := 1
	for i, c := range body {
		if !sc.step(c) {
			continue
		}
		m := bytes.Trim(body[start:i], " \t\r\n")
		start = i + 1
		if len(m) == 0 {
			continue
		}
		if len(ends) == shard.MaxMessages {
			return shard.Messages{}, errTooMany
		}
		out = append(out, m...)
		ends = append(ends, uint32(len(out)))
	}
	if len(ends) == 0 {
		return shard.Messages{}, errNoneSent
	}
	return shard.SplitMessages(out, ends), nil
}

// scan walks JSON, byte by byte, and knows where the elements of its outermost
// array end.
type scan struct {
	depth             int
	inString, escaped bool
	begun, array      bool // the first byte was seen; it was a bracket
	ends              int
}

// step takes one byte; true: it ends an element.
func (s *scan) step(c byte) bool {
	switch {
	case s.escaped:
		s.escaped = false
	case s.inString && c == '\\':
		s.escaped = true
	case c == '"':
		s.inString = !s.inString
	case s.inString:
	case c == '[' || c == '{':
		s.depth++
	case (c == ']' || c == '}') && s.depth > 1:
		s.depth--
	case s.depth == 1 && (c == ',' || c == ']'):
		s.ends++
		return true
	}
	return false
}

// tooMany reports whether a body has more elements than one append may have, as
// far as it has come; b is what came last.
func (s *scan) tooMany(b []byte) bool {
	if !s.begun {
		b = bytes.TrimLeft(b, " \t\r\n")
		s.begun = len(b) > 0
		s.array = s.begun && b[0] == '['
	}
	if !s.array {
		return false
	}
	for _, c := range b {
		if s.step(c) && s.ends > shard.MaxMessages {
			return true
		}
	}
	return false
}
