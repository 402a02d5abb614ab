// Package unproven bounds the connections that have not proved anything yet, at gossip's port and at
// the relay's. It holds no goroutine and one lock.
package unproven
