package shard

import (
	"bytes"
	"fmt"
)

// Messages are the messages of a Request, in order: their bodies one after the other in one piece
// of memory, and where each ends. Beside its bytes a message costs four bytes; a single message
// costs none. A copy shares the memory, which is immutable.
type Messages struct {
	body []byte
	ends []uint32 // nil: body is one message or, if it is empty, none
}

// NewMessages returns the messages with the given bodies. It keeps the body of a single message,
// and copies several.
func NewMessages(bodies ...[]byte) (m Messages) {
	if len(bodies) == 1 {
		m.Add(bodies[0])
		return m
	}
	m.body = bytes.Join(bodies, nil)
	m.ends = make([]uint32, len(bodies))
	end := uint32(0)
	for i, b := range bodies {
		end += uint32(len(b))
		m.ends[i] = end
	}
	return SplitMessages(m.body, m.ends)
}

// SplitMessages returns the messages that lie in body one after the other and end at ends, which
// ascend up to the length of body. It keeps both slices.
func SplitMessages(body []byte, ends []uint32) Messages {
	if len(ends) <= 1 {
		ends = nil
	}
	return Messages{body, ends}
}

// Add appends a message. Copies that share memory with m stay as they are.
func (m *Messages) Add(b []byte) {
	if m.Len() == 0 {
		*m = Messages{body: b[:len(b):len(b)]}
		return
	}
	if m.ends == nil {
		m.ends = []uint32{uint32(len(m.body))}
	}
	m.body = append(m.body[:len(m.body):len(m.body)], b...)
	m.ends = append(m.ends[:len(m.ends):len(m.ends)], uint32(len(m.body)))
}

// Len returns the number of messages.
func (m Messages) Len() int {
	switch {
	case m.ends != nil:
		return len(m.ends)
	case len(m.body) > 0:
		return 1
	default:
		return 0
	}
}

// Size returns the size of all bodies together.
func (m Messages) Size() int { return len(m.body) }

// Body returns all bodies, one after the other. Shared; must not be changed.
func (m Messages) Body() []byte { return m.body }

// At returns the body of message i, 0 ≤ i < Len. Shared; must not be changed.
func (m Messages) At(i int) []byte {
	if m.ends == nil {
		return m.body
	}
	start := uint32(0)
	if i > 0 {
		start = m.ends[i-1]
	}
	return m.body[start:m.ends[i]:m.ends[i]]
}

// String returns the number and the size of the messages.
func (m Messages) String() string { return fmt.Sprintf("%d messages of %d bytes", m.Len(), m.Size()) }

// GoString returns what String returns: the bodies fill pages.
func (m Messages) GoString() string { return m.String() }

// Equal reports whether both are the same messages.
func (m Messages) Equal(n Messages) bool {
	if m.Len() != n.Len() || !bytes.Equal(m.body, n.body) {
		return false
	}
	for i := range m.ends {
		if m.ends[i] != n.ends[i] {
			return false
		}
	}
	return true
}
