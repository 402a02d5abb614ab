package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/shard"
)

var (
	errJSON       = errors.New("the body is not valid JSON")
	errTooMany    = errors.New("too many messages in one append")
	errEmptyArray = errors.New("the array is empty")
)

// splitJSON splits a JSON body: the elements of an array, one level deep,
// each as its own bytes; any other value is one message (PROTOCOL 9.1). The
// messages are laid out in body.
func splitJSON(body []byte) (shard.Messages, error) {
	body = bytes.Trim(body, " \t\r\n")
	if !json.Valid(body) || !utf8.Valid(body) {
		return shard.Messages{}, errJSON
	}
	if body[0] != '[' {
		return shard.NewMessages(body), nil
	}
	// Each element but the last ends at a comma, so there are at most this many.
	ends := make([]uint32, 0, min(bytes.Count(body, []byte(",")), shard.MaxMessages)+1)
	out := body[:0] // never overtakes the scan
	var sc elementScanner
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
		return shard.Messages{}, errEmptyArray
	}
	return shard.SplitMessages(out, ends), nil
}

// elementScanner reads JSON byte by byte, and finds where the elements of its outermost
// array end.
type elementScanner struct {
	depth             int
	inString, escaped bool
	begun, array      bool // the first byte was read; it was a bracket
	elements          int
}

// step reads one byte and reports whether it ends an element.
func (s *elementScanner) step(c byte) bool {
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
		s.elements++
		return true
	}
	return false
}

// tooMany reports whether the part of a body that has arrived has more elements than one append may
// have; b is the newest part.
func (s *elementScanner) tooMany(b []byte) bool {
	if !s.begun {
		b = bytes.TrimLeft(b, " \t\r\n")
		s.begun = len(b) > 0
		s.array = s.begun && b[0] == '['
	}
	if !s.array {
		return false
	}
	for _, c := range b {
		if s.step(c) && s.elements > shard.MaxMessages {
			return true
		}
	}
	return false
}
