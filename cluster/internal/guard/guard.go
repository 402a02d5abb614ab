// Package guard turns panics of a node's goroutines into errors.
package guard

import "github.com/fantail-dev/fantail/shard"

// ToError turns a panic into an error. It must be deferred itself, or it recovers nothing.
func ToError(p *shard.PanicHandler, where string, err *error) {
	if v := recover(); v != nil {
		*err = p.Handle(where, v)
	}
}
