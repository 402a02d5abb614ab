package edge

import (
	"bytes"
	"mime"
	"strings"
	"unicode/utf8"
)

// otherCharset reports whether a content type declares a charset that an event stream, which is
// UTF-8, cannot carry as text. What nobody can parse may declare one.
func otherCharset(contentType string) bool {
	if !strings.Contains(contentType, ";") {
		return false
	}
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return strings.Contains(strings.ToLower(contentType), "charset")
	}
	switch strings.ToLower(strings.TrimSpace(params["charset"])) {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return false
	}
	return true
}

// joint is what a reader of text has to know of what stands before its place, so that the
// text is the same whichever messages share an event: a CRLF may lie across two of them, and
// so may a character.
type joint struct {
	kind jointKind
	left uint8 // bytes of a character that was given up, which are passed over if they come
}

type jointKind uint8

const (
	// jointNone: nothing that matters.
	jointNone jointKind = iota
	// jointCR: a CR, which was shown as a line break. An LF after it is none.
	jointCR
	// jointUnknown: the reader began here. What matters only if an LF comes first is looked up
	// then, and not before: see cursor.lookBack.
	jointUnknown
)

// characterRest is the most bytes of a character that may follow its first.
const characterRest = utf8.UTFMax - 1

// skips is how many bytes at the start of b the reader has been shown already: the rest of a
// character, or the second half of a line break. ok is false if that is not known.
func (j joint) skips(b []byte) (n int, ok bool) {
	for n < min(int(j.left), len(b)) && !utf8.RuneStart(b[n]) {
		n++
	}
	if n > 0 || len(b) == 0 || b[0] != '\n' {
		return n, true
	}
	if j.kind == jointCR {
		n = 1
	}
	return n, j.kind != jointUnknown
}

// after is the joint behind b, of which skipped bytes were passed over.
func (j joint) after(b []byte, skipped int) joint {
	switch n := len(b); {
	case n == 0:
		return j
	case b[n-1] == '\r':
		return joint{kind: jointCR}
	case skipped == n && b[0] != '\n':
		return joint{left: j.left - uint8(n)}
	default:
		return joint{}
	}
}

// unfinished is the length of the UTF-8 character that b ends inside of, as far as it goes, and
// how many bytes it lacks; 0, 0: b does not end inside one.
func unfinished(b []byte) (size, lacks int) {
	for size = 1; size <= min(characterRest, len(b)); size++ {
		c := b[len(b)-size]
		switch {
		case !utf8.RuneStart(c):
			continue
		case utf8.FullRune(b[len(b)-size:]):
			return 0, 0
		case c >= 0xf0:
			return size, 4 - size
		case c >= 0xe0:
			return size, 3 - size
		default:
			return size, 2 - size
		}
	}
	return 0, 0
}

// replacement is what stands for a character whose rest has not come.
var replacement = []byte(string(utf8.RuneError))

// joined is the text of messages for a reader at a joint, and the joint behind it. It ends
// between two characters.
func joined(messages [][]byte, j joint) ([]byte, joint) {
	whole := bytes.Join(messages, nil)
	n, _ := j.skips(whole)
	j = j.after(whole, n)
	text := whole[n:]
	if size, lacks := unfinished(text); size > 0 {
		text = append(text[:len(text)-size], replacement...)
		j = joint{left: uint8(lacks)}
	}
	return text, j
}
