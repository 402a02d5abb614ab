package edge

import (
	"sync"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/sse"
)

// overstayWatch holds the readers that have a goroutine and a stay. Their goroutine may hang in a write
// while the right ends: those that have not ended sse.MaxOverstay later are cut off. (The reactor does
// that for its own.) The time is when the right was first found to be over.
type overstayWatch struct {
	mu      sync.Mutex
	readers map[*eventStream]time.Time
}

func (o *overstayWatch) add(e *eventStream) {
	if e.stay.permit() == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.readers == nil {
		o.readers = map[*eventStream]time.Time{}
	}
	o.readers[e] = time.Time{}
}

func (o *overstayWatch) remove(e *eventStream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.readers, e)
}

// cutOverstayed looks at the readers that are being written to; a reader that is not ends by itself.
func (o *overstayWatch) cutOverstayed(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for e, over := range o.readers {
		switch {
		case !over.IsZero() && now.Sub(over) >= sse.MaxOverstay:
			e.overstayed.Store(true)
			e.out.Disconnect()
		case over.IsZero() && e.out.BlockedFor(time.Now()) > 0:
			if why, at := e.stay.findEnd(now); why == access.EndRevoked || why != access.EndNone && !at.After(now) {
				o.readers[e] = now
			}
		}
	}
}
