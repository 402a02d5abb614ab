package cluster

import (
	"container/heap"
	"time"
)

// stepQueue orders followers, or whatever T is, by the time of their next step, each at most once. After a change of
// owners it holds all of them, and all are scheduled, so no operation may be linear.
type stepQueue[T comparable] struct {
	heap   stepHeap[T]
	byItem map[T]*queuedStep[T]
}

type queuedStep[T comparable] struct {
	item  T
	at    time.Time
	index int // in the heap
}

// schedule sets the time of a follower's next step; the zero time removes it from the queue.
func (q *stepQueue[T]) schedule(item T, at time.Time) {
	e := q.byItem[item]
	switch {
	case e == nil && at.IsZero():
	case e == nil:
		if q.byItem == nil {
			q.byItem = map[T]*queuedStep[T]{}
		}
		e = &queuedStep[T]{item: item, at: at}
		q.byItem[item] = e
		heap.Push(&q.heap, e)
	case at.IsZero():
		heap.Remove(&q.heap, e.index)
		delete(q.byItem, item)
	default:
		e.at = at
		heap.Fix(&q.heap, e.index)
	}
}

// popDue removes a follower with a due step and returns it; false: there is none.
func (q *stepQueue[T]) popDue(now time.Time) (item T, ok bool) {
	if len(q.heap) == 0 || now.Before(q.heap[0].at) {
		return item, false
	}
	item = q.heap[0].item
	q.schedule(item, time.Time{})
	return item, true
}

// untilNext returns the time until the first step is due, an hour if there is none.
func (q *stepQueue[T]) untilNext(now time.Time) time.Duration {
	if len(q.heap) == 0 {
		return time.Hour
	}
	return q.heap[0].at.Sub(now)
}

// stepHeap implements heap.Interface.
type stepHeap[T comparable] []*queuedStep[T]

func (h stepHeap[T]) Len() int           { return len(h) }
func (h stepHeap[T]) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h stepHeap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *stepHeap[T]) Push(x any) {
	n, _ := x.(*queuedStep[T])
	n.index = len(*h)
	*h = append(*h, n)
}

func (h *stepHeap[T]) Pop() any {
	last := len(*h) - 1
	n := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return n
}
