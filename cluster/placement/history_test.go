package placement

import (
	"testing"
	"time"
)

// The previous owner of streams is asked for them for a while, and then no more, also on a node
// that hears of no other change.
func TestFormerOwnersAreForgotten(t *testing.T) {
	t.Parallel()
	var h History
	now := time.Now()
	v, first := tableOfNames("a", "b")
	_, second := tableOfNames("a", "c")
	h.NoteTable(first, now)
	h.NoteTable(second, now)
	if n := len(h.PreviousTables(v, now.Add(askPreviousFor))); n != 1 {
		t.Errorf("%d tables in time", n)
	}
	if n := len(h.PreviousTables(v, now.Add(askPreviousFor+time.Second))); n != 0 {
		t.Errorf("%d tables afterwards", n)
	}
}

// A View that changes without changing owners moves no stream.
func TestViewChangeWithoutOwnersMovesNothing(t *testing.T) {
	a, b := Member{Name: "a-1", RingKey: "a", RelayAddr: "x", OwnsUntil: Never, Revision: 1}, Member{Name: "b-1", RingKey: "b", RelayAddr: "y", OwnsUntil: Never, Revision: 1}
	var h History
	now := time.Unix(1000, 0)
	if !h.NoteTable(NewView([]Member{a}).TableAt(now), now) {
		t.Error("the first table is no change")
	}
	if !h.NoteTable(NewView([]Member{a, b}).TableAt(now), now.Add(time.Second)) {
		t.Error("another owner is no change")
	}
	b.Revision, b.HTTPAddr = 2, "elsewhere"
	if h.NoteTable(NewView([]Member{b, a}).TableAt(now), now.Add(5*time.Second)) {
		t.Error("a new address is a change")
	}
	if d := h.UnchangedFor(NewView([]Member{b, a}).TableAt(now), now.Add(11*time.Second)); d != 10*time.Second {
		t.Errorf("settled for %v", d)
	}
	if d := h.UnchangedFor(NewView([]Member{a}).TableAt(now), now.Add(11*time.Second)); d != 0 {
		t.Errorf("a change that is not noted yet: settled for %v", d)
	}
}
