// Package notify wakes a goroutine that waits for a channel of capacity one. Any number of
// notifications before it looks are one.
package notify

// Send puts a token into a channel of capacity one, unless one is there.
func Send(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
