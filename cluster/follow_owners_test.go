package cluster

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
)

// scriptedOwners are the peers of a follow script: they record what they are sent in control lanes, and
// send in bulk lanes what the script says.
type scriptedOwners struct {
	relaypb.UnimplementedRelayServer

	conns  chan net.Conn
	closed chan struct{}
	server *grpc.Server
	wg     sync.WaitGroup

	mu     sync.Mutex
	byName map[string]*scriptedOwner
	byLink map[uint64]*scriptedOwner
}

type scriptedOwner struct {
	frames       chan *relaypb.Frame
	lastHandle   uint64               // of the newest Subscribe
	subscribes   []*relaypb.Subscribe // since the last report
	unsubscribes int                  // since the last report
}

func newScriptedOwners(names ...string) *scriptedOwners {
	o := &scriptedOwners{
		conns: make(chan net.Conn), closed: make(chan struct{}), server: grpc.NewServer(),
		byName: map[string]*scriptedOwner{}, byLink: map[uint64]*scriptedOwner{},
	}
	for _, name := range names {
		o.byName[name] = &scriptedOwner{frames: make(chan *relaypb.Frame)}
	}
	relaypb.RegisterRelayServer(o.server, o)
	o.wg.Go(func() { _ = o.server.Serve(o) })
	return o
}

func (o *scriptedOwners) close() {
	o.server.Stop()
	o.wg.Wait()
}

// Accept implements net.Listener.
func (o *scriptedOwners) Accept() (net.Conn, error) {
	select {
	case c := <-o.conns:
		return c, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (o *scriptedOwners) Close() error { close(o.closed); return nil }

// Addr implements net.Listener.
func (o *scriptedOwners) Addr() net.Addr { return &net.TCPAddr{} }

// Dial implements Dialer.
func (o *scriptedOwners) Dial(ctx context.Context, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case o.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// members returns the view with the members of these names.
func (o *scriptedOwners) members(names map[string]bool) *placement.View {
	ms := []placement.Member{{Name: "edge", RingKey: "edge"}}
	for name := range names {
		ms = append(ms, placement.Member{Name: name, RingKey: name, RelayAddr: name + ":1"})
	}
	return placement.NewView(ms)
}

// Control implements relaypb.RelayServer.
func (o *scriptedOwners) Control(lane grpc.BidiStreamingServer[relaypb.ToOwner, relaypb.ToEdge]) error {
	m, err := lane.Recv()
	if err != nil {
		return err
	}
	hello := m.GetHello()
	o.mu.Lock()
	owner := o.byName[string(hello.GetTo())]
	o.byLink[hello.GetIncarnation()] = owner
	o.mu.Unlock()
	if err := lane.Send(&relaypb.ToEdge{Hello: &relaypb.Hello{
		Version: placement.RelayVersionNewest, From: &relaypb.PeerAddress{Name: hello.GetTo()},
	}}); err != nil {
		return err
	}
	for {
		if m, err = lane.Recv(); err != nil {
			return err
		}
		o.mu.Lock()
		for _, q := range m.GetSubscribe() {
			owner.lastHandle = q.GetHandle()
			owner.subscribes = append(owner.subscribes, q)
		}
		owner.unsubscribes += len(m.GetUnsubscribe())
		o.mu.Unlock()
		if b := m.GetHeartbeat(); b != 0 {
			if err := lane.Send(&relaypb.ToEdge{Heartbeat: b, Status: &relaypb.Status{}}); err != nil {
				return err
			}
		}
	}
}

// Bulk implements relaypb.RelayServer.
func (o *scriptedOwners) Bulk(q *relaypb.BulkRequest, lane grpc.ServerStreamingServer[relaypb.Frame]) error {
	o.mu.Lock()
	owner := o.byLink[q.GetIncarnation()]
	o.mu.Unlock()
	for {
		select {
		case frame := <-owner.frames:
			if err := lane.Send(frame); err != nil {
				return err
			}
		case <-lane.Context().Done():
			return nil
		}
	}
}

// send sends a Part to the newest subscription at a peer.
func (o *scriptedOwners) send(t *testing.T, name string, part *relaypb.Part) {
	t.Helper()
	o.mu.Lock()
	owner := o.byName[name]
	part.Handle = owner.lastHandle
	o.mu.Unlock()
	owner.frames <- &relaypb.Frame{Parts: []*relaypb.Part{part}}
}

// takeReceived returns what a peer has received since the last call.
func (o *scriptedOwners) takeReceived(name string) (subscribes []*relaypb.Subscribe, unsubscribes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	owner := o.byName[name]
	subscribes, unsubscribes = owner.subscribes, owner.unsubscribes
	owner.subscribes, owner.unsubscribes = nil, 0
	return subscribes, unsubscribes
}
