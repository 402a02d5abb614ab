package cluster

import (
	"log"
	"net"
	"sync"

	"github.com/hashicorp/memberlist"
)

// maxGossipConns bounds the connections that gossip has taken and not done with. A peer's
// lasts for milliseconds; one that says nothing ends within gossipTimeout, and without a
// bound so many would come meanwhile that the process had no descriptor left. A newcomer
// takes the place of the oldest.
const maxGossipConns = 256

// gossipTransport is memberlist's own transport over TCP and UDP, with a bound on its
// connections.
type gossipTransport struct {
	*memberlist.NetTransport
	slots   connSlots
	streams chan net.Conn // never closed
	done    chan struct{}
	wg      sync.WaitGroup
}

// newGossipTransport listens on host and port; of port 0 it takes one that is free for both.
func newGossipTransport(
	host string, port int, logger *log.Logger, //nolint:forbidigo // what memberlist takes
) (*gossipTransport, error) {
	cfg := &memberlist.NetTransportConfig{BindAddrs: []string{host}, BindPort: port, Logger: logger}
	below, err := memberlist.NewNetTransport(cfg)
	for range freePortTries { // the port that TCP found free may be taken for UDP
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

// acceptConns takes connections until Shutdown. memberlist reads StreamCh for as long.
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
	err := t.NetTransport.Shutdown() // it waits until what it has accepted is taken
	close(t.done)
	t.wg.Wait()
	return err
}

// gossipConn gives its place back when memberlist closes it.
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
