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
func (p *History) NoteTable(t *OwnerTable, now time.Time) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.previous) > 0 && now.After(p.previous[0].until) {
		p.previous = p.previous[1:]
	}
	if p.current != nil && t.SameOwners(p.current) { // the same owners, perhaps in another View
		p.current = t
		return false
	}
	if p.current != nil {
		p.previous = append(p.previous, previousTable{p.current, now.Add(askPreviousFor)})
	}
	p.current, p.since = t, now
	return true
}

// UnchangedFor returns for how long t, the table of this moment, has named the same owners. It is 0
// if NoteTable has not recorded t yet: owners change at a date, and NoteTable runs a moment later.
func (p *History) UnchangedFor(t *OwnerTable, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil || !t.SameOwners(p.current) {
		return 0
	}
	return now.Sub(p.since)
}

// PreviousTables returns the earlier tables, newest first. The dates of v count from the moment
// they pass, which may be before NoteTable is called.
func (p *History) PreviousTables(v *View, now time.Time) (out []*OwnerTable) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, flips := 0, v.TableChanges(); i < len(flips); i++ {
		if at := flips[len(flips)-1-i]; at.After(p.since) && !at.After(now) {
			out = append(out, v.TableAt(at.Add(-time.Millisecond)))
		}
	}
	for i := len(p.previous) - 1; i >= 0 && !now.After(p.previous[i].until); i-- {
		out = append(out, p.previous[i].table)
	}
	return out
}
