package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/testlog"
	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
)

// pipeNetwork is a network of pipes to one server.
type pipeNetwork struct {
	hostNetwork
	backlog chan net.Conn
	done    chan struct{}
	once    sync.Once

	mu  sync.Mutex
	cut bool
}

func newPipeNetwork() *pipeNetwork {
	return &pipeNetwork{backlog: make(chan net.Conn), done: make(chan struct{})}
}

func (p *pipeNetwork) Dial(ctx context.Context, _ string) (net.Conn, error) {
	p.mu.Lock()
	cut := p.cut
	p.mu.Unlock()
	if cut {
		<-ctx.Done() // as where packets are dropped
		return nil, ctx.Err()
	}
	here, there := net.Pipe()
	select {
	case p.backlog <- there:
		return here, nil
	case <-p.done:
		return nil, errFaultyDialer
	}
}

func (p *pipeNetwork) setCut(cut bool) {
	p.mu.Lock()
	p.cut = cut
	p.mu.Unlock()
}

func (p *pipeNetwork) Accept() (net.Conn, error) {
	select {
	case c := <-p.backlog:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipeNetwork) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipeNetwork) Addr() net.Addr { return &net.TCPAddr{} }

// serve runs a server at the other end of the pipes.
func (p *pipeNetwork) serve(t *testing.T, name string) *server {
	cfg := &Config{Name: name}
	cfg.setDefaults()
	s := newServer(cfg, placement.PeerAddr{Name: name}, &testOwner{}, newMetrics(nil), nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.grpc.Serve(p); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.close()
		wg.Wait()
	})
	return s
}

// A connection that sends nothing does not delay Close.
func TestCloseDoesNotWaitForASilentConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipeNetwork()
		s := p.serve(t, "a")
		conn, err := p.Dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		s.close()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if err := errors.Join(conn.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
}

// A member that cannot be reached is logged once, and once more when it can.
func TestUnreachableMemberIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, log := newPipeNetwork(), testlog.Lines{}
		s := p.serve(t, "b")
		cfg := &Config{Name: "a", Network: p, Logger: log.Logger()}
		cfg.setDefaults()
		ps := newPeers(cfg, placement.PeerAddr{Name: "a"}, newMetrics(nil), nil, &peertls.Credentials{}, noLinkObserver{})
		says := func(out, again int) {
			t.Helper()
			if n, m := len(log.Containing("out of reach")), len(log.Containing("within reach")); n != out || m != again {
				t.Errorf("%d, then %d lines; want %d and %d", n, m, out, again)
			}
		}
		pass := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		p.setCut(true)
		ps.update(placement.NewView([]placement.Member{{Name: "a", RingKey: "a"}, {Name: "b", RingKey: "b", RelayAddr: "10.0.0.2:1"}}))
		pass(warnUnreachableAfter - time.Second)
		says(0, 0)
		pass(time.Minute)
		says(1, 0)
		p.setCut(false)
		pass(5 * time.Second)
		says(1, 1)
		p.setCut(true)
		ps.link("b").cancel(errPeerSilent)
		pass(warnUnreachableAfter - time.Second)
		p.setCut(false)
		pass(time.Minute) // it was not unreachable for long
		says(1, 1)
		ps.close()
		s.close()
		<-time.After(time.Minute)
	})
}

// noLinkObserver ignores links.
type noLinkObserver struct{}

func (noLinkObserver) onLinkUp()                 {}
func (noLinkObserver) onLinkLost([]*upstreamSub) {}
