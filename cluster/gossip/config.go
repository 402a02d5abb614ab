package gossip

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/cluster/placement"
)

// DefaultPort is the port of gossip where an address has none.
const DefaultPort = 4457

// Config configures a membership. Every field but Join and Metrics is required, and the caller
// has checked them.
type Config struct {
	// Self is this node as the others see it. New completes it: Name is the node's name and gets a
	// suffix, so that it is unique for each process, and the dates are set.
	Self placement.Member
	// FleetName is the label of this fleet's gossip.
	FleetName string
	// Secrets holds the fleet's secrets: the first encrypts, all decrypt.
	Secrets [][]byte
	// ListenAddr is the address, host:port, on which gossip listens, over TCP and UDP.
	ListenAddr string
	// AdvertiseIP is the IP address that other nodes get.
	AdvertiseIP string
	// Join lists the addresses, host or host:port, of other nodes.
	Join []string
	// AloneAfter bounds the time for which a node with Join owns nothing while it finds no other
	// node.
	AloneAfter time.Duration
	// ChangeNotice is the time between the announcement of a change of owners and the change.
	ChangeNotice time.Duration
	// StoreGated says that this node owns nothing before ApplyStanding allows it.
	StoreGated bool
	// Now is the clock for the dates of Views.
	Now func() time.Time
	// Logger receives changes of state.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Network connects the nodes.
	Network Network
}

// Network connects a node's gossip with that of others. Addresses are host:port, and the host is an
// IP address.
type Network interface {
	// Dial checks over TCP whether an address answers.
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Lookup returns the IP addresses of a name to join.
	Lookup(ctx context.Context, host string) ([]string, error)
	// GossipTransport returns memberlist's transport for an address; nil: memberlist's own, over TCP and
	// UDP.
	GossipTransport(addr string) (memberlist.Transport, error)
}

// Observer is told what gossip brings. Both methods are called without any lock.
type Observer interface {
	// OnView is called from one goroutine, between Start and Close, with each new View, and again
	// with the same one when one of its dates has passed.
	OnView(v *placement.View)
	// OnJoinRound is called after the first round of joining that may begin a fleet.
	OnJoinRound()
}
