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
func (q *stepQueue) schedule(f *follower, at time.Time) {
	e := q.byFollower[f]
	switch {
	case e == nil && at.IsZero():
	case e == nil:
		if q.byFollower == nil {
			q.byFollower = map[*follower]*queuedStep{}
		}
		e = &queuedStep{follower: f, at: at}
		q.byFollower[f] = e
		heap.Push(&q.heap, e)
	case at.IsZero():
		heap.Remove(&q.heap, e.index)
		delete(q.byFollower, f)
	default:
		e.at = at
		heap.Fix(&q.heap, e.index)
	}
}

// popDue removes a follower with a due step and returns it; nil: there is none.
func (q *stepQueue) popDue(now time.Time) *follower {
	if len(q.heap) == 0 || now.Before(q.heap[0].at) {
		return nil
	}
	f := q.heap[0].follower
	q.schedule(f, time.Time{})
	return f
}

// untilNext returns the time until the first step is due, an hour if there is none.
func (q *stepQueue) untilNext(now time.Time) time.Duration {
	if len(q.heap) == 0 {
		return time.Hour
	}
	return q.heap[0].at.Sub(now)
}

// stepHeap implements heap.Interface.
type stepHeap []*queuedStep

func (h stepHeap) Len() int           { return len(h) }
func (h stepHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h stepHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *stepHeap) Push(x any) {
	n, _ := x.(*queuedStep)
	n.index = len(*h)
	*h = append(*h, n)
}

func (h *stepHeap) Pop() any {
	last := len(*h) - 1
	n := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return n
}
