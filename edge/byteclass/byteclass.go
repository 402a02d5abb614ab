package byteclass

import "strings"

// Class is a set of kinds of text; a byte has the kinds in which it may occur.
type Class uint8

// The kinds.
const (
	Target Class = 1 << iota // printable ASCII without a space
	Token                    // RFC 9110, 5.6.2
	Value                    // printable ASCII, spaces and tabs
	Digits
	Text // printable ASCII and spaces
	Tag  // an entity tag, or a list of them
)

// String describes the values of the class.
func (c Class) String() string {
	switch c {
	case Digits:
		return "digits"
	case Target:
		return "printable ASCII without spaces"
	case Token:
		return "a token"
	case Tag:
		return "no control characters"
	default:
		return "printable ASCII"
	}
}

var classes = func() (c [256]Class) {
	for b := byte(' '); b < 0x7f; b++ {
		c[b] |= Value | Text | Tag
		if b != ' ' {
			c[b] |= Target
		}
		if b >= '0' && b <= '9' {
			c[b] |= Digits
		}
		if !strings.ContainsRune(" \"(),/:;<=>?@[\\]{}", rune(b)) {
			c[b] |= Token
		}
	}
	c['\t'] |= Value | Tag
	for b := 0x80; b <= 0xff; b++ {
		c[b] |= Tag
	}
	return c
}()

// Has reports whether a byte is of the class.
func (c Class) Has(b byte) bool { return classes[b]&c != 0 }

// All reports whether every byte of s is of the class.
func All(s string, of Class) bool {
	for i := range len(s) {
		if classes[s[i]]&of == 0 {
			return false
		}
	}
	return true
}
