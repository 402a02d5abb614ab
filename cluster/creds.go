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
// One more takes the place of the oldest. Each ends by itself within greetTimeout.
const maxHandshakes = 128

// creds is how the relay's connections are made trustworthy, on both sides.
type creds struct {
	// set at construction
	mode   Plaintext
	log    *slog.Logger
	met    *metrics
	elder  func(net.IP) bool // a member is there that does not speak TLS
	member func(net.IP) bool // a member is there

	proof              atomic.Pointer[proof]
	members, strangers crowd // by the address that a connection comes from

	mu    sync.Mutex
	conns map[*heldConn]struct{} // over TLS
}

func newCreds(cfg *Config, met *metrics) (*creds, error) {
	p, err := newProof(cfg.Cluster, cfg.Secrets, cfg.Identity)
	if err != nil {
		return nil, err
	}
	c := &creds{
		mode: cfg.Plaintext, log: cfg.Logger, met: met, elder: nobodyAt, member: nobodyAt,
		members: crowd{places: maxHandshakes}, strangers: crowd{places: maxHandshakes}, conns: map[*heldConn]struct{}{},
	}
	c.proof.Store(p)
	return c, nil
}

func nobodyAt(net.IP) bool { return false }

// of is how to speak to a member; secure: it says that it speaks TLS.
func (c *creds) of(secure bool) (credentials.TransportCredentials, error) {
	switch {
	case secure:
		return clientCreds{c}, nil
	case c.mode == PlaintextNever:
		return nil, errNoTLS
	default:
		return insecure.NewCredentials(), nil
	}
}

// renew replaces what is shown and accepted, and cuts the connections of whom that accepts
// no more: a secret is changed because somebody else may know it.
func (c *creds) renew(p *proof) {
	c.proof.Store(p)
	c.mu.Lock()
	var out []*heldConn
	for h := range c.conns {
		if p.accept(h.certs, h.usage, h.at) != nil {
			out = append(out, h)
		}
	}
	c.mu.Unlock()
	for _, h := range out {
		_ = h.Close()
	}
}

// heldConn is a connection whose peer has proved what it is.
type heldConn struct {
	net.Conn
	below *batched
	c     *creds
	certs []*x509.Certificate
	usage x509.ExtKeyUsage
	at    time.Time
}

// Write implements net.Conn.
func (h *heldConn) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	if err == nil {
		err = h.below.flush()
	}
	return n, err
}

// Close implements net.Conn.
func (h *heldConn) Close() error {
	h.c.mu.Lock()
	delete(h.c.conns, h)
	h.c.mu.Unlock()
	return h.Conn.Close()
}

var (
	errCrowd     = errors.New("too many connections that prove nothing")
	errPlaintext = errors.New("plaintext, from whom none is taken")
	errNoTLS     = errors.New("the member does not speak TLS, and plaintext is ruled out here")
	errProtocol  = errors.New("no HTTP/2 over TLS")
)

func (c *creds) config(usage x509.ExtKeyUsage) *tls.Config {
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
			return c.proof.Load().accept(s.PeerCertificates, usage, time.Now())
		},
	}
}

// hold has a connection end when its peer is accepted no more.
func (c *creds) hold(conn *tls.Conn, below *batched, usage x509.ExtKeyUsage) (net.Conn, credentials.AuthInfo, error) {
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		_ = conn.Close()
		return nil, nil, errProtocol
	}
	below.start()
	h := &heldConn{Conn: conn, below: below, c: c, certs: state.PeerCertificates, usage: usage, at: time.Now()}
	c.mu.Lock()
	c.conns[h] = struct{}{}
	c.mu.Unlock()
	if err := c.proof.Load().accept(h.certs, usage, h.at); err != nil { // renewed meanwhile
		_ = h.Close()
		return nil, nil, err
	}
	return h, credentials.TLSInfo{
		State: state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// clientCreds is the side that dials a member which speaks TLS.
type clientCreds struct{ c *creds }

// ClientHandshake implements credentials.TransportCredentials.
func (t clientCreds) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (
	net.Conn, credentials.AuthInfo, error,
) {
	below := newBatched(raw)
	conn := tls.Client(below, t.c.config(x509.ExtKeyUsageServerAuth))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	return t.c.hold(conn, below, x509.ExtKeyUsageServerAuth)
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
	c := t.c
	defer func() {
		if err != nil {
			_ = raw.Close()
			c.refused(raw, err)
		}
	}()
	room := &c.strangers
	if from := addressOf(raw.RemoteAddr()); from != nil && c.member(from) {
		room = &c.members
	}
	place := room.enter(raw)
	defer func() {
		if room.leave(place) && err != nil {
			err = errCrowd
		}
	}()
	var first [1]byte
	if _, err := raw.Read(first[:]); err != nil {
		return nil, nil, err
	}
	begun := &begunConn{Conn: raw, first: first[:]}
	below := newBatched(begun)
	if first[0] != recordHandshake {
		if !c.takesPlaintext(raw.RemoteAddr()) {
			return nil, nil, errPlaintext
		}
		return begun, plaintext{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
	}
	over := tls.Server(below, c.config(x509.ExtKeyUsageClientAuth))
	ctx, cancel := context.WithTimeout(context.Background(), greetTimeout)
	defer cancel()
	if err := over.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	return c.hold(over, below, x509.ExtKeyUsageClientAuth)
}

// recordHandshake is the first byte of TLS. That of HTTP/2 is P.
const recordHandshake = 0x16

// takesPlaintext reports whether whoever is at an address may go without TLS.
func (c *creds) takesPlaintext(from net.Addr) bool {
	switch c.mode {
	case PlaintextAlways:
		return true
	case PlaintextMigrate:
		ip := addressOf(from)
		return ip != nil && c.elder(ip)
	case PlaintextNever:
	}
	return false
}

// addressOf returns the IP address of a connection's end; nil: it has none.
func addressOf(a net.Addr) net.IP {
	host, _, _ := net.SplitHostPort(a.String())
	return net.ParseIP(host)
}

// refused tells of a connection that was not taken.
func (c *creds) refused(conn net.Conn, err error) {
	c.met.refused.Inc()
	if errors.Is(err, errPlaintext) || errors.Is(err, errStranger) {
		c.log.Warn("connection of a peer refused", "from", conn.RemoteAddr().String(), "err", err)
		return
	}
	c.log.Debug("connection of a peer refused", "from", conn.RemoteAddr().String(), "err", err)
}

// plaintext is what is known of a peer that uses none.
type plaintext struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (plaintext) AuthType() string { return "plaintext" }

// begunConn is a connection of which the first byte was read.
type begunConn struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (b *begunConn) Read(p []byte) (int, error) {
	if len(b.first) > 0 && len(p) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}
