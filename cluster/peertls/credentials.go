package peertls

import (
	"crypto/x509"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/cluster/internal/unproven"
	"github.com/fantail-dev/fantail/cluster/placement"
)

// PlaintextMode selects the peers with which the relay speaks without TLS.
type PlaintextMode uint8

// The modes.
const (
	// PlaintextMigrate allows members that do not announce TLS in gossip: those of a release
	// without it. Members that announce TLS are only ever spoken to over TLS.
	PlaintextMigrate PlaintextMode = iota
	// PlaintextNever allows none.
	PlaintextNever
	// PlaintextAlways allows every client that reaches the port and does not begin with TLS. This
	// node then does not announce TLS.
	PlaintextAlways
)

// HandshakeTimeout bounds TLS and the first bytes of a connection.
const HandshakeTimeout = 3 * time.Second

// maxHandshakes bounds the connections that have not proved anything yet: as many from the
// addresses of members, and as many from elsewhere, so that strangers cannot take the slots of
// members. One more evicts the oldest. Each ends by itself within HandshakeTimeout.
const maxHandshakes = 128

// Credentials authenticates the relay's connections, on both sides.
type Credentials struct {
	// Set at construction.
	mode    PlaintextMode
	log     *slog.Logger
	refused prometheus.Counter
	members ViewSource

	proof                                atomic.Pointer[Proof]
	memberHandshakes, strangerHandshakes unproven.Slots // by the address of the peer

	mu          sync.Mutex
	provenConns map[*provenConn]struct{} // those over TLS
}

// Config configures Credentials.
type Config struct {
	// FleetName and Secrets are those of the fleet. Identity, unless nil, is shown instead of the
	// first secret's key.
	FleetName string
	Secrets   [][]byte
	Identity  *Identity
	// Mode selects the peers that may speak without TLS.
	Mode PlaintextMode
	// Members returns the members whose addresses are known.
	Members ViewSource
	// Logger gets each connection that is refused.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// ViewSource returns the newest view of the fleet.
type ViewSource interface{ View() *placement.View }

// New returns the credentials that cfg describes.
func New(cfg Config) (*Credentials, error) {
	p, err := NewProof(cfg.FleetName, cfg.Secrets, cfg.Identity)
	if err != nil {
		return nil, err
	}
	refused := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fantail_relay_refused_total", Help: "Connections to the relay's port that did not prove to be of the fleet.",
	})
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(refused)
	}
	c := &Credentials{
		mode: cfg.Mode, log: cfg.Logger, refused: refused, members: cfg.Members,
		memberHandshakes: unproven.Slots{Limit: maxHandshakes}, strangerHandshakes: unproven.Slots{Limit: maxHandshakes}, provenConns: map[*provenConn]struct{}{},
	}
	c.proof.Store(p)
	return c, nil
}

// Proof returns what this node shows and accepts now.
func (c *Credentials) Proof() *Proof { return c.proof.Load() }

// ReplaceProof replaces what this node shows and accepts. It disconnects the peers that it no
// longer accepts: they may know a secret that was replaced because a stranger knew it.
func (c *Credentials) ReplaceProof(p *Proof) {
	c.proof.Store(p)
	c.mu.Lock()
	var out []*provenConn
	for conn := range c.provenConns {
		if p.checkPeer(conn.certs, conn.usage, conn.provenAt) != nil {
			out = append(out, conn)
		}
	}
	c.mu.Unlock()
	for _, conn := range out {
		_ = conn.Close()
	}
}

// provenConn is a connection over TLS with a peer that has proved that it is of the fleet.
type provenConn struct {
	net.Conn
	batched  *batchedConn
	creds    *Credentials
	certs    []*x509.Certificate
	usage    x509.ExtKeyUsage
	provenAt time.Time
}

// Write implements net.Conn.
func (c *provenConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		err = c.batched.flush()
	}
	return n, err
}

// Close implements net.Conn.
func (c *provenConn) Close() error {
	c.creds.mu.Lock()
	delete(c.creds.provenConns, c)
	c.creds.mu.Unlock()
	return c.Conn.Close()
}
