package cluster

import (
	"context"
	"net"

	"github.com/hashicorp/memberlist"
)

// Network connects a node with the others. Addresses are host:port, and the host is an IP address.
type Network interface {
	// Listen and Dial serve the relay, over TCP.
	Listen(ctx context.Context, addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Lookup returns the IP addresses of a name to join.
	Lookup(ctx context.Context, host string) ([]string, error)
	// GossipTransport returns memberlist's transport for an address; nil: memberlist's own, over TCP and
	// UDP.
	GossipTransport(addr string) (memberlist.Transport, error)
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
