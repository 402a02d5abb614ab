// Package parallel runs many calls concurrently.
package parallel

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// atOnce is the number of concurrent calls.
const atOnce = 32

// Do calls fn with 0 to count-1, many concurrently, and returns what failed. A worker that
// failed does nothing more.
func Do(count int, fn func(int) error) error {
	work, wait := Workers(atOnce, fn)
	for i := range count {
		work <- i
	}
	return wait()
}

// Workers starts n goroutines that call fn with what comes by work, where as many may wait.
// A worker that failed only takes what comes. wait ends them and returns what failed.
func Workers(n int, fn func(int) error) (work chan<- int, wait func() error) {
	queue, errs := make(chan int, n), make([]error, n)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for i := range queue {
				if errs[w] == nil {
					errs[w] = fn(i)
				}
			}
		})
	}
	return queue, func() error {
		close(queue)
		wg.Wait()
		return errors.Join(errs...)
	}
}

// During has every worker repeat what it does until the span is over or it fails, and
// returns how often that was in all, and how long it took.
func During(span time.Duration, workers []func() error) (count int64, took time.Duration, err error) {
	var all atomic.Int64
	errs := make([]error, len(workers))
	began := time.Now()
	var wg sync.WaitGroup
	for i, work := range workers {
		wg.Go(func() {
			n := int64(0)
			for ; time.Since(began) < span && errs[i] == nil; n++ {
				errs[i] = work()
			}
			all.Add(n)
		})
	}
	wg.Wait()
	return all.Load(), time.Since(began), errors.Join(errs...)
}
