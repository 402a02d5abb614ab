package cluster

import (
	"context"
	"net"

	"github.com/hashicorp/memberlist"
)

// Network is how a node reaches others and is reached by them. Addresses are host:port,
// the host an IP address.
type Network interface {
	// Listen and Dial are the relay's, over TCP.
	Listen(ctx context.Context, addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Lookup finds the IP addresses that a name to join stands for.
	Lookup(ctx context.Context, host string) ([]string, error)
	// Gossip is memberlist's transport at an address; nil is its own, over TCP and UDP.
	Gossip(addr string) (memberlist.Transport, error)
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

func (hostNetwork) Gossip(string) (memberlist.Transport, error) { return nil, nil } //nolint:nilnil // as promised
