package gossip

import (
	"log"
	"net"
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/fantail-dev/fantail/cluster/internal/unproven"
)

// maxConns bounds the connections to gossip's port. A peer's lasts for milliseconds, and one
// that sends nothing ends within gossipTimeout. Without a bound the process could run out of
// descriptors meanwhile. A new connection evicts the oldest.
const maxConns = 256

// transport is memberlist's transport over TCP and UDP, with a bound on its connections.
type transport struct {
	*memberlist.NetTransport
	slots   unproven.Slots
	streams chan net.Conn // never closed
	done    chan struct{}
	wg      sync.WaitGroup
}

// newTransport listens on host and port; for port 0 it chooses a port that is free for both
// protocols.
func newTransport(
	host string, port int, logger *log.Logger, //nolint:forbidigo // what memberlist takes
) (*transport, error) {
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
	t := &transport{
		NetTransport: below, slots: unproven.Slots{Limit: maxConns},
		streams: make(chan net.Conn), done: make(chan struct{}),
	}
	t.wg.Go(t.acceptConns)
	return t, nil
}

const freePortTries = 10

// acceptConns accepts connections until Shutdown. memberlist reads StreamCh until then.
func (t *transport) acceptConns() {
	for {
		select {
		case conn := <-t.NetTransport.StreamCh():
			c := &slotConn{Conn: conn, slots: &t.slots, slot: t.slots.Acquire(conn)}
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
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements memberlist.Transport.
func (t *transport) Shutdown() error {
	err := t.NetTransport.Shutdown() // waits until what it has accepted is received
	close(t.done)
	t.wg.Wait()
	return err
}

// slotConn frees its slot when memberlist closes it.
type slotConn struct {
	net.Conn
	slots *unproven.Slots
	slot  *unproven.Slot
}

// Close implements net.Conn.
func (c *slotConn) Close() error {
	c.slots.Release(c.slot)
	return c.Conn.Close()
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)
