package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

var (
	secretA = []byte("0123456789abcdef")
	secretB = []byte("fedcba9876543210")
)

// callRelay makes a call to a node's relay with the given credentials.
func (f *fleet) callRelay(s *testNode, with credentials.TransportCredentials) error {
	f.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.relayAddr(), grpc.WithTransportCredentials(with))
	if err != nil {
		f.Fatal(err)
	}
	defer conn.Close()
	_, err = relaypb.NewRelayClient(conn).Ping(f.Context(), &relaypb.PingRequest{})
	return err
}

// membersAt is a fleet with members that speak TLS at these addresses.
type membersAt []string

func (a membersAt) View() *placement.View {
	var ms []placement.Member
	for _, addr := range a {
		ms = append(ms, placement.Member{Name: addr, RingKey: addr, RelayAddr: addr, Features: placement.FeatureTLS})
	}
	return placement.NewView(ms)
}

func tlsCredsOf(t *testing.T, cluster string, id *Identity, secrets ...[]byte) *tlsCreds {
	t.Helper()
	cfg := Config{FleetName: cluster, Secrets: secrets, Identity: id}
	cfg.setDefaults()
	c, err := newTLSCreds(&cfg, newMetrics(nil), membersAt{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A client without the fleet's secret gets no answer from the relay's port, nor does one in
// plaintext, nor one with a certificate of its own.
func TestStrangersGetNoAnswerFromTheRelay(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	s := f.nodes[0]
	if err := f.callRelay(s, clientCreds{tlsCredsOf(t, "test", nil, secretA)}); err != nil {
		t.Fatalf("a member: %v", err)
	}
	tls12 := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	for name, with := range map[string]credentials.TransportCredentials{
		"another secret": clientCreds{tlsCredsOf(t, "test", nil, secretB)},
		"another fleet":  clientCreds{tlsCredsOf(t, "other", nil, secretA)},
		"plaintext":      insecure.NewCredentials(),
		"no certificate": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}),
		"TLS 1.2":        credentials.NewTLS(tls12),
	} {
		if err := f.callRelay(s, with); err == nil {
			t.Errorf("%s: answered", name)
		}
	}
	f.eventually("they are counted", func() bool { return testutil.ToFloat64(s.metrics.refusedConns) >= 5 })
	// A node does not speak to a server that only pretends, either.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	fake := grpc.NewServer(grpc.Creds(serverCreds{clientCreds{tlsCredsOf(t, "test", nil, secretB)}}))
	go func() { _ = fake.Serve(ln) }()
	defer fake.Stop()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (clientCreds{s.creds}).ClientHandshake(t.Context(), "", conn); !errors.Is(err, errNotOfFleet) {
		t.Errorf("a server with another secret: %v", err)
	}
}

// Connections that prove nothing are bounded, and end. One more evicts the oldest, and not itself,
// so clients that hold all slots keep no peer out.
func TestUnprovenConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	for name, member := range map[string]bool{"from a member's address": true, "from elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, c := &fleet{T: t}, tlsCredsOf(t, "test", nil, secretA)
			if member {
				c.members = membersAt{"127.0.0.1:1"}
			}
			room, other := &c.strangerHandshakes, &c.memberHandshakes
			if member {
				room, other = other, room
			}
			ln := listenWith(t, c)
			first := dialTCP(t, ln)
			f.eventually("the first is waited for", func() bool { return room.Count() == 1 })
			for range maxHandshakes - 1 {
				dialTCP(t, ln)
			}
			f.eventually("all of them are waited for", func() bool { return room.Count() == maxHandshakes })
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
			f.eventually("they are given up", func() bool { return room.Count() == 0 })
		})
	}
}

// listenWith serves a relay's port with credentials, and nothing behind them.
func listenWith(t *testing.T, c *tlsCreds) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(serverCreds{clientCreds{c}}), grpc.ConnectionTimeout(handshakeTimeout))
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

// A member of a release without TLS is spoken to in plaintext, both ways, and no other is. Once it
// is gone the port accepts no plaintext.
func TestMigrationToTLS(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	if err := f.callRelay(f.nodes[0], insecure.NewCredentials()); err == nil {
		t.Error("plaintext is taken though every member speaks TLS")
	}
	old := f.add(func(c *Config) { c.PlaintextMode = PlaintextAlways })
	f.awaitAgreement()
	if old.View().Member(old.self).Features&placement.FeatureTLS != 0 || f.nodes[0].View().Member(f.nodes[0].self).Features&placement.FeatureTLS == 0 {
		t.Fatal("gossip does not say who speaks TLS")
	}
	f.nodes[0].creds.mu.Lock()
	secure := len(f.nodes[0].creds.provenConns)
	f.nodes[0].creds.mu.Unlock()
	if secure != 3 { // to and from node 1, and from the old one, which uses TLS with a member that announces it
		t.Errorf("%d connections over TLS", secure)
	}
	if err := f.callRelay(f.nodes[0], insecure.NewCredentials()); err != nil {
		t.Errorf("plaintext from the address of an old member: %v", err)
	}
	id := f.streamOwnedBy(old)
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	f.mustDo(f.nodes[1], write(id, shard.OpAppend, "x"), shard.CodeAppended)
	f.awaitMessages(f.startReader(f.nodes[0], id), []string{"x"})
	old.dead = true
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	f.awaitAgreement()
	if err := f.callRelay(f.nodes[0], insecure.NewCredentials()); err == nil {
		t.Error("plaintext is still taken")
	}
}

// A node that forbids plaintext has no link to a member without TLS.
func TestNoLinkInPlaintextWhereItIsForbidden(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	f.add(func(c *Config) { c.PlaintextMode = PlaintextNever })
	old := f.add(func(c *Config) { c.PlaintextMode = PlaintextAlways })
	f.eventually("they know each other", func() bool {
		return len(f.nodes[0].View().Members()) == 2 && len(old.View().Members()) == 2
	})
	f.eventually("the old one reaches the other over TLS", func() bool { return old.peers.link(f.nodes[0].self) != nil })
	if f.nodes[0].peers.link(old.self) != nil {
		t.Error("plaintext is spoken")
	}
	if err := f.callRelay(f.nodes[0], insecure.NewCredentials()); err == nil {
		t.Error("plaintext is taken")
	}
}

// A secret is changed in three steps, node by node. No step splits the fleet, and after the last
// one the old secret opens neither gossip nor the relay.
func TestSecretsAreRotatedWithoutASplit(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	var secrets [3]atomic.Pointer[[][]byte]
	set := func(i int, s ...[]byte) { secrets[i].Store(&s) }
	for i := range secrets {
		set(i, secretA)
		f.add(func(c *Config) {
			c.renewInterval = 10 * time.Millisecond
			c.ReloadCredentials = func() ([][]byte, *Identity, error) { return *secrets[i].Load(), nil, nil }
		})
	}
	f.awaitAgreement()
	id := f.streamOwnedBy(f.nodes[2])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	r := f.startReader(f.nodes[1], id)
	var want []string
	view := f.nodes[0].View()
	for step, s := range [][][]byte{{secretA, secretB}, {secretB, secretA}, {secretB}} {
		for i := range secrets {
			set(i, s...)
			f.eventually("the node has taken it over", func() bool {
				p := f.nodes[i].creds.proof.Load()
				return len(p.acceptedKeys) == len(s) && string(p.secrets[0]) == string(s[0])
			})
			m := fmt.Sprintf("%d.%d", step, i)
			f.mustDo(f.nodes[(step+i)%3], write(id, shard.OpAppend, m), shard.CodeAppended)
			want = append(want, m)
			f.awaitMessages(r, want)
			f.awaitAgreement()
		}
	}
	if f.nodes[0].View() != view {
		t.Error("the view changed")
	}
	if n := f.log.OpenSessions(); n != 1 {
		t.Errorf("%d sessions for one stream", n)
	}
	if err := f.callRelay(f.nodes[0], clientCreds{tlsCredsOf(t, "test", nil, secretA)}); err == nil {
		t.Error("the old secret opens the relay")
	}
	late := f.add(func(c *Config) { c.Secrets = [][]byte{secretB} })
	f.awaitAgreement()
	f.mustDo(late, write(id, shard.OpAppend, "late"), shard.CodeAppended)
	for _, s := range f.nodes {
		s.creds.mu.Lock()
		for h := range s.creds.provenConns {
			if s.creds.proof.Load().checkPeer(h.certs, h.usage, h.provenAt) != nil {
				t.Error("a connection by the old secret is still there")
			}
		}
		s.creds.mu.Unlock()
	}
}

// authority is a certificate authority.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	return a
}

// issue returns a certificate for a URI, without a name or an address.
func (a *authority) issue(uri string, peers ...string) *Identity {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if uri != "" {
		u, _ := url.Parse(uri)
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	id := &Identity{Cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, Roots: x509.NewCertPool(), PeerURIs: peers}
	id.Roots.AddCert(a.cert)
	return id
}

// With certificates the authority and the URI decide, and the secret opens gossip only.
func TestCertificatesDecideByAuthorityAndURI(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	const fantail = "spiffe://example.org/fantail"
	f := newFleet(t, 0)
	f.add(func(c *Config) { c.Identity = ca.issue(fantail) })
	f.add(func(c *Config) { c.Identity = ca.issue(fantail) })
	f.awaitAgreement()
	id := f.streamOwnedBy(f.nodes[0])
	f.mustDo(f.nodes[1], write(id, shard.OpCreate), shard.CodeCreated)
	for name, c := range map[string]struct {
		id *Identity
		ok bool
	}{
		"the same":               {ca.issue(fantail), true},
		"another workload":       {ca.issue("spiffe://example.org/web"), false},
		"no URI":                 {ca.issue(""), false},
		"below it":               {ca.issue(fantail + "/x"), false},
		"of another authority":   {other.issue(fantail), false},
		"accepts another itself": {ca.issue(fantail, "spiffe://example.org/"), true},
	} {
		theirs := tlsCredsOf(t, "test", c.id, secretA)
		p := theirs.proof.Load()
		shown := *p
		shown.roots, shown.peerURIs = c.id.Roots.Clone(), nil
		shown.roots.AddCert(ca.cert) // to find out whether others accept it, not whether it accepts them
		theirs.proof.Store(&shown)
		if err := f.callRelay(f.nodes[0], clientCreds{theirs}); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.callRelay(f.nodes[0], clientCreds{tlsCredsOf(t, "test", nil, secretA)}); err == nil {
		t.Error("the secret opens the relay beside certificates")
	}
	mixed := ca.issue("")
	mixed.Roots = other.issue("").Roots
	if _, err := newFleetProof("test", [][]byte{secretA}, mixed); err == nil {
		t.Error("an identity that no peer would accept is taken")
	}
	if _, err := newFleetProof("test", [][]byte{secretA}, &Identity{}); err == nil {
		t.Error("an identity without an authority is taken")
	}
	below := &fleetProof{peerURIs: []string{"spiffe://example.org/ns/prod/"}}
	u, _ := url.Parse("spiffe://example.org/ns/prod/sa/fantail")
	if !below.matchesPeerURI(u) {
		t.Errorf("%v is not below %q", u, below.peerURIs)
	}
}

// A fleet changes from its secret to certificates node by node, in three steps, without a
// split.
func TestFleetMovesFromSecretToCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	f := newFleet(t, 0)
	var ids [3]atomic.Pointer[Identity]
	for i := range ids {
		f.add(func(c *Config) {
			c.renewInterval = 10 * time.Millisecond
			c.ReloadCredentials = func() ([][]byte, *Identity, error) { return [][]byte{secretA}, ids[i].Load(), nil }
			c.Secrets = [][]byte{secretA}
		})
	}
	f.awaitAgreement()
	id := f.streamOwnedBy(f.nodes[2])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	r := f.startReader(f.nodes[1], id)
	var want []string
	for step, of := range []func() *Identity{
		func() *Identity { return &Identity{Roots: ca.issue("").Roots} },
		func() *Identity { i := ca.issue("spiffe://x/fantail"); i.AcceptSecrets = true; return i },
		func() *Identity { return ca.issue("spiffe://x/fantail") },
	} {
		for i := range ids {
			before := f.nodes[i].creds.proof.Load()
			ids[i].Store(of())
			f.eventually("the node has taken it over", func() bool { return f.nodes[i].creds.proof.Load() != before })
			f.awaitAgreement()
			m := fmt.Sprintf("%d.%d", step, i)
			f.mustDo(f.nodes[(step+i)%3], write(id, shard.OpAppend, m), shard.CodeAppended)
			want = append(want, m)
			f.awaitMessages(r, want)
		}
	}
	f.awaitAgreement()
	for _, s := range f.nodes {
		if err := f.callRelay(s, clientCreds{tlsCredsOf(t, "test", nil, secretA)}); err == nil {
			t.Error("the secret still opens the relay")
		}
	}
	if n := f.log.OpenSessions(); n != 1 {
		t.Errorf("%d sessions for one stream", n)
	}
}
