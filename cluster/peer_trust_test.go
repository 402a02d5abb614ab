package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fantail-dev/fantail/cluster/internal/testcert"
	"github.com/fantail-dev/fantail/cluster/peertls"
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

// credsOf returns credentials of a node of the fleet test.
func credsOf(t *testing.T, secrets ...[]byte) *peertls.Credentials {
	t.Helper()
	c, err := peertls.New(peertls.Config{FleetName: "test", Secrets: secrets, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// asPeer returns credentials for dialling a node over TLS.
func asPeer(t *testing.T, c *peertls.Credentials) credentials.TransportCredentials {
	t.Helper()
	with, err := c.ForDialing(true)
	if err != nil {
		t.Fatal(err)
	}
	return with
}

// A client without the fleet's secret gets no answer from the relay's port, nor does one in
// plaintext, nor one with a certificate of its own.
func TestStrangersGetNoAnswerFromTheRelay(t *testing.T) {
	t.Parallel()
	f, reg := newFleet(t, 1), prometheus.NewRegistry()
	s := f.add(func(c *Config) { c.Metrics = reg })
	f.awaitAgreement()
	if err := f.callRelay(s, asPeer(t, credsOf(t, secretA))); err != nil {
		t.Fatalf("a member: %v", err)
	}
	tls12 := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	for name, with := range map[string]credentials.TransportCredentials{
		"another secret": asPeer(t, credsOf(t, secretB)),
		"plaintext":      insecure.NewCredentials(),
		"no certificate": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}),
		"TLS 1.2":        credentials.NewTLS(tls12),
	} {
		t.Run(name, func(t *testing.T) {
			if err := f.callRelay(s, with); err == nil {
				t.Error("answered")
			}
		})
	}
	f.eventually("they are counted", func() bool { return refusedConns(t, reg) >= 4 })
}

// refusedConns returns how many connections a node has refused.
func refusedConns(t *testing.T, reg prometheus.Gatherer) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.GetName() == "fantail_relay_refused_total" {
			return m.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("not a metric")
	return 0
}

// dialRecorder is the network of this machine, and records whether connections between nodes began
// with TLS.
type dialRecorder struct {
	hostNetwork
	from string

	mu    *sync.Mutex
	links map[string]bool // by "from to": over TLS
}

func (d *dialRecorder) Dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := d.hostNetwork.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &recordedConn{Conn: conn, d: d, to: addr}, nil
}

type recordedConn struct {
	net.Conn
	d     *dialRecorder
	to    string
	first atomic.Bool
}

func (c *recordedConn) Write(b []byte) (int, error) {
	if !c.first.Swap(true) {
		c.d.mu.Lock()
		c.d.links[c.d.from+" "+c.to] = b[0] == 0x16
		c.d.mu.Unlock()
	}
	return c.Conn.Write(b)
}

// A member of a release without TLS is spoken to in plaintext, both ways, and no other is. Once it
// is gone the port accepts no plaintext.
func TestMigrationToTLS(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	links := map[string]bool{}
	on := func(name string) func(*Config) {
		return func(c *Config) { c.Network = &dialRecorder{from: name, mu: &mu, links: links} }
	}
	f := newFleet(t, 0)
	f.add(on("n0"))
	f.add(on("n1"))
	f.awaitAgreement()
	if err := f.callRelay(f.nodes[0], insecure.NewCredentials()); err == nil {
		t.Error("plaintext is taken though every member speaks TLS")
	}
	old := f.add(on("old"), func(c *Config) { c.PlaintextMode = peertls.PlaintextAlways })
	f.awaitAgreement()
	if old.View().Member(old.self).Features&placement.FeatureTLS != 0 || f.nodes[0].View().Member(f.nodes[0].self).Features&placement.FeatureTLS == 0 {
		t.Fatal("gossip does not say who speaks TLS")
	}
	mu.Lock()
	a, b, c := f.nodes[0].relayAddr(), f.nodes[1].relayAddr(), old.relayAddr()
	want := map[string]bool{ // the old one uses TLS with a member that announces it
		"n0 " + b: true, "n1 " + a: true, "old " + a: true, "old " + b: true, "n0 " + c: false, "n1 " + c: false,
	}
	for link, secure := range want {
		if got, ok := links[link]; !ok || got != secure {
			t.Errorf("%s is over TLS: %v, dialled: %v", link, got, ok)
		}
	}
	mu.Unlock()
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
	f.add(func(c *Config) { c.PlaintextMode = peertls.PlaintextNever })
	old := f.add(func(c *Config) { c.PlaintextMode = peertls.PlaintextAlways })
	f.eventually("they know each other", func() bool {
		return len(f.nodes[0].View().Members()) == 2 && len(old.View().Members()) == 2
	})
	f.eventually("the old one reaches the other over TLS", func() bool { return old.peers.Link(f.nodes[0].self) != nil })
	if f.nodes[0].peers.Link(old.self) != nil {
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
			c.ReloadCredentials = func() ([][]byte, *peertls.Identity, error) { return *secrets[i].Load(), nil, nil }
		})
	}
	f.awaitAgreement()
	id := f.streamOwnedBy(f.nodes[2])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	r := f.startReader(f.nodes[1], id)
	var want []string
	held, err := grpc.NewClient("passthrough:///"+f.nodes[0].relayAddr(), grpc.WithTransportCredentials(asPeer(t, credsOf(t, secretA, secretB))))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := relaypb.NewRelayClient(held).Ping(t.Context(), &relaypb.PingRequest{}); err != nil {
		t.Fatal(err)
	}
	view := f.nodes[0].View()
	for step, s := range [][][]byte{{secretA, secretB}, {secretB, secretA}, {secretB}} {
		for i := range secrets {
			set(i, s...)
			f.eventually("the node has taken it over", func() bool {
				return f.nodes[i].creds.Proof().Equal(credsOf(t, s...).Proof())
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
	if err := f.callRelay(f.nodes[0], asPeer(t, credsOf(t, secretA))); err == nil {
		t.Error("the old secret opens the relay")
	}
	f.eventually("the connection by the old secret ends", func() bool { return held.GetState() != connectivity.Ready })
	late := f.add(func(c *Config) { c.Secrets = [][]byte{secretB} })
	f.awaitAgreement()
	f.mustDo(late, write(id, shard.OpAppend, "late"), shard.CodeAppended)
}

// A fleet changes from its secret to certificates node by node, in three steps, without a
// split.
func TestFleetMovesFromSecretToCertificates(t *testing.T) {
	t.Parallel()
	ca := testcert.NewAuthority(t)
	f := newFleet(t, 0)
	var ids [3]atomic.Pointer[peertls.Identity]
	for i := range ids {
		f.add(func(c *Config) {
			c.renewInterval = 10 * time.Millisecond
			c.ReloadCredentials = func() ([][]byte, *peertls.Identity, error) { return [][]byte{secretA}, ids[i].Load(), nil }
			c.Secrets = [][]byte{secretA}
		})
	}
	f.awaitAgreement()
	id := f.streamOwnedBy(f.nodes[2])
	f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
	r := f.startReader(f.nodes[1], id)
	var want []string
	for step, of := range []func() *peertls.Identity{
		func() *peertls.Identity { return &peertls.Identity{Roots: ca.Pool()} },
		func() *peertls.Identity {
			return &peertls.Identity{Cert: ca.Issue("spiffe://x/fantail"), Roots: ca.Pool(), AcceptSecrets: true}
		},
		func() *peertls.Identity {
			return &peertls.Identity{Cert: ca.Issue("spiffe://x/fantail"), Roots: ca.Pool()}
		},
	} {
		for i := range ids {
			before := f.nodes[i].creds.Proof()
			ids[i].Store(of())
			f.eventually("the node has taken it over", func() bool { return f.nodes[i].creds.Proof() != before })
			f.awaitAgreement()
			m := fmt.Sprintf("%d.%d", step, i)
			f.mustDo(f.nodes[(step+i)%3], write(id, shard.OpAppend, m), shard.CodeAppended)
			want = append(want, m)
			f.awaitMessages(r, want)
		}
	}
	f.awaitAgreement()
	for _, s := range f.nodes {
		if err := f.callRelay(s, asPeer(t, credsOf(t, secretA))); err == nil {
			t.Error("the secret still opens the relay")
		}
	}
	if n := f.log.OpenSessions(); n != 1 {
		t.Errorf("%d sessions for one stream", n)
	}
}
