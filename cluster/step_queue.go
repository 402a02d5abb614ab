package cluster

import (
	"container/heap"
	"time"
)

// stepQueue orders followers by the time of their next step, each at most once. After a change of
// owners it holds all of them, and all are scheduled, so no operation may be linear.
type stepQueue struct {
	heap       stepHeap
	byFollower map[*follower]*queuedStep
}

type queuedStep struct {
	follower *follower
	at       time.Time
	index    int // in the heap
}

// schedule sets the time of a follower's next step; the zero time removes it from the queue.
func (a *stepQueue) schedule(f *follower, at time.Time) {
	e := a.byFollower[f]
	switch {
	case e == nil && at.IsZero():
	case e == nil:
		if a.byFollower == nil {
			a.byFollower = map[*follower]*queuedStep{}
		}
		e = &queuedStep{follower: f, at: at}
		a.byFollower[f] = e
		heap.Push(&a.heap, e)
	case at.IsZero():
		heap.Remove(&a.heap, e.index)
		delete(a.byFollower, f)
	default:
		e.at = at
		heap.Fix(&a.heap, e.index)
	}
}

// popDue removes a follower with a due step and returns it; nil: there is none.
func (a *stepQueue) popDue(now time.Time) *follower {
	if len(a.heap) == 0 || now.Before(a.heap[0].at) {
		return nil
	}
	f := a.heap[0].follower
	a.schedule(f, time.Time{})
	return f
}

// untilNext returns the time until the first step is due, an hour if there is none.
func (a *stepQueue) untilNext(now time.Time) time.Duration {
	if len(a.heap) == 0 {
		return time.Hour
	}
	return a.heap[0].at.Sub(now)
}

// stepHeap implements heap.Interface.
type stepHeap []*queuedStep

func (e stepHeap) Len() int           { return len(e) }
func (e stepHeap) Less(i, j int) bool { return e[i].at.Before(e[j].at) }

func (e stepHeap) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].index, e[j].index = i, j
}

func (e *stepHeap) Push(x any) {
	n, _ := x.(*queuedStep)
	n.index = len(*e)
	*e = append(*e, n)
}

func (e *stepHeap) Pop() any {
	last := len(*e) - 1
	n := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return n
}
