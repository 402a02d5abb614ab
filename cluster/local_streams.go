package cluster

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// streamManager is the stream manager that runs the streams which this node serves: *shard.Manager.
type streamManager interface {
	Do(ctx context.Context, req *shard.Request) (shard.Outcome, error)
	Info(ctx context.Context, id shard.StreamID, ask shard.InfoOptions) (shard.Info, error)
	Follow(ctx context.Context, id shard.StreamID, from shard.Pos) (*shard.TailBuffer, func(), error)
	AwaitCreation(id shard.StreamID, w shard.Waker) (stop func(), err error)
	ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos) (shard.RecordBatch, error)
	ReadPageVia(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos, ask func(context.Context) (shard.RecordBatch, error)) (shard.RecordBatch, error)
	FindTime(ctx context.Context, id shard.StreamID, info shard.Info, since shard.Millis) (shard.Pos, error)
	FindTimeVia(ctx context.Context, id shard.StreamID, info shard.Info, since shard.Millis, ask func(context.Context) (shard.Pos, error)) (shard.Pos, error)
	OwnedStreams() []shard.StreamID
	HotStreams(within time.Duration) []shard.StreamID
	HasStream(id shard.StreamID) bool
	EndSession(id shard.StreamID)
	DropUnused(id shard.StreamID) bool
	HandOver(id shard.StreamID, from shard.Pos) (shard.Handover, bool)
	InstallHandover(id shard.StreamID, h shard.Handover) error
	// ExpectRivals is called when streams are taken over from an owner that may still write.
	ExpectRivals()
	// ExpectRival is called when another node may write to a stream that is here.
	ExpectRival(id shard.StreamID)
	StoreDown() bool
}

// storeProber tells what the stream manager knows of S2. It is a *shard.Manager.
type storeProber interface {
	Standing() shard.Standing
	ProbeNow()
	StorageAnswered() (last, silentSince time.Time)
}

// Timing of transfers.
const (
	// incomingWait bounds the wait for a stream that is arriving at this node while the next owner
	// already asks for it.
	incomingWait = 500 * time.Millisecond
	// handedOverFor bounds how long a node refuses a stream that it has handed over.
	handedOverFor = 5 * time.Second
)

// localStreams adds rules to the stream manager. A stream is released only while no subscriber on
// this node is fed by it, or once another node feeds them. No request begins to use a stream that
// is arriving or leaving: the stream manager never feeds a dropped tail buffer again, so its
// readers would wait forever. A stream that is not here is first fetched from its previous owner,
// if it had another one recently.
type localStreams struct {
	manager streamManager
	node    localHost

	mu         sync.Mutex
	feedRefs   map[shard.StreamID]*feedRef    // feeds taken from the stream manager
	transfers  map[shard.StreamID]*transfer   // streams that are arriving here or leaving
	handedOver map[shard.StreamID]redirection // streams handed over within the last handedOverFor
}

// feedRef counts the feeds of one stream. They end together, when the stream is handed over.
type feedRef struct {
	count      int         // guarded by localStreams.mu: feeds that were not released
	handedOver atomic.Bool // the stream manager feeds them no more
}

// transfer is a stream's arrival here, or its departure.
type transfer struct {
	done     chan struct{} // closed when it is over
	incoming bool
}

// redirection is the node that a stream went to, and until when requests for it are sent there.
type redirection struct {
	to    placement.PeerAddr
	until time.Time
}

// localHost answers what localStreams asks of its node. It is a *Node.
type localHost interface {
	// fetchHandover fetches a stream from its previous owner, and calls install with what that hands over.
	fetchHandover(ctx context.Context, id shard.StreamID, force bool, install func(shard.Handover))
	// noteLeaveProgress is called when the last feed of a stream has ended. It must not block.
	noteLeaveProgress()
}

func newLocalStreams(h streamManager, node localHost) *localStreams {
	return &localStreams{
		manager: h, node: node, feedRefs: map[shard.StreamID]*feedRef{},
		transfers: map[shard.StreamID]*transfer{}, handedOver: map[shard.StreamID]redirection{},
	}
}

// localFeed is a feed from the stream manager. Its holder calls release exactly once, even if the
// stream was handed over.
type localFeed struct {
	ref     *feedRef
	release func()
}

// startFeed has the stream manager feed the stream's tail buffer. With force it does so even if the
// stream was handed over.
func (l *localStreams) startFeed(ctx context.Context, id shard.StreamID, from shard.Pos, force bool) (
	*shard.TailBuffer, localFeed, error,
) {
	u, err := l.acquire(ctx, id, 1, force)
	if err != nil {
		return nil, localFeed{}, err
	}
	t, release, err := l.manager.Follow(ctx, id, from)
	if err != nil {
		l.releaseRef(id, u)
		return nil, localFeed{}, err
	}
	return t, localFeed{u, func() {
		release()
		l.releaseRef(id, u)
	}}, nil
}

// releaseRef drops one reference.
func (l *localStreams) releaseRef(id shard.StreamID, u *feedRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u.count--; u.count > 0 {
		return
	}
	if l.feedRefs[id] == u {
		delete(l.feedRefs, id)
	}
	l.node.noteLeaveProgress()
}

// hasRefs reports whether any of the feeds that u counts is left.
func (l *localStreams) hasRefs(u *feedRef) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return u.count > 0
}

// acquire waits until the stream neither arrives nor leaves, fetches it if it is not here, and adds
// refs to its feed references. It returns a *RedirectError if the stream was handed over, unless
// force is set.
func (l *localStreams) acquire(ctx context.Context, id shard.StreamID, refs int, force bool) (*feedRef, error) {
	for fetched := false; ; {
		l.mu.Lock()
		over, ok := l.handedOver[id]
		underway := l.transfers[id]
		switch {
		case underway != nil:
		case ok && !force && time.Now().Before(over.until):
			l.mu.Unlock()
			return nil, &placement.RedirectError{Owner: over.to}
		case fetched, l.manager.HasStream(id):
			delete(l.handedOver, id)
			ref := l.refLocked(id, refs)
			l.mu.Unlock()
			return ref, nil
		default:
			incoming := &transfer{make(chan struct{}), true}
			l.transfers[id] = incoming
			l.mu.Unlock()
			l.fetchAndInstall(ctx, id, force)
			l.endTransfer(id, incoming)
			fetched = true
			continue
		}
		l.mu.Unlock()
		select {
		case <-underway.done:
			fetched = fetched || underway.incoming // if the transfer did not bring it, S2 is read
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// refLocked adds refs feed references to a stream. A request holds none: it asks for 0 and gets
// nil.
func (l *localStreams) refLocked(id shard.StreamID, refs int) *feedRef {
	if refs == 0 {
		return nil
	}
	u := l.feedRefs[id]
	if u == nil {
		u = &feedRef{}
		l.feedRefs[id] = u
	}
	u.count += refs
	return u
}

// fetchAndInstall fetches a stream from its previous owner. If that fails the stream is read from
// S2.
func (l *localStreams) fetchAndInstall(ctx context.Context, id shard.StreamID, force bool) {
	l.node.fetchHandover(ctx, id, force, func(h shard.Handover) { _ = l.manager.InstallHandover(id, h) })
}

// endTransfer ends a stream's arrival or departure.
func (l *localStreams) endTransfer(id shard.StreamID, p *transfer) {
	l.mu.Lock()
	delete(l.transfers, id)
	l.mu.Unlock()
	close(p.done)
}

// handOver gives up a stream in favour of the node to. If ref is not nil, it counts feeds which the
// stream manager no longer supplies and which need another source now.
func (l *localStreams) handOver(ctx context.Context, id shard.StreamID, from shard.Pos, to placement.PeerAddr) (
	over shard.Handover, found bool, ref *feedRef,
) {
	l.mu.Lock()
	if p := l.transfers[id]; p != nil && p.incoming {
		l.mu.Unlock()
		late := time.NewTimer(incomingWait)
		defer late.Stop()
		select {
		case <-p.done:
		case <-late.C: // the transfer may be waiting for this very call
		case <-ctx.Done():
		}
		l.mu.Lock()
	}
	if l.transfers[id] != nil || !l.manager.HasStream(id) {
		l.mu.Unlock()
		return over, false, nil
	}
	outgoing := &transfer{done: make(chan struct{})}
	l.transfers[id] = outgoing
	l.mu.Unlock()
	over, found = l.manager.HandOver(id, from)
	l.mu.Lock()
	l.handedOver[id] = redirection{to, time.Now().Add(handedOverFor)}
	if ref = l.feedRefs[id]; ref != nil {
		ref.handedOver.Store(true)
		delete(l.feedRefs, id)
	}
	l.mu.Unlock()
	l.endTransfer(id, outgoing)
	return over, found, ref
}

// forgetExpired forgets handovers that are over.
func (l *localStreams) forgetExpired(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, over := range l.handedOver {
		if now.After(over.until) {
			delete(l.handedOver, id)
		}
	}
}

// reclaimOwned forgets the handovers of streams that this node owns again.
func (l *localStreams) reclaimOwned(owns func(shard.StreamID) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.handedOver, func(id shard.StreamID, _ redirection) bool { return owns(id) })
}

// hasFeeds reports whether the stream manager feeds any subscriber on this node with the stream.
func (l *localStreams) hasFeeds(id shard.StreamID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.feedRefs[id] != nil
}

// dropUnfed drops the stream unless it has feeds, and reports whether it did. It waits for the
// batch in flight.
func (l *localStreams) dropUnfed(id shard.StreamID) bool {
	l.mu.Lock()
	if l.feedRefs[id] != nil || l.transfers[id] != nil {
		l.mu.Unlock()
		return false
	}
	outgoing := &transfer{done: make(chan struct{})}
	l.transfers[id] = outgoing
	l.mu.Unlock()
	defer l.endTransfer(id, outgoing)
	return l.manager.DropUnused(id)
}

func (l *localStreams) write(ctx context.Context, req *shard.Request, force bool) (shard.Outcome, error) {
	if _, err := l.acquire(ctx, req.Stream, 0, force); err != nil {
		return shard.Outcome{}, err
	}
	return l.manager.Do(ctx, req)
}

func (l *localStreams) info(ctx context.Context, id shard.StreamID, a shard.InfoOptions, force bool) (shard.Info, error) {
	if _, err := l.acquire(ctx, id, 0, force); err != nil {
		return shard.Info{}, err
	}
	return l.manager.Info(ctx, id, a)
}

// answersLocally reports whether the stream can be answered for without another node: it is here,
// arriving, or was handed over.
func (l *localStreams) answersLocally(id shard.StreamID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, over := l.handedOver[id]
	p := l.transfers[id]
	return over || p != nil && p.incoming || l.manager.HasStream(id)
}
