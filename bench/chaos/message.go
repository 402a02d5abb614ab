package main

import (
	"bytes"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
)

// A message names its writer and its time, so that each reader knows what is due
// next. Its form is fixed, which makes it cheap to take apart for thousands of
// readers, and it holds nothing that JSON would escape.
type message struct {
	stream, writer, number int
	sent                   int64 // when it was first sent, in µs
}

// The places of the fields in "s=0000 w=00 n=0000000 t=0000000000000000 … c=00000000".
const (
	atStream, atWriter, atNumber, atSent, headLen = 2, 9, 14, 24, 40
	sumLen                                        = len(" c=00000000")
)

// encode makes a message of at least size bytes.
func (m message) encode(size int) []byte {
	b := fmt.Appendf(nil, "s=%04d w=%02d n=%07d t=%016d", m.stream, m.writer, m.number, m.sent)
	if pad := size - len(b) - sumLen; pad > 0 {
		b = append(append(b, ' '), bytes.Repeat([]byte("x"), pad)...)
	}
	return fmt.Appendf(b, " c=%08x", crc32.ChecksumIEEE(b))
}

// decode takes a message apart; false if a single bit of it is wrong.
func decode(b []byte) (m message, ok bool) {
	if len(b) < headLen+sumLen {
		return m, false
	}
	var sum uint32
	for _, c := range b[len(b)-8:] {
		sum = sum<<4 | uint32(hexDigit(c))
	}
	body, tail := b[:len(b)-sumLen], b[len(b)-sumLen:]
	if string(tail[:3]) != " c=" || sum != crc32.ChecksumIEEE(body) {
		return m, false
	}
	m.stream, m.writer = int(digits(b[atStream:][:4])), int(digits(b[atWriter:][:2]))
	m.number, m.sent = int(digits(b[atNumber:][:7])), digits(b[atSent:headLen])
	return m, true
}

func hexDigit(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

func digits(b []byte) (n int64) {
	for _, c := range b {
		n = 10*n + int64(c-'0')
	}
	return n
}

// chain returns a number for a run of messages: another order, or another run, has another
// number.
func chain(before uint64, b []byte) uint64 {
	return (before ^ xxhash.Sum64(b)) * 0x9E3779B97F4A7C15
}

// each calls fn with every message of a JSON array of them.
func each(array []byte, fn func([]byte)) {
	for {
		begin := bytes.IndexByte(array, '"')
		if begin < 0 {
			return
		}
		array = array[begin+1:]
		end := bytes.IndexByte(array, '"')
		if end < 0 {
			return
		}
		fn(array[:end])
		array = array[end+1:]
	}
}
