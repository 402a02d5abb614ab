//go:build !linux

package reactor

import (
	"net/http"

	"github.com/fantail-dev/fantail/edge/sse"
)

// Reactor is Linux's; elsewhere every event stream has a goroutine.
type Reactor struct{}

func New(Config) *Reactor { return &Reactor{} }

// CanServe returns false.
func (*Reactor) CanServe(*http.Request) bool { return false }

// TakeOver returns false.
func (*Reactor) TakeOver(http.ResponseWriter, *http.Request, sse.Session, func(), bool) bool {
	return false
}

// Readers returns 0.
func (*Reactor) Readers() int { return 0 }

// RecheckSessions does nothing.
func (*Reactor) RecheckSessions() {}

// Close does nothing.
func (*Reactor) Close() {}
