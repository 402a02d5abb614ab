package placement

import (
	"sync"
	"time"
)

// askPreviousFor bounds the time after a change of owners in which the previous owner is asked for a
// stream.
const askPreviousFor = 15 * time.Second

// History holds the owner tables of the last askPreviousFor, newest last.
type History struct {
	mu       sync.Mutex
	current  *OwnerTable
	since    time.Time // when current became the table
	previous []previousTable
}

type previousTable struct {
	table *OwnerTable
	until time.Time
}

// NoteTable records the table of this moment, and reports whether it names other owners.
func (h *History) NoteTable(t *OwnerTable, now time.Time) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.previous) > 0 && now.After(h.previous[0].until) {
		h.previous = h.previous[1:]
	}
	if h.current != nil && t.SameOwners(h.current) { // the same owners, perhaps in another View
		h.current = t
		return false
	}
	if h.current != nil {
		h.previous = append(h.previous, previousTable{h.current, now.Add(askPreviousFor)})
	}
	h.current, h.since = t, now
	return true
}

// UnchangedFor returns for how long t, the table of this moment, has named the same owners. It is 0
// if NoteTable has not recorded t yet: owners change at a date, and NoteTable runs a moment later.
func (h *History) UnchangedFor(t *OwnerTable, now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current == nil || !t.SameOwners(h.current) {
		return 0
	}
	return now.Sub(h.since)
}

// PreviousTables returns the earlier tables, newest first. The dates of v count from the moment
// they pass, which may be before NoteTable is called.
func (h *History) PreviousTables(v *View, now time.Time) (out []*OwnerTable) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, flips := 0, v.TableChanges(); i < len(flips); i++ {
		if at := flips[len(flips)-1-i]; at.After(h.since) && !at.After(now) {
			out = append(out, v.TableAt(at.Add(-time.Millisecond)))
		}
	}
	for i := len(h.previous) - 1; i >= 0 && !now.After(h.previous[i].until); i-- {
		out = append(out, h.previous[i].table)
	}
	return out
}
