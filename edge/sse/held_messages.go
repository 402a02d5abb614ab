package sse

import (
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Held messages are released when the rest of the character has not come for MaxHeldTime, or when
// they are more than one message and more than maxHeldBytes. A writer may have died inside a
// character, and text that is not UTF-8 may look the same. The half is then shown as U+FFFD, and the
// reader continues at the next character. So of broken text two readers may see two versions;
// catch-up is exact.
const (
	maxHeldBytes = 256 << 10
	MaxHeldTime  = time.Second
)

// heldUpTo identifies the held messages by the position after them; 0: there are none.
func (s *Session) heldUpTo() shard.Pos {
	if len(s.heldMessages) == 0 {
		return 0
	}
	return s.heldMessages[len(s.heldMessages)-1].Next
}

// frameHeld adds held messages to the output, as a frame of the reader's own, up to the last message
// that does not end inside a character; all: up to the last message.
func (s *Session) frameHeld(last *frame, all bool) *frame {
	n := len(s.heldMessages)
	if s.frames.key.Framing == FramingText && !all {
		for n > 0 && endInsideCharacter(s.heldMessages[:n]) {
			n--
		}
	}
	bodies, size := make([][]byte, len(s.heldMessages)), 0
	for i, m := range s.heldMessages {
		bodies[i] = m.Body
		size += len(m.Body)
	}
	if n == 0 && len(s.heldMessages) > 1 && size > maxHeldBytes {
		n = len(s.heldMessages)
	}
	if n == 0 {
		return last
	}
	bodies = bodies[:n]
	if s.frames.key.Framing == FramingText {
		var text []byte
		text, s.boundary = joinText(bodies, s.boundary)
		bodies = [][]byte{text}
	}
	f := newFrame(s.frames.key.Framing, s.heldMessages[n-1].generation, s.heldMessages[n-1].Next, s.out.cursor, bodies)
	f.messages = n
	s.heldMessages = append([]heldMessage(nil), s.heldMessages[n:]...)
	return s.appendFrame(last, f)
}
