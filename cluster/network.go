package cluster

import (
	"context"
	"net"

	"github.com/hashicorp/memberlist"

	"github.com/fantail-dev/fantail/cluster/gossip"
)

// Network connects a node with the others. Addresses are host:port, and the host is an IP address.
type Network interface {
	// Listen serves the relay over TCP, and Dial, of gossip's Network, connects to it.
	Listen(ctx context.Context, addr string) (net.Listener, error)
	gossip.Network
}

// hostNetwork is the network of this machine.
type hostNetwork struct{}

func (hostNetwork) Listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}

func (hostNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

func (hostNetwork) Lookup(ctx context.Context, host string) ([]string, error) {
	return net.DefaultResolver.LookupHost(ctx, host)
}

func (hostNetwork) GossipTransport(string) (memberlist.Transport, error) { return nil, nil } //nolint:nilnil // as promised
