package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// link is the edge's half of a link: one incarnation of the connection to a
// member, with its control lane and, while anything is followed, its bulk lane.
// Nothing is queued for the control lane: what there is to say stands in the
// subscriptions, which are listed at most once each.
type link struct {
	// set at construction
	to          place
	incarnation uint64
	conn        *grpc.ClientConn
	client      relaypb.RelayClient
	control     grpc.BidiStreamingClient[relaypb.ToOwner, relaypb.ToEdge]
	ctx         context.Context // ends with the link; its cause says why
	cancel      context.CancelCauseFunc
	met         *metrics
	panics      *shard.Panics
	version     uint32 // of the contract, that the owner speaks
	window      int
	linkWindow  int
	wake        chan struct{} // cap 1, never closed
	wg          sync.WaitGroup
	heard       atomic.Int64                   // when the owner was last heard, ns
	status      atomic.Pointer[relaypb.Status] // its last one; nil: none yet
	now         func() time.Time               // this node's clock, and skew how far it is ahead of the owner's, ms
	skew        atomic.Int64

	mu     sync.Mutex
	closed bool
	subs   map[uint64]*upstream
	handle uint64 // the last one given
	say    []*upstream
	owed   int       // bytes received and not yet returned as link credit
	idle   time.Time // since when subs is empty

	// owned by the writer
	beat     uint64
	lane     uint64
	bulkStop context.CancelFunc // nil: no bulk lane
}

// upstream is the edge's half of a subscription.
type upstream struct {
	f      *follower
	link   *link
	handle uint64

	// guarded by link.mu
	ask    *ask // until it is said
	owed   uint32
	listed bool
	gone   bool // taken back

	// owned by the link's bulk reader
	tail  *shard.Tail
	parts *pieces // nil: no Range in pieces under way
}

// ask is what a subscription asks for.
type ask struct {
	from  uint64
	route route
}

// Timing of links.
const (
	helloTimeout = time.Second
	beatEvery    = time.Second
	deadAfter    = 3 * time.Second // without a sign of life
	bulkLinger   = time.Minute     // after the last subscription
	pingTimeout  = 200 * time.Millisecond
)

// maxClock bounds what a peer may say of its clock, in milliseconds since 1970.
const maxClock = 1 << 45

// sayAtOnce bounds the subscriptions that one control message speaks of, and sayBytes what it
// asks for.
const (
	sayAtOnce = 512
	sayBytes  = 256 << 10
)

var (
	errSilent  = errors.New("no sign of life")
	errStopped = errors.New("link closed")
)

// openLink connects to a member and exchanges Hello.
func openLink(ctx context.Context, p *peer) (*link, error) {
	cfg := p.peers.cfg
	conn, err := p.dial()
	if err != nil {
		return nil, err
	}
	l := &link{
		to: p.to, incarnation: rand.Uint64(), conn: conn, client: relaypb.NewRelayClient(conn),
		now: cfg.Now, met: p.peers.met, panics: p.peers.panics, window: cfg.window, linkWindow: p.peers.grant(),
		wake: make(chan struct{}, 1), subs: map[uint64]*upstream{}, idle: time.Now(),
	}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	err = l.hello(place{p.peers.self, p.peers.addr})
	if err != nil {
		l.cancel(err)
		p.peers.ungrant(l.linkWindow)
		_ = conn.Close()
		return nil, fmt.Errorf("hello to %s: %w", p.to.name, err)
	}
	return l, nil
}

func (l *link) hello(self place) (err error) {
	defer guard(l.panics, caughtLink, &err)
	late := time.AfterFunc(helloTimeout, func() { l.cancel(errSilent) })
	defer late.Stop()
	control, err := l.client.Control(l.ctx)
	if err != nil {
		return err
	}
	l.control = control
	if err := control.Send(&relaypb.ToOwner{Hello: &relaypb.Hello{
		Version: relayVersion, From: placeToWire(self), To: raw(l.to.name), Link: l.incarnation,
		Window: uint64(l.window), LinkWindow: uint64(l.linkWindow),
	}}); err != nil {
		return err
	}
	m, err := control.Recv()
	switch {
	case err != nil:
		return err
	case text(m.GetHello().GetFrom().GetName()) != l.to.name:
		return fmt.Errorf("reached %q", m.GetHello().GetFrom().GetName())
	}
	l.version = m.GetHello().GetVersion()
	l.heard.Store(time.Now().UnixNano())
	return nil
}

// run keeps the link until it breaks and says why.
func (l *link) run() error {
	l.spawn(l.readControl)
	l.spawn(l.writeControl)
	watch := time.NewTicker(deadAfter / 6)
	defer watch.Stop()
	for l.ctx.Err() == nil {
		select {
		case <-l.ctx.Done():
		case <-watch.C:
			if time.Since(time.Unix(0, l.heard.Load())) > deadAfter {
				l.cancel(errSilent)
			}
		}
	}
	_ = l.conn.Close()
	l.wg.Wait()
	return context.Cause(l.ctx)
}

// spawn starts one of the link's goroutines. A panic of it costs the link.
func (l *link) spawn(fn func()) {
	l.wg.Go(func() {
		var err error
		defer func() {
			if err != nil {
				l.cancel(err)
			}
		}()
		defer guard(l.panics, caughtLink, &err)
		fn()
	})
}

// close takes the subscriptions that were on the link.
func (l *link) close() []*upstream {
	l.cancel(errStopped)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	subs := make([]*upstream, 0, len(l.subs))
	for _, u := range l.subs {
		subs = append(subs, u)
	}
	l.met.subscriptions[sideEdge].Sub(float64(len(subs)))
	l.subs, l.say = nil, nil
	return subs
}

// subscribe asks for a stream on behalf of f; nil if the link is gone.
func (l *link) subscribe(f *follower, a ask) *upstream {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.handle++
	u := &upstream{f: f, link: l, handle: l.handle, ask: &a}
	l.subs[u.handle] = u
	l.met.subscriptions[sideEdge].Inc()
	l.listLocked(u)
	return u
}

// unsubscribe takes a subscription back. What still comes for it is ignored.
func (l *link) unsubscribe(u *upstream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.removeLocked(u) && u.ask == nil {
		l.listLocked(u)
	}
	u.ask = nil
}

func (l *link) removeLocked(u *upstream) bool {
	if u.gone || l.closed {
		return false
	}
	u.gone = true
	delete(l.subs, u.handle)
	l.met.subscriptions[sideEdge].Dec()
	if len(l.subs) == 0 {
		l.idle = time.Now()
	}
	return true
}

func (l *link) listLocked(u *upstream) {
	if !u.listed {
		u.listed = true
		l.say = append(l.say, u)
		poke(l.wake)
	}
}

// ping reports whether the member answers at once.
func (l *link) ping(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := l.client.Ping(ctx, &relaypb.PingRequest{})
	return err == nil
}

func (l *link) readControl() {
	for {
		m, err := l.control.Recv()
		if err != nil {
			l.cancel(err)
			return
		}
		l.heard.Store(time.Now().UnixNano())
		if m.GetStatus() != nil {
			l.status.Store(checkStatus(m.GetStatus()))
			if at := m.GetStatus().GetNow(); at != 0 && l.now != nil {
				l.skew.Store(int64(millis(l.now())) - int64(min(at, maxClock)))
			}
		}
	}
}

// writeControl says what there is to say, a batch at a time, and a heartbeat
// each second.
func (l *link) writeControl() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for beat := true; ; {
		m, more := l.collect(beat)
		if m != nil {
			if err := l.control.Send(m); err != nil {
				l.cancel(err)
				return
			}
		}
		beat = false
		if more {
			continue
		}
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
		case <-tick.C:
			beat = true
			l.closeBulk()
		}
	}
}

// collect makes the next control message, or nil; more: there is another.
func (l *link) collect(beat bool) (m *relaypb.ToOwner, more bool) {
	m = &relaypb.ToOwner{}
	l.mu.Lock()
	n, size := 0, 0
	for _, u := range l.say[:min(len(l.say), sayAtOnce)] {
		if size > sayBytes {
			break
		}
		n++
		u.listed = false
		switch {
		case u.ask != nil:
			q := &relaypb.Subscribe{
				Handle: u.handle, Stream: raw(u.f.id), From: u.ask.from,
				Route: routeToWire(u.ask.route),
			}
			size += proto.Size(q)
			m.Subscribe = append(m.Subscribe, q)
			u.ask = nil
		case u.gone:
			m.Unsubscribe = append(m.Unsubscribe, u.handle)
		case u.owed > 0:
			m.Credit = append(m.Credit, &relaypb.Credit{Handle: u.handle, Bytes: uint64(u.owed)})
			u.owed = 0
		}
	}
	clear(l.say[:n])
	l.say = l.say[n:]
	if more = len(l.say) > 0; !more {
		l.say = nil
	}
	if l.owed >= l.linkWindow/8 {
		m.LinkCredit, l.owed = uint64(l.owed), 0
	}
	l.mu.Unlock()
	if len(m.Subscribe) > 0 {
		l.openBulk()
	}
	m.Lane = l.lane
	if beat {
		l.beat++
		m.Beat = l.beat
	}
	if !beat && n == 0 && m.LinkCredit == 0 {
		return nil, false
	}
	return m, more
}

// openBulk opens the bulk lane if there is none.
func (l *link) openBulk() {
	if l.bulkStop != nil {
		return
	}
	ctx, stop := context.WithCancel(l.ctx)
	l.lane++
	bulk, err := l.client.Bulk(ctx, &relaypb.BulkRequest{Link: l.incarnation, Lane: l.lane})
	if err != nil {
		stop()
		l.cancel(err)
		return
	}
	l.bulkStop = stop
	l.spawn(func() { l.readBulk(ctx, bulk) })
}

// closeBulk closes a bulk lane that has not been needed for a while.
func (l *link) closeBulk() {
	l.mu.Lock()
	idle := len(l.subs) == 0 && len(l.say) == 0 && time.Since(l.idle) >= bulkLinger
	l.mu.Unlock()
	if idle && l.bulkStop != nil {
		l.bulkStop()
		l.bulkStop = nil
	}
}

func (l *link) readBulk(ctx context.Context, bulk grpc.ServerStreamingClient[relaypb.Frame]) {
	for {
		frame, err := bulk.Recv()
		if err != nil {
			if ctx.Err() == nil { // not closed by this side
				l.cancel(fmt.Errorf("bulk lane: %w", err))
			}
			return
		}
		l.heard.Store(time.Now().UnixNano())
		for _, part := range frame.GetParts() {
			l.take(part)
		}
	}
}

// take gives a Part to its subscription, which a malformed one ends. Credit is returned
// here, on receipt.
func (l *link) take(p *relaypb.Part) {
	n := len(p.GetData())
	l.mu.Lock()
	u := l.subs[p.GetHandle()]
	if n > 0 {
		if l.owed += n; l.owed >= l.linkWindow/8 {
			poke(l.wake)
		}
		if u != nil {
			if u.owed += uint32(n); int(u.owed) >= l.window/2 {
				l.listLocked(u)
			}
		}
	}
	if u != nil && p.GetKind() == relaypb.Kind_KIND_END {
		l.removeLocked(u) // the owner has forgotten it already
	}
	l.mu.Unlock()
	l.met.bytes[sideEdge].Add(float64(n))
	if u == nil {
		return
	}
	if err := checkPart(p); err != nil {
		l.malformed(u, err)
		return
	}
	switch p.GetKind() {
	case relaypb.Kind_KIND_SUBSCRIBED:
		s := p.GetSubscribed()
		u.f.subscribed(u, infoFromWire(s.GetInfo()), s.GetStart())
	case relaypb.Kind_KIND_RANGE:
		if err := l.takeRange(u, p); err != nil {
			l.malformed(u, err)
		}
	case relaypb.Kind_KIND_MOVED:
		u.f.moved(u, placeFromWire(p.GetMoved()))
	case relaypb.Kind_KIND_END:
		u.f.over(u, errorOf(p.GetRefusal()))
	}
}

// malformed ends a subscription for which something came that is nothing.
func (l *link) malformed(u *upstream, err error) {
	l.unsubscribe(u)
	u.f.over(u, fmt.Errorf("%w: from %s: %w", errFailed, l.to.name, err))
}

func (l *link) takeRange(u *upstream, p *relaypb.Part) error {
	if u.parts == nil {
		u.parts = &pieces{}
	}
	r, whole, err := u.parts.add(p.GetData(), p.GetTotal())
	if err != nil {
		return err
	}
	if whole {
		u.parts = nil
		u.f.fed(u, r)
	}
	return nil
}
