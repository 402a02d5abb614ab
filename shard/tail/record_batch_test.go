package tail

import (
	"bytes"
	"testing"
)

// A RecordBatch of the next layout is read without its extras.
func TestRecordBatchOfLayoutTwoIsRead(t *testing.T) {
	b := NewBuilder(5, 2, 3)
	b.Add(5, 6, []byte("ab"))
	b.Add(7, 8, []byte("c"))
	plain := b.Build(9, 8, 70, true).Bytes()
	two := bytes.Clone(plain)
	two[0], two[1] = 2, flagClosed|flagExtras
	extras := []byte{1, 0, 0, 0, 1, 'k', 0}
	r, err := ParseBatch(append(bytes.Clone(two), extras...))
	if err != nil || string(r.Payload()) != "abc" || string(r.Message(1).Body) != "c" || !r.Closed() {
		t.Fatalf("%v, %q", err, r.Payload())
	}
	if got := r.SliceFrom(6); string(got.Payload()) != "c" || got.Bytes()[0] != layoutVersion {
		t.Errorf("a part of it: %q, version %d", got.Payload(), got.Bytes()[0])
	}
	for name, bad := range map[string][]byte{
		"no extras":   two,
		"half extras": append(bytes.Clone(two), extras[:4]...),
		"more":        append(append(bytes.Clone(two), extras...), 0),
		"version 3":   append([]byte{3}, plain[1:]...),
		"key":         append(append(bytes.Clone(two), 0, 0xff, 0xff, 3), make([]byte, 1<<16)...),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseBatch(bad); err == nil {
				t.Errorf("%s was taken", name)
			}
		})
	}
	two[1] = flagClosed
	if _, err := ParseBatch(two); err != nil {
		t.Errorf("without extras: %v", err)
	}
}
