package cluster

import (
	"log"
	"net"
	"sync"

	"github.com/hashicorp/memberlist"
)

// maxGossipConns bounds the connections to gossip's port. A peer's lasts for milliseconds, and one
// that sends nothing ends within gossipTimeout. Without a bound the process could run out of
// descriptors meanwhile. A new connection evicts the oldest.
const maxGossipConns = 256

// gossipTransport is memberlist's transport over TCP and UDP, with a bound on its connections.
type gossipTransport struct {
	*memberlist.NetTransport
	slots   connSlots
	streams chan net.Conn // never closed
	done    chan struct{}
	wg      sync.WaitGroup
}

// newGossipTransport listens on host and port; for port 0 it chooses one that is free for both
// protocols.
func newGossipTransport(
	host string, port int, logger *log.Logger, //nolint:forbidigo // what memberlist takes
) (*gossipTransport, error) {
	cfg := &memberlist.NetTransportConfig{BindAddrs: []string{host}, BindPort: port, Logger: logger}
	below, err := memberlist.NewNetTransport(cfg)
	for range freePortTries { // the port that is free for TCP may be taken for UDP
		if port != 0 || err == nil {
			break
		}
		below, err = memberlist.NewNetTransport(cfg)
	}
	if err != nil {
		return nil, err
	}
	t := &gossipTransport{
		NetTransport: below, slots: connSlots{limit: maxGossipConns},
		streams: make(chan net.Conn), done: make(chan struct{}),
	}
	t.wg.Go(t.acceptConns)
	return t, nil
}

const freePortTries = 10

// acceptConns accepts connections until Shutdown. memberlist reads StreamCh until then.
func (t *gossipTransport) acceptConns() {
	for {
		select {
		case conn := <-t.NetTransport.StreamCh():
			c := &gossipConn{Conn: conn, slots: &t.slots, slot: t.slots.acquire(conn)}
			select {
			case t.streams <- c:
			case <-t.done:
				_ = c.Close()
			}
		case <-t.done:
			return
		}
	}
}

// StreamCh implements memberlist.Transport.
func (t *gossipTransport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements memberlist.Transport.
func (t *gossipTransport) Shutdown() error {
	err := t.NetTransport.Shutdown() // waits until what it has accepted is received
	close(t.done)
	t.wg.Wait()
	return err
}

// gossipConn frees its slot when memberlist closes it.
type gossipConn struct {
	net.Conn
	slots *connSlots
	slot  *connSlot
}

// Close implements net.Conn.
func (c *gossipConn) Close() error {
	c.slots.release(c.slot)
	return c.Conn.Close()
}

var _ memberlist.NodeAwareTransport = (*gossipTransport)(nil)
