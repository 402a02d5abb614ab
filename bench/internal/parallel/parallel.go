// Package parallel does many things at once.
package parallel

import (
	"errors"
	"sync"
)

// atOnce is how many are done at once.
const atOnce = 32

// Do calls fn with 0 to count-1, many at once. Of those that do things one after the
// other, one that fails goes no further; Do returns what failed.
func Do(count int, fn func(int) error) error {
	work := make(chan int)
	errs := make([]error, atOnce)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for i := range work {
				if errs[w] == nil {
					errs[w] = fn(i)
				}
			}
		})
	}
	for i := range count {
		work <- i
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}
