package transport

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard/tracing"
)

// Config configures a node's Peers and its Server.
type Config struct {
	// Self is this node.
	Self placement.PeerAddr
	// Dialer connects to other nodes.
	Dialer Dialer
	// Creds authenticates connections. nil: all are in plaintext.
	Creds *peertls.Credentials
	// PeerWriteBytes bounds the bytes that peers' writes hold while they are carried out (shard.RequestCost;
	// default 64 MiB). A write beyond it gets ErrOverloaded before its body is read.
	PeerWriteBytes int64
	// LinkCreditBytes bounds the credit of all links together: the bytes that may be on their way to
	// this node (default 256 MiB).
	LinkCreditBytes int64
	// SubscriptionWindow and LinkWindow are the credit that this node grants, in bytes of record
	// batches: to a subscription (default 256 KiB), and to a link (default 8 MiB).
	SubscriptionWindow, LinkWindow int
	// BodyGrace is the time in which the body of a peer's write has to arrive, beside a second for
	// each MiB (default 10 s).
	BodyGrace time.Duration
	// Now is this node's clock, which heartbeats compare with those of others (default time.Now).
	Now func() time.Time
	// Logger receives changes of links.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Tracer continues the traces of peers (nil: none are).
	Tracer *tracing.Tracer
}

// Dialer connects to the relay's port of another node.
type Dialer interface {
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Defaults of Config. cluster/DESIGN.md, "Links and credit", has the reasons.
const (
	defaultLinkBytes          = 256 << 20
	defaultBodyBytes          = 64 << 20
	defaultSubscriptionWindow = 256 << 10
	defaultLinkWindow         = 8 << 20
	defaultBodyGrace          = 10 * time.Second
)

func (c *Config) setDefaults() {
	if c.PeerWriteBytes <= 0 {
		c.PeerWriteBytes = defaultBodyBytes
	}
	if c.LinkCreditBytes <= 0 {
		c.LinkCreditBytes = defaultLinkBytes
	}
	if c.SubscriptionWindow <= 0 {
		c.SubscriptionWindow = defaultSubscriptionWindow
	}
	if c.LinkWindow <= 0 {
		c.LinkWindow = defaultLinkWindow
	}
	if c.BodyGrace <= 0 {
		c.BodyGrace = defaultBodyGrace
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Windows of the transport, in bytes. Setting them turns its window estimator off.
const (
	streamWindow = 2 << 20
	connWindow   = 8 << 20
)
