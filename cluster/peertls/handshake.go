package peertls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

var (
	errTooManyHandshakes = errors.New("evicted: too many connections that have not proved anything")
	errPlaintextRefused  = errors.New("plaintext, which is not accepted from this address")
	errPeerWithoutTLS    = errors.New("the member does not speak TLS, and this node allows no plaintext")
	errNotHTTP2          = errors.New("the peer does not speak HTTP/2 over TLS")
)

// ForDialing returns the credentials for dialling a member; secure: the member announces TLS.
func (c *Credentials) ForDialing(secure bool) (credentials.TransportCredentials, error) {
	switch {
	case secure:
		return clientCreds{c}, nil
	case c.mode == PlaintextNever:
		return nil, errPeerWithoutTLS
	default:
		return insecure.NewCredentials(), nil
	}
}

// ForListening returns the credentials for listening.
func (c *Credentials) ForListening() credentials.TransportCredentials {
	return serverCreds{clientCreds{c}}
}

func (c *Credentials) tlsConfig(usage x509.ExtKeyUsage) *tls.Config {
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

// trackConn registers the connection, so that it ends when its peer is no longer accepted.
func (c *Credentials) trackConn(conn *tls.Conn, batched *batchedConn, usage x509.ExtKeyUsage) (net.Conn, credentials.AuthInfo, error) {
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		_ = conn.Close()
		return nil, nil, errNotHTTP2
	}
	batched.startBatching()
	proven := &provenConn{Conn: conn, batched: batched, creds: c, certs: state.PeerCertificates, usage: usage, provenAt: time.Now()}
	c.mu.Lock()
	c.provenConns[proven] = struct{}{}
	c.mu.Unlock()
	if err := c.proof.Load().checkPeer(proven.certs, usage, proven.provenAt); err != nil { // the proof was replaced meanwhile
		_ = proven.Close()
		return nil, nil, err
	}
	return proven, credentials.TLSInfo{
		State: state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// clientCreds authenticates the side that dials a member with TLS.
type clientCreds struct{ creds *Credentials }

// ClientHandshake implements credentials.TransportCredentials.
func (c clientCreds) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (
	net.Conn, credentials.AuthInfo, error,
) {
	batched := newBatchedConn(raw)
	conn := tls.Client(batched, c.creds.tlsConfig(x509.ExtKeyUsageServerAuth))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	return c.creds.trackConn(conn, batched, x509.ExtKeyUsageServerAuth)
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
func (c clientCreds) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (clientCreds) OverrideServerName(string) error { return nil }

// serverCreds authenticates the side that listens. The first byte of a connection distinguishes TLS
// from plaintext.
type serverCreds struct{ clientCreds }

// Clone implements credentials.TransportCredentials.
func (s serverCreds) Clone() credentials.TransportCredentials { return s }

// ServerHandshake implements credentials.TransportCredentials. gRPC bounds its time
// (HandshakeTimeout).
func (s serverCreds) ServerHandshake(raw net.Conn) (
	conn net.Conn, info credentials.AuthInfo, err error,
) {
	c := s.creds
	defer func() {
		if err != nil {
			_ = raw.Close()
			c.logRefusal(raw, err)
		}
	}()
	slots := &c.strangerHandshakes
	if from := ipOf(raw.RemoteAddr()); from.IsValid() && c.members.View().HasMemberAt(from) {
		slots = &c.memberHandshakes
	}
	slot := slots.Acquire(raw)
	defer func() {
		if slots.Release(slot) && err != nil {
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
	ctx, cancel := context.WithTimeout(context.Background(), HandshakeTimeout)
	defer cancel()
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	return c.trackConn(tlsConn, batched, x509.ExtKeyUsageClientAuth)
}

// tlsHandshakeRecord is the first byte of a TLS connection. HTTP/2 begins with P.
const tlsHandshakeRecord = 0x16

// allowsPlaintext reports whether a peer at an address may speak without TLS.
func (c *Credentials) allowsPlaintext(from net.Addr) bool {
	switch c.mode {
	case PlaintextAlways:
		return true
	case PlaintextMigrate:
		ip := ipOf(from)
		return ip.IsValid() && c.members.View().HasLegacyAt(ip)
	case PlaintextNever:
	}
	return false
}

// ipOf returns the IP address of a connection's end, unmapped; the zero Addr: it has none.
func ipOf(a net.Addr) netip.Addr {
	at, _ := netip.ParseAddrPort(a.String())
	return at.Addr().Unmap()
}

// logRefusal logs and counts a connection that was refused.
func (c *Credentials) logRefusal(conn net.Conn, err error) {
	c.refused.Inc()
	if errors.Is(err, errPlaintextRefused) || errors.Is(err, errNotOfFleet) {
		c.log.Warn("connection of a peer refused", "from", conn.RemoteAddr().String(), "err", err)
		return
	}
	c.log.Debug("connection of a peer refused", "from", conn.RemoteAddr().String(), "err", err)
}

// plaintextInfo describes a peer without TLS.
type plaintextInfo struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (plaintextInfo) AuthType() string { return "plaintext" }

// prefixedConn gives back the first byte, which was read before.
type prefixedConn struct {
	net.Conn
	prefix []byte
}

// Read implements net.Conn.
func (c *prefixedConn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 && len(p) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
