// Package wait waits for what processes come to.
package wait

import (
	"fmt"
	"time"
)

// For waits until ok says yes.
func For(within time.Duration, what string, ok func() bool) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); !ok(); <-tick.C {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %s", within, what)
		}
	}
	return nil
}
