package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/cluster/gossip"
	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
)

// Node is this node's access to every stream of the fleet: a stream that this node owns is served
// here, and any other by the peer that owns it. Its methods are those that an edge needs. They
// return the errors of package shard, and ErrUnavailable where no node that could serve the stream
// can be reached.
type Node struct {
	// Set at construction.
	cfg           Config
	self          string
	addr          string
	metrics       *metrics
	creds         *peertls.Credentials
	membership    *gossip.Membership
	peers         *transport.Peers
	local         *localStreams
	openPool      *openPool
	server        *transport.Server
	followLoop    *followLoop
	stateCalls    *stateCalls
	creationWaits creationWaits
	fed           fedReaders
	prober        storeProber     // the stream manager; nil if that is none of shard's
	ctx           context.Context // ends with Close
	stop          context.CancelFunc
	wg            sync.WaitGroup
	reconcileNow  chan struct{} // cap 1, never closed: wakes reconcileLoop
	leaveProgress chan struct{} // cap 1, never closed: wakes Leave
	dropSlots     chan struct{} // cap maxDropping: held by each goroutine that drops a stream

	history       placement.History
	hasMisplaced  atomic.Bool // the stream manager may hold streams that other nodes own
	backlog       atomic.Pointer[handoverBacklog]
	rights        atomic.Pointer[func() Rights] // see AnnounceRights; nil: nothing is announced
	reporter      atomic.Pointer[Reporter]      // see AnswerReports; nil: no question is answered
	hasShare      atomic.Bool                   // this node has received its share of the streams in use
	leaving       atomic.Bool
	readerCount   atomic.Int64           // see Balance
	storeHealth   storeHealth            // owned by reconcileLoop
	standingState standingState          // owned by reconcileLoop
	recordProblem atomic.Pointer[string] // why this node must own nothing: its fleet record differs
	storeOutage   atomic.Bool            // S2 answers no node, so this node serves without it
	skewWarning   rate.Sometimes
	modeWarnedAt  time.Time  // owned by reconcileLoop
	reconcileMu   sync.Mutex // held during reconcileStreams
	closeOnce     sync.Once

	mu      sync.Mutex
	changed chan struct{} // closed with the next View or link change; nil while no goroutine waits for it
	bridges map[*feedRef]bridge
}

// ListenAddrs returns the addresses on which gossip and the relay's server listen.
func (n *Node) ListenAddrs() (gossip, relay string) { return n.membership.ListenAddr(), n.addr }

// Name returns this node's member name.
func (n *Node) Name() string { return n.self }

// View returns the newest view of the fleet.
func (n *Node) View() *placement.View { return n.membership.View() }

func (n *Node) currentTable() *placement.OwnerTable {
	return n.membership.View().TableAt(n.cfg.Now())
}

// memberAnswers reports whether a member answers a ping of this node within pingTimeout.
func (n *Node) memberAnswers(ctx context.Context, m *placement.Member) bool {
	l := n.peers.Link(m.Name)
	return l != nil && l.Ping(ctx)
}

// linksChanged wakes everything that depends on which members can be reached.
func (n *Node) linksChanged() {
	n.mu.Lock()
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
	n.mu.Unlock()
	n.followLoop.scheduleAll()
	n.noteMisplaced()
	n.noteLeaveProgress()
}

// nextChange returns a channel that is closed when a View or a link changes after the call.
func (n *Node) nextChange() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.changed
}

// AwaitOwners waits until count members own streams and this node has a link to each of them.
func (n *Node) AwaitOwners(ctx context.Context, count int) error {
	for {
		changed := n.nextChange()
		if t := n.currentTable(); t.Len() >= count && n.reachesAll(t) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("await %d nodes: %w", count, context.Cause(ctx))
		}
	}
}

func (n *Node) reachesAll(t *placement.OwnerTable) bool {
	for _, m := range t.Owners() {
		if m.Name != n.self && n.peers.Link(m.Name) == nil {
			return false
		}
	}
	return true
}

// noteMisplaced records that the stream manager may hold streams that other nodes own.
func (n *Node) noteMisplaced() {
	n.hasMisplaced.Store(true)
	notify.Send(n.reconcileNow)
}

// noteLeaveProgress wakes Leave, if it runs: owners or links changed, or a stream may be left less.
func (n *Node) noteLeaveProgress() {
	if n.leaving.Load() {
		notify.Send(n.leaveProgress)
	}
}
