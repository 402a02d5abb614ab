package reactor

import (
	"context"
	"log/slog"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// Config configures a Reactor. All fields are needed.
type Config struct {
	Rules  *sse.Rules
	Logger *slog.Logger
	// Now tells the Stream-Cursor.
	Now func() time.Time
	// ReadPage reads pages for readers below their tail buffer. It is called on goroutines of its own,
	// and returns a panic as an error.
	ReadPage func(ctx context.Context, from position.Segment, pos shard.Pos) (shard.RecordBatch, error)
	// Budget counts what is being written.
	Budget *sendbudget.Budget
	// Rebalance is sent one value for each reader that is to go to another node.
	Rebalance <-chan struct{}
	// OnClose is called after a reader's end.
	OnClose func()
	// OnPanic gets the panic that one reader caused. Its connection is closed.
	OnPanic func(v any)
	Metrics Metrics
}

// Metrics is told what the loops do.
type Metrics interface {
	CountSession(s *sse.Session) // has counts to be taken
	CountDelivered(messages, bytes int)
	ObserveDelivery(storedAt shard.Millis) // of the newest message of a turn
	CountMoved(why sse.EndReason)
	CountDisconnected(why sse.EndReason)
}
