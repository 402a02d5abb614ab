package peertls

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fantail-dev/fantail/cluster/internal/testcert"
	"github.com/fantail-dev/fantail/cluster/placement"
)

var (
	secretA = []byte("0123456789abcdef")
	secretB = []byte("fedcba9876543210")
)

// membersAt is a fleet with members that speak TLS at these addresses.
type membersAt []string

func (m membersAt) View() *placement.View {
	var ms []placement.Member
	for _, addr := range m {
		ms = append(ms, placement.Member{Name: addr, RingKey: addr, RelayAddr: addr, Features: placement.FeatureTLS})
	}
	return placement.NewView(ms)
}

// credsOf returns the credentials of a node of the fleet test.
func credsOf(t *testing.T, id *Identity, secrets ...[]byte) *Credentials {
	t.Helper()
	return credsOfFleet(t, "test", id, secrets...)
}

func credsOfFleet(t *testing.T, fleet string, id *Identity, secrets ...[]byte) *Credentials {
	t.Helper()
	c, err := New(Config{FleetName: fleet, Secrets: secrets, Identity: id, Members: membersAt{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("does not happen: %s", what)
		}
	}
}

// dialWith opens a connection with a server of listenWith, and returns why it cannot.
func dialWith(t *testing.T, ln net.Listener, with credentials.TransportCredentials) (*grpc.ClientConn, error) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+ln.Addr().String(), grpc.WithTransportCredentials(with))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if s == connectivity.TransientFailure || !conn.WaitForStateChange(t.Context(), s) {
			return nil, errors.New("not accepted")
		}
	}
	return conn, nil
}

// A client without the fleet's secret gets no connection, nor does one in plaintext, nor one with a
// certificate of its own. Each is counted.
func TestStrangersGetNoConnection(t *testing.T) {
	t.Parallel()
	c := credsOf(t, nil, secretA)
	ln := listenWith(t, c)
	if _, err := dialWith(t, ln, clientCreds{credsOf(t, nil, secretA)}); err != nil {
		t.Fatalf("a member: %v", err)
	}
	tls12 := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	for name, with := range map[string]credentials.TransportCredentials{
		"another secret": clientCreds{credsOf(t, nil, secretB)},
		"another fleet":  clientCreds{credsOfFleet(t, "other", nil, secretA)},
		"plaintext":      insecure.NewCredentials(),
		"no certificate": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}),
		"TLS 1.2":        credentials.NewTLS(tls12),
	} {
		t.Run(name, func(t *testing.T) {
			before := testutil.ToFloat64(c.refused)
			if _, err := dialWith(t, ln, with); err == nil {
				t.Error("connected")
			}
			eventually(t, "it is counted", func() bool { return testutil.ToFloat64(c.refused) > before })
		})
	}
}

// A node does not speak to a server that only pretends to be of the fleet.
func TestServerWithAnotherSecretIsRefused(t *testing.T) {
	t.Parallel()
	conn := dialTCP(t, listenWith(t, credsOf(t, nil, secretB)))
	if _, _, err := (clientCreds{credsOf(t, nil, secretA)}).ClientHandshake(t.Context(), "", conn); !errors.Is(err, errNotOfFleet) {
		t.Errorf("a server with another secret: %v", err)
	}
}

// A connection ends once what its peer proved is no longer accepted, and no other one does.
func TestReplacedSecretEndsItsConnections(t *testing.T) {
	t.Parallel()
	c := credsOf(t, nil, secretA, secretB)
	ln := listenWith(t, c)
	old, err := dialWith(t, ln, clientCreds{credsOf(t, nil, secretA)})
	if err != nil {
		t.Fatal(err)
	}
	current, err := dialWith(t, ln, clientCreds{credsOf(t, nil, secretB, secretA)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProof("test", [][]byte{secretB}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.ReplaceProof(p)
	eventually(t, "the connection by the old secret ends", func() bool { return old.GetState() != connectivity.Ready })
	if s := current.GetState(); s != connectivity.Ready {
		t.Errorf("the other is %v", s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.provenConns {
		if p.checkPeer(conn.certs, conn.usage, conn.provenAt) != nil {
			t.Error("a connection by the old secret is still there")
		}
	}
}

// Connections that prove nothing are bounded, and end. One more evicts the oldest, and not itself,
// so clients that hold all slots keep no peer out.
func TestUnprovenConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	for name, member := range map[string]bool{"from a member's address": true, "from elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := credsOf(t, nil, secretA)
			if member {
				c.members = membersAt{"127.0.0.1:1"}
			}
			room, other := &c.strangerHandshakes, &c.memberHandshakes
			if member {
				room, other = other, room
			}
			ln := listenWith(t, c)
			first := dialTCP(t, ln)
			eventually(t, "the first is waited for", func() bool { return room.Count() == 1 })
			for range maxHandshakes - 1 {
				dialTCP(t, ln)
			}
			eventually(t, "all of them are waited for", func() bool { return room.Count() == maxHandshakes })
			conn, info, err := clientCreds{c}.ClientHandshake(t.Context(), "", dialTCP(t, ln))
			if err != nil {
				t.Fatalf("a peer beside them: %v", err)
			}
			if info.AuthType() != "tls" {
				t.Errorf("a peer beside them speaks %s", info.AuthType())
			}
			_ = conn.Close()
			if _, err := io.ReadAll(first); err != nil { // closed without a byte
				t.Errorf("the first of them: %v", err)
			}
			if n := other.Count(); n != 0 {
				t.Errorf("%d of them have places of the others", n)
			}
			eventually(t, "they are given up", func() bool { return room.Count() == 0 })
		})
	}
}

// listenWith serves a relay's port with credentials, and nothing behind them.
func listenWith(t *testing.T, c *Credentials) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(serverCreds{clientCreds{c}}), grpc.ConnectionTimeout(HandshakeTimeout))
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Stop(); <-served })
	return ln
}

// dialTCP opens a connection and sends nothing.
func dialTCP(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// identityOf returns an identity for a URI that accepts peers with one of the URIs.
func identityOf(ca *testcert.Authority, uri string, peers ...string) *Identity {
	return &Identity{Cert: ca.Issue(uri), Roots: ca.Pool(), PeerURIs: peers}
}

// With certificates the authority and the URI decide, and the secret opens gossip only.
func TestCertificatesDecideByAuthorityAndURI(t *testing.T) {
	t.Parallel()
	ca, other := testcert.NewAuthority(t), testcert.NewAuthority(t)
	const fantail = "spiffe://example.org/fantail"
	ln := listenWith(t, credsOf(t, identityOf(ca, fantail), secretA))
	for name, c := range map[string]struct {
		id *Identity
		ok bool
	}{
		"the same":               {identityOf(ca, fantail), true},
		"another workload":       {identityOf(ca, "spiffe://example.org/web"), false},
		"no URI":                 {identityOf(ca, ""), false},
		"below it":               {identityOf(ca, fantail+"/x"), false},
		"of another authority":   {identityOf(other, fantail), false},
		"accepts another itself": {identityOf(ca, fantail, "spiffe://example.org/"), true},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := credsOf(t, c.id, secretA)
			shown := *theirs.Proof()
			shown.roots, shown.peerURIs = c.id.Roots.Clone(), nil
			ca.AddTo(shown.roots) // to find out whether others accept it, not whether it accepts them
			theirs.proof.Store(&shown)
			if _, err := dialWith(t, ln, clientCreds{theirs}); (err == nil) != c.ok {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := dialWith(t, ln, clientCreds{credsOf(t, nil, secretA)}); err == nil {
		t.Error("the secret is accepted beside certificates")
	}
	mixed := identityOf(ca, "")
	mixed.Roots = other.Pool()
	if _, err := NewProof("test", [][]byte{secretA}, mixed); err == nil {
		t.Error("an identity that no peer would accept is taken")
	}
	if _, err := NewProof("test", [][]byte{secretA}, &Identity{}); err == nil {
		t.Error("an identity without an authority is taken")
	}
	below := &Proof{peerURIs: []string{"spiffe://example.org/ns/prod/"}}
	u, _ := url.Parse("spiffe://example.org/ns/prod/sa/fantail")
	if !below.matchesPeerURI(u) {
		t.Errorf("%v is not below %q", u, below.peerURIs)
	}
}
