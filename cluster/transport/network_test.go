package transport

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
)

var errNetworkClosed = errors.New("network closed")

// pipeNetwork is a network of pipes to one server.
type pipeNetwork struct {
	backlog chan net.Conn
	done    chan struct{}
	once    sync.Once

	mu     sync.Mutex
	cut    bool // connections are not answered, as where packets are dropped
	refuse bool // connections are refused, as by a machine without the process
}

func newPipeNetwork() *pipeNetwork {
	return &pipeNetwork{backlog: make(chan net.Conn), done: make(chan struct{})}
}

// Dial implements Dialer.
func (p *pipeNetwork) Dial(ctx context.Context, _ string) (net.Conn, error) {
	p.mu.Lock()
	cut, refuse := p.cut, p.refuse
	p.mu.Unlock()
	switch {
	case refuse:
		return nil, syscall.ECONNREFUSED
	case cut:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	here, there := net.Pipe()
	select {
	case p.backlog <- there:
		return here, nil
	case <-p.done:
		return nil, errNetworkClosed
	}
}

func (p *pipeNetwork) setCut(cut bool) {
	p.mu.Lock()
	p.cut = cut
	p.mu.Unlock()
}

func (p *pipeNetwork) setRefuse(refuse bool) {
	p.mu.Lock()
	p.refuse = refuse
	p.mu.Unlock()
}

// Accept implements net.Listener.
func (p *pipeNetwork) Accept() (net.Conn, error) {
	select {
	case c := <-p.backlog:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipeNetwork) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// Addr implements net.Listener.
func (p *pipeNetwork) Addr() net.Addr { return &net.TCPAddr{} }

// serve runs a server at the other end of the pipes.
func (p *pipeNetwork) serve(t *testing.T, name string, streams *testStreams) *Server {
	s := NewServer(Config{Self: placement.PeerAddr{Name: name}}, streams)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(p); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return s
}

// link returns the links of a node, with one to the server, which is called b.
func (p *pipeNetwork) link(t *testing.T, name string, cfg Config) *Peers {
	cfg.Self, cfg.Dialer = placement.PeerAddr{Name: name}, p
	ps := NewPeers(cfg, noObserver{})
	ps.Update(placement.NewView([]placement.Member{{Name: name, RingKey: name}, {Name: "b", RingKey: "b", RelayAddr: "10.0.0.2:1"}}))
	t.Cleanup(ps.Close)
	return ps
}

// client returns a client of the server that is no Peers.
func (p *pipeNetwork) client(t *testing.T) relaypb.RelayClient {
	conn, err := grpc.NewClient("passthrough:///b", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(p.Dial))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return relaypb.NewRelayClient(conn)
}

// pass lets time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// noObserver ignores links.
type noObserver struct{}

// OnLinksChanged implements Observer.
func (noObserver) OnLinksChanged() {}
