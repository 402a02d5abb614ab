package shard

import (
	"encoding/binary"
)

func uvarints(vs ...uint64) []byte {
	b := make([]byte, 0, 24)
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func appendField(b []byte, tag byte, v []byte) []byte {
	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// fieldReader reads the values in a field's bytes. bad is set at the first malformed one, and stays
// set.
type fieldReader struct {
	b   []byte
	bad bool
}

func (r *fieldReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// restAsID returns the rest as an append id.
func (r *fieldReader) restAsID() (id AppendID) {
	r.bad = r.bad || len(r.b) != len(id)
	copy(id[:], r.b)
	r.b = nil
	return id
}

func (r *fieldReader) restAsString() string {
	s := string(r.b)
	r.b = nil
	return s
}

func (r *fieldReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *fieldReader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *fieldReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}
