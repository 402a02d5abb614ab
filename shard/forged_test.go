package shard

import (
	"fmt"
	"testing"
)

// Who may write to S2 may write what looks like ours. It must not take the node along.

// Parts of an append that never ends are not held beyond what an append may be.
func TestForgedRun(t *testing.T) {
	const size = 1 << 19
	s, asm := &State{}, assembler{}
	id := NewAppendID()
	most := 0
	for pos := range uint64(4 * MaxBody / size) {
		h := Header{Kind: KindMessage, Flags: FlagPart, Append: id}
		if pos == 0 {
			h.Flags |= FlagFirst
		}
		r := Record{Pos: pos, Header: h.encode(pos), Body: make([]byte, size)}
		e, err := s.apply(r)
		if err != nil {
			t.Fatal(err)
		}
		asm.add(r, e)
		asm.flush(s)
		held := 0
		for _, p := range asm.held {
			held += p.size()
		}
		most = max(most, held)
	}
	if most < MaxBody-size || most > MaxBody || len(asm.held) > 0 || s.run != nil {
		t.Errorf("%d bytes held at most, %d pieces in the end, in a run: %v", most, len(asm.held), s.run != nil)
	}
}

// A state that no checkpoint has room for keeps nobody from writing.
func TestForgedState(t *testing.T) {
	s := &State{exists: true, life: 1, typ: "text/plain", sinceBytes: overdueBytes, held: map[AppendID]holder{}}
	for range 2 * MaxBatchBytes / 100 {
		s.held[NewAppendID()] = holder{stream: StreamID(fmt.Sprintf("%0100d", 0))}
	}
	b, n := compose(s, []*call{{req: &Request{Op: OpAppend, Type: "text/plain", ID: NewAppendID(), Messages: NewMessages([]byte("a"))}}}, 1, 0)
	if n != 1 || len(b.calls) != 1 || len(b.entries) == 0 {
		t.Errorf("%d taken, %d calls, %d entries: %+v", n, len(b.calls), len(b.entries), b.verdicts)
	}
}
