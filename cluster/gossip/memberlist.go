package gossip

import (
	"bytes"
	"log"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
)

// A slow profile: gossip only decides owners. Links notice deaths.
const (
	gossipInterval    = 100 * time.Millisecond
	gossipNodes       = 4
	retransmitMult    = 10 // with 6, one of nine nodes misses 3 of 1,000 changes until the next push/pull
	pushPullInterval  = 10 * time.Second
	gossipTimeout     = 3 * time.Second
	handoffQueueDepth = 4096
	announceTimeout   = 2 * time.Second
	leaveTimeout      = 2 * time.Second
)

func (m *Membership) startMemberlist() error {
	host, p, err := net.SplitHostPort(m.cfg.ListenAddr)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = m.name
	cfg.BindAddr, cfg.BindPort = host, port
	cfg.AdvertiseAddr, cfg.AdvertisePort = m.cfg.AdvertiseIP, port
	cfg.Label = m.cfg.FleetName
	if cfg.Keyring, err = memberlist.NewKeyring(m.cfg.Secrets, m.cfg.Secrets[0]); err != nil {
		return err
	}
	m.keyring = cfg.Keyring
	cfg.GossipVerifyIncoming, cfg.GossipVerifyOutgoing = true, true
	cfg.GossipInterval, cfg.GossipNodes = gossipInterval, gossipNodes
	cfg.RetransmitMult = retransmitMult
	cfg.PushPullInterval = pushPullInterval
	cfg.TCPTimeout = gossipTimeout
	cfg.EnableCompression = false
	cfg.HandoffQueueDepth = handoffQueueDepth
	cfg.Delegate, cfg.Events = (*delegate)(m), (*delegate)(m)
	if cfg.Transport, err = m.cfg.Network.GossipTransport(m.cfg.ListenAddr); err != nil {
		return err
	}
	cfg.Logger = log.New(newMemberlistLog(m.log), "", 0) //nolint:forbidigo // what memberlist takes
	if cfg.Transport == nil {
		t, err := newTransport(host, port, cfg.Logger)
		if err != nil {
			return err
		}
		cfg.Transport, cfg.BindPort, cfg.AdvertisePort = t, t.GetAutoBindPort(), t.GetAutoBindPort()
	}
	if m.gossip, err = memberlist.Create(cfg); err != nil {
		_ = cfg.Transport.Shutdown()
		return err
	}
	m.gossipAddr = gossipAddrOf(m.gossip.LocalNode())
	return nil
}

func gossipAddrOf(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

// SetSecrets makes gossip use other secrets: the first encrypts, all decrypt.
func (m *Membership) SetSecrets(secrets [][]byte) error {
	for _, s := range secrets {
		if err := m.keyring.AddKey(s); err != nil {
			return err
		}
	}
	if err := m.keyring.UseKey(secrets[0]); err != nil {
		return err
	}
	for _, s := range m.keyring.GetKeys() {
		if slices.ContainsFunc(secrets, func(k []byte) bool { return bytes.Equal(k, s) }) {
			continue
		}
		if err := m.keyring.RemoveKey(s); err != nil {
			return err
		}
	}
	return nil
}

// delegate receives memberlist's callbacks. They run under memberlist's lock, so they only
// record changes.
type delegate Membership

func (d *delegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.self.Encode()
}

func (d *delegate) NotifyJoin(n *memberlist.Node)   { d.noteMember(n) }
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.noteMember(n) }

func (d *delegate) NotifyLeave(n *memberlist.Node) {
	d.mu.Lock()
	delete(d.others, n.Name)
	delete(d.gossipAddrs, n.Name)
	d.mu.Unlock()
	notify.Send(d.viewStale)
}

func (d *delegate) noteMember(n *memberlist.Node) {
	if n.Name == d.name {
		return
	}
	o, err := placement.DecodeMember(n.Name, n.Meta)
	if err != nil {
		d.log.Warn("member ignored: its metadata cannot be used", "peer", n.Name, "err", err)
		return
	}
	d.mu.Lock()
	d.gossipAddrs[n.Name] = gossipAddrOf(n)
	if old, ok := d.others[n.Name]; !ok || o.Revision > old.Revision {
		d.others[n.Name] = o
	}
	d.mu.Unlock()
	notify.Send(d.viewStale)
}

func (d *delegate) NotifyMsg([]byte)                {}
func (d *delegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}
