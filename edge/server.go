package edge

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/reactor"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// Server speaks Durable Streams over HTTP. It is an http.Handler.
type Server struct {
	cfg           Config
	roots         streamRoots
	streams       Backend
	metrics       *metrics
	writesBudget  writesBudget
	bodyGrace     time.Duration // the constant, except in tests
	frames        *sse.FrameCache
	readerBudget  *sendbudget.Budget // what is being written to readers of event streams
	catchUpBudget *sendbudget.Budget
	writeSlots    chan struct{} // a semaphore: see WriteSlots
	slotWriting   *netconn.WriteSlots
	// loadSlots is a semaphore: see maxChunkLoads.
	loadSlots  chan struct{}
	arraySlots chan struct{} // a semaphore: see maxArrayBuffers
	// compressHandler wraps reads for clients that accept compression; compressSlots is a
	// semaphore: see maxCompressors.
	compressHandler func(http.Handler) http.HandlerFunc
	compressSlots   chan struct{}
	// warningLimiter keeps the log readable while storage is down: one warning a second.
	warningLimiter   rate.Sometimes
	observeLimiter   rate.Sometimes // one line a second about what would be refused
	panics           *shard.PanicHandler
	forkCopyLimiter  *rate.Limiter // bytes that forks copy of their sources
	counts           readerCounts
	createWaits      createWaits
	closesConns      atomic.Bool // answers close their connections: see Leave
	reactor          *reactor.Reactor
	rules            *sse.Rules // of event streams
	leaseEnds        leaseEnds
	overstays        overstayWatch
	stopLeaseWatcher context.CancelFunc // ends watchLeases
	leaseWatcher     sync.WaitGroup
	appendConns      *netconn.AppendConns
	rebalanceSignals chan struct{} // unbuffered: a reader that receives leaves; see Rebalance
}
