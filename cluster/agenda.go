package cluster

import (
	"container/heap"
	"time"
)

// agenda is when followers are to be looked at again, each at most once. After a change of
// owners it has all of them, and news of each: nothing here may look at all.
type agenda struct {
	entries entries
	of      map[*follower]*entry
}

type entry struct {
	f  *follower
	at time.Time
	i  int // in entries
}

// put has a follower looked at at some time, instead of when it was put down for; zero:
// not at all.
func (a *agenda) put(f *follower, at time.Time) {
	e := a.of[f]
	switch {
	case e == nil && at.IsZero():
	case e == nil:
		if a.of == nil {
			a.of = map[*follower]*entry{}
		}
		e = &entry{f: f, at: at}
		a.of[f] = e
		heap.Push(&a.entries, e)
	case at.IsZero():
		heap.Remove(&a.entries, e.i)
		delete(a.of, f)
	default:
		e.at = at
		heap.Fix(&a.entries, e.i)
	}
}

// due takes one whose time has come; nil: there is none.
func (a *agenda) due(now time.Time) *follower {
	if len(a.entries) == 0 || now.Before(a.entries[0].at) {
		return nil
	}
	f := a.entries[0].f
	a.put(f, time.Time{})
	return f
}

// wait is how long the first has time, an hour if there is none.
func (a *agenda) wait(now time.Time) time.Duration {
	if len(a.entries) == 0 {
		return time.Hour
	}
	return a.entries[0].at.Sub(now)
}

// entries implements heap.Interface.
type entries []*entry

func (e entries) Len() int           { return len(e) }
func (e entries) Less(i, j int) bool { return e[i].at.Before(e[j].at) }

func (e entries) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].i, e[j].i = i, j
}

func (e *entries) Push(x any) {
	n, _ := x.(*entry)
	n.i = len(*e)
	*e = append(*e, n)
}

func (e *entries) Pop() any {
	last := len(*e) - 1
	n := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return n
}
