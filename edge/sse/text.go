package sse

import (
	"bytes"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/shard"
)

// otherCharset reports whether a content type declares a charset that an event stream, which is
// UTF-8, cannot carry as text. A content type that cannot be parsed may declare one.
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

// textBoundary records what a reader of text must know of the text before its position, so that the result
// is the same whichever messages share an event: a CRLF may be split between two messages, and
// so may a character.
type textBoundary struct {
	kind      boundaryKind
	skipBytes uint8 // how many bytes of an abandoned character to skip if they come
}

type boundaryKind uint8

const (
	// boundaryPlain: nothing before the position matters.
	boundaryPlain boundaryKind = iota
	// boundaryAfterCR: a CR comes before it and was shown as a line break, so an LF after it is not another.
	boundaryAfterCR
	// boundaryUnknown: the reader began here. What comes before matters only if the next byte is an LF,
	// and is looked up only then: see Session.beginLookBack.
	boundaryUnknown
)

// characterRest is the most bytes of a character that may follow its first.
const characterRest = utf8.UTFMax - 1

// bytesToSkip returns how many bytes at the start of b the reader has been shown already: the rest of a
// character, or the second half of a line break. ok is false if that is not known.
func (t textBoundary) bytesToSkip(b []byte) (n int, ok bool) {
	for n < min(int(t.skipBytes), len(b)) && !utf8.RuneStart(b[n]) {
		n++
	}
	if n > 0 || len(b) == 0 || b[0] != '\n' {
		return n, true
	}
	if t.kind == boundaryAfterCR {
		n = 1
	}
	return n, t.kind != boundaryUnknown
}

// after returns the boundary behind b, of which skipped bytes were skipped.
func (t textBoundary) after(b []byte, skipped int) textBoundary {
	switch n := len(b); {
	case n == 0:
		return t
	case b[n-1] == '\r':
		return textBoundary{kind: boundaryAfterCR}
	case skipped == n && b[0] != '\n':
		return textBoundary{skipBytes: t.skipBytes - uint8(n)}
	default:
		return textBoundary{}
	}
}

// unfinishedCharacter returns how many bytes b has of a UTF-8 character that it does not finish, and how
// many are missing; 0, 0: it finishes its last character.
func unfinishedCharacter(b []byte) (size, lacks int) {
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

// replacement is shown for a character that was never finished.
var replacement = []byte(string(utf8.RuneError))

// joinText returns the text of messages for a reader at a boundary, and the boundary behind it. The text
// ends between two characters.
func joinText(messages [][]byte, t textBoundary) ([]byte, textBoundary) {
	whole := bytes.Join(messages, nil)
	n, _ := t.bytesToSkip(whole)
	t = t.after(whole, n)
	text := whole[n:]
	if size, lacks := unfinishedCharacter(text); size > 0 {
		text = append(text[:len(text)-size], replacement...)
		t = textBoundary{skipBytes: uint8(lacks)}
	}
	return text, t
}

// heldMessage is a message with the generation of its position: a character may be split at the
// position where a stream was forked.
type heldMessage struct {
	shard.Message
	generation shard.Generation
}

// endInsideCharacter reports whether the messages, joined, end inside a UTF-8 character.
func endInsideCharacter(messages []heldMessage) bool {
	var end [utf8.UTFMax - 1]byte // the last bytes of the messages: as many as an unfinished character can have
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
