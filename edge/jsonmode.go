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
// messages refer to body.
func splitJSON(body []byte) ([][]byte, error) {
	body = bytes.Trim(body, " \t\r\n")
	if !json.Valid(body) || !utf8.Valid(body) {
		return nil, errJSON
	}
	if body[0] != '[' {
		return [][]byte{body}, nil
	}
	var out [][]byte
	depth, inString, start := 0, false, 1
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			depth++
		case (c == ']' || c == '}') && depth > 1:
			depth--
		case depth == 1 && (c == ',' || c == ']'):
			if m := bytes.Trim(body[start:i], " \t\r\n"); len(m) > 0 {
				out = append(out, m)
			}
			start = i + 1
		}
		if len(out) > shard.MaxMessages {
			return nil, errTooMany
		}
	}
	if len(out) == 0 {
		return nil, errNoneSent
	}
	return out, nil
}
