package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Plaintext says with whom the relay speaks without TLS.
type Plaintext uint8

// The ways.
const (
	// PlaintextMigrate: with members whose gossip does not say that they speak TLS, those of
	// a release before it. Whoever says so is only ever spoken to over TLS.
	PlaintextMigrate Plaintext = iota
	// PlaintextNever: with nobody.
	PlaintextNever
	// PlaintextAlways: with whoever reaches the port and does not begin with TLS. This node does
	// not say that it speaks TLS.
	PlaintextAlways
)

// maxHandshakes bounds the connections that have not proved anything yet: those from the
// addresses of members, and those from elsewhere, which so cannot take the places of members.
// One more takes the place of the oldest. Each ends by itself within handshakeTimeout.
const maxHandshakes = 128

// tlsCreds is how the relay's connections are made trustworthy, on both sides.
type tlsCreds struct {
	// set at construction
	mode         Plaintext
	log          *slog.Logger
	metrics      *metrics
	isLegacyAddr func(net.IP) bool // a member is there that does not speak TLS
	isMemberAddr func(net.IP) bool // a member is there

	proof                                atomic.Pointer[fleetProof]
	memberHandshakes, strangerHandshakes connSlots // by the address that a connection comes from

	mu          sync.Mutex
	provenConns map[*provenConn]struct{} // over TLS
}

func newTLSCreds(cfg *Config, met *metrics) (*tlsCreds, error) {
	p, err := newFleetProof(cfg.Cluster, cfg.Secrets, cfg.Identity)
	if err != nil {
		return nil, err
	}
	c := &tlsCreds{
		mode: cfg.Plaintext, log: cfg.Logger, metrics: met, isLegacyAddr: noAddr, isMemberAddr: noAddr,
		memberHandshakes: connSlots{limit: maxHandshakes}, strangerHandshakes: connSlots{limit: maxHandshakes}, provenConns: map[*provenConn]struct{}{},
	}
	c.proof.Store(p)
	return c, nil
}

func noAddr(net.IP) bool { return false }

// clientCredsFor is how to speak to a member; secure: it says that it speaks TLS.
func (c *tlsCreds) clientCredsFor(secure bool) (credentials.TransportCredentials, error) {
	switch {
	case secure:
		return clientCreds{c}, nil
	case c.mode == PlaintextNever:
		return nil, errPeerWithoutTLS
	default:
		return insecure.NewCredentials(), nil
	}
}

// replaceProof replaces what is shown and accepted, and cuts the connections of whom that accepts
// no more: a secret is changed because somebody else may know it.
func (c *tlsCreds) replaceProof(p *fleetProof) {
	c.proof.Store(p)
	c.mu.Lock()
	var out []*provenConn
	for h := range c.provenConns {
		if p.checkPeer(h.certs, h.usage, h.provenAt) != nil {
			out = append(out, h)
		}
	}
	c.mu.Unlock()
	for _, h := range out {
		_ = h.Close()
	}
}

// provenConn is a connection whose peer has proved what it is.
type provenConn struct {
	net.Conn
	batched  *batchedConn
	creds    *tlsCreds
	certs    []*x509.Certificate
	usage    x509.ExtKeyUsage
	provenAt time.Time
}

// Write implements net.Conn.
func (h *provenConn) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	if err == nil {
		err = h.batched.flush()
	}
	return n, err
}

// Close implements net.Conn.
func (h *provenConn) Close() error {
	h.creds.mu.Lock()
	delete(h.creds.provenConns, h)
	h.creds.mu.Unlock()
	return h.Conn.Close()
}

var (
	errTooManyHandshakes = errors.New("too many connections that prove nothing")
	errPlaintextRefused  = errors.New("plaintext, from whom none is taken")
	errPeerWithoutTLS    = errors.New("the member does not speak TLS, and plaintext is ruled out here")
	errNotHTTP2          = errors.New("no HTTP/2 over TLS")
)

func (c *tlsCreds) tlsConfig(usage x509.ExtKeyUsage) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: "fantail",
		SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
		ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, both ways
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.proof.Load().cert, nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.proof.Load().cert, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			return c.proof.Load().checkPeer(s.PeerCertificates, usage, time.Now())
		},
	}
}

// trackConn has a connection end when its peer is accepted no more.
func (c *tlsCreds) trackConn(conn *tls.Conn, below *batchedConn, usage x509.ExtKeyUsage) (net.Conn, credentials.AuthInfo, error) {
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		_ = conn.Close()
		return nil, nil, errNotHTTP2
	}
	below.startBatching()
	h := &provenConn{Conn: conn, batched: below, creds: c, certs: state.PeerCertificates, usage: usage, provenAt: time.Now()}
	c.mu.Lock()
	c.provenConns[h] = struct{}{}
	c.mu.Unlock()
	if err := c.proof.Load().checkPeer(h.certs, usage, h.provenAt); err != nil { // renewed meanwhile
		_ = h.Close()
		return nil, nil, err
	}
	return h, credentials.TLSInfo{
		State: state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// clientCreds is the side that dials a member which speaks TLS.
type clientCreds struct{ creds *tlsCreds }

// ClientHandshake implements credentials.TransportCredentials.
func (t clientCreds) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (
	net.Conn, credentials.AuthInfo, error,
) {
	below := newBatchedConn(raw)
	conn := tls.Client(below, t.creds.tlsConfig(x509.ExtKeyUsageServerAuth))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	return t.creds.trackConn(conn, below, x509.ExtKeyUsageServerAuth)
}

// ServerHandshake implements credentials.TransportCredentials.
func (clientCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.ErrUnsupported
}

// Info implements credentials.TransportCredentials.
func (clientCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls", ServerName: "fantail"}
}

// Clone implements credentials.TransportCredentials.
func (t clientCreds) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials.
func (clientCreds) OverrideServerName(string) error { return nil }

// serverCreds is the side that listens. The first byte of a connection tells TLS from
// plaintext.
type serverCreds struct{ clientCreds }

// Clone implements credentials.TransportCredentials.
func (t serverCreds) Clone() credentials.TransportCredentials { return t }

// ServerHandshake implements credentials.TransportCredentials. gRPC bounds its time.
func (t serverCreds) ServerHandshake(raw net.Conn) (
	conn net.Conn, info credentials.AuthInfo, err error,
) {
	c := t.creds
	defer func() {
		if err != nil {
			_ = raw.Close()
			c.logRefusal(raw, err)
		}
	}()
	slots := &c.strangerHandshakes
	if from := ipOf(raw.RemoteAddr()); from != nil && c.isMemberAddr(from) {
		slots = &c.memberHandshakes
	}
	slot := slots.acquire(raw)
	defer func() {
		if slots.release(slot) && err != nil {
			err = errTooManyHandshakes
		}
	}()
	var first [1]byte
	if _, err := raw.Read(first[:]); err != nil {
		return nil, nil, err
	}
	begun := &prefixedConn{Conn: raw, prefix: first[:]}
	batched := newBatchedConn(begun)
	if first[0] != tlsHandshakeRecord {
		if !c.allowsPlaintext(raw.RemoteAddr()) {
			return nil, nil, errPlaintextRefused
		}
		return begun, plaintextInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
	}
	tlsConn := tls.Server(batched, c.tlsConfig(x509.ExtKeyUsageClientAuth))
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	return c.trackConn(tlsConn, batched, x509.ExtKeyUsageClientAuth)
}

// tlsHandshakeRecord is the first byte of TLS. That of HTTP/2 is P.
const tlsHandshakeRecord = 0x16

// allowsPlaintext reports whether whoever is at an address may go without TLS.
func (c *tlsCreds) allowsPlaintext(from net.Addr) bool {
	switch c.mode {
	case PlaintextAlways:
		return true
	case PlaintextMigrate:
		ip := ipOf(from)
		return ip != nil && c.isLegacyAddr(ip)
	case PlaintextNever:
	}
	return false
}

// ipOf returns the IP address of a connection's end; nil: it has none.
func ipOf(a net.Addr) net.IP {
	host, _, _ := net.SplitHostPort(a.String())
	return net.ParseIP(host)
}

// logRefusal tells of a connection that was not taken.
func (c *tlsCreds) logRefusal(conn net.Conn, err error) {
	c.metrics.refusedConns.Inc()
	if errors.Is(err, errPlaintextRefused) || errors.Is(err, errNotOfFleet) {
		c.log.Warn("connection of a peer refused", "from", conn.RemoteAddr().String(), "err", err)
		return
	}
	c.log.Debug("connection of a peer refused", "from", conn.RemoteAddr().String(), "err", err)
}

// plaintextInfo is what is known of a peer that uses none.
type plaintextInfo struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (plaintextInfo) AuthType() string { return "plaintext" }

// prefixedConn is a connection of which the first byte was read.
type prefixedConn struct {
	net.Conn
	prefix []byte
}

// Read implements net.Conn.
func (b *prefixedConn) Read(p []byte) (int, error) {
	if len(b.prefix) > 0 && len(p) > 0 {
		n := copy(p, b.prefix)
		b.prefix = b.prefix[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}
