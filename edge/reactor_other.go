//go:build !linux

package edge

import (
	"net/http"
)

// reactor is Linux's; elsewhere every event stream has a goroutine.
type reactor struct{}

type loop struct{}

func newReactor(*Server) *reactor { return &reactor{} }

func (*reactor) canServe(*http.Request) bool { return false }

func (*reactor) takeOver(http.ResponseWriter, *http.Request, *eventStream) bool { return false }

func (*reactor) postToAll(func(*loop)) {}

func (*reactor) close() {}

func (*loop) onDrainChange() {}
