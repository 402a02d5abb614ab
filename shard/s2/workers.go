package s2

import "sync"

// workers carries out the steps of feeds, on at most max goroutines. While there is nothing to do
// there is no goroutine.
type workers struct {
	max int

	mu      sync.Mutex
	queue   []*feed // each feed at most once
	running int
	idle    *sync.Cond // on mu: running became 0
}

func newWorkers(most int) *workers {
	w := &workers{max: max(most, 1)}
	w.idle = sync.NewCond(&w.mu)
	return w
}

// add queues a feed. It never waits.
func (w *workers) add(f *feed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, f)
	if w.running < w.max {
		w.running++
		go w.run()
	}
}

func (w *workers) run() {
	for {
		f := w.next()
		if f == nil {
			return
		}
		f.run()
	}
}

// next returns the feed whose turn it is; nil: there is none, and this goroutine ends.
func (w *workers) next() *feed {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.queue = nil
		if w.running--; w.running == 0 {
			w.idle.Broadcast()
		}
		return nil
	}
	f := w.queue[0]
	w.queue[0], w.queue = nil, w.queue[1:]
	return f
}

// wait returns once nothing is to be done.
func (w *workers) wait() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.running > 0 {
		w.idle.Wait()
	}
}
