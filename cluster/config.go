package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	sockaddr "github.com/hashicorp/go-sockaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/cluster/gossip"
	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/tracing"
)

// DefaultRelayPort is the port of the relay where an address has none.
const DefaultRelayPort = 4467

// maxSecrets bounds the secrets of a fleet: the secret in use, a secret that is being added or
// removed, and a few for nodes that are late.
const maxSecrets = 8

// Config configures a Node. Fields without a default are required.
type Config struct {
	// Name is the node's name (the pod's), at most 64 bytes. It is also the ring key, so it must
	// stay the same over restarts. A random suffix makes the member's name unique for each process.
	Name string
	// FleetName is the fleet's name: the label of its gossip, at most 255 bytes.
	FleetName string
	// Secrets holds the fleet's secrets, of 16, 24 or 32 bytes each, at most maxSecrets, the same
	// on all nodes. The first encrypts gossip, and all decrypt it. To the relays of others this
	// node proves that it knows the first; they may prove any.
	Secrets [][]byte
	// Identity, unless nil, is proved to other relays instead.
	Identity *peertls.Identity
	// ReloadCredentials, unless nil, is called every renewInterval and returns the current secrets and
	// identity. After an error the previous ones stay.
	ReloadCredentials func() (secrets [][]byte, id *peertls.Identity, err error)
	// ReadsMode is the mode of the stream manager. It is told to the other nodes, which warn of a
	// difference.
	ReadsMode shard.Mode
	// PlaintextMode selects the peers with which the relay speaks without TLS.
	PlaintextMode peertls.PlaintextMode
	// GossipAddr is the address, host:port, on which gossip listens, over TCP and UDP (default: all
	// addresses, DefaultPort). Port 0 chooses a free one.
	GossipAddr string
	// RelayAddr is the address, host:port, of the gRPC server (default: Advertise, DefaultRelayPort).
	// Port 0 chooses a free one.
	RelayAddr string
	// AdvertiseIP is the IP address that other nodes get for both (default: that of Gossip, or the
	// machine's private address if Gossip listens on all addresses).
	AdvertiseIP string
	// HTTPAddr is the node's public address, which other nodes only display.
	HTTPAddr string
	// Join lists addresses, host or host:port, of other nodes. A name may stand for many nodes, and
	// is looked up again and again. Empty: this node begins a fleet, or other nodes join it.
	Join []string
	// AloneAfter bounds the time for which a node with Join owns nothing while it finds no other
	// node (default 30 s).
	AloneAfter time.Duration
	// ChangeNotice is the time between the announcement of a change and the change, when this node
	// begins or ceases to own streams (default 2 s, four times what gossip takes; negative: none).
	ChangeNotice time.Duration
	// StableFor is the time without a change of owners after which readers are balanced (default 1
	// min). In the middle of a deploy they would be sent to nodes that stop next.
	StableFor time.Duration
	// Now is the clock for the dates of a View (default time.Now).
	Now func() time.Time
	// Logger receives changes of state (default: none are logged).
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Tracer begins the traces of handovers, and continues those of peers (nil: nothing is traced).
	Tracer *tracing.Tracer

	// PeerWriteBytes bounds the bytes that peers' writes hold (64 MiB), and LinkCreditBytes the credit of all
	// links together: the bytes that may be on their way to this node (256 MiB).
	PeerWriteBytes, LinkCreditBytes int64

	// Network connects the nodes (default: this machine's network).
	Network Network

	subscriptionWindow, linkWindow int           // smaller in tests
	renewInterval                  time.Duration // shorter in tests
	bodyGrace                      time.Duration // shorter in tests
	storeGated                     bool          // set by Join: the stream manager probes S2 (shard.Standing)
	handOverToAny                  bool          // tests only: streams are handed over to any member
	relayVersion                   uint8         // older in tests
}

// renewInterval is the pause between two checks for changed secrets or a changed identity.
const renewInterval = 10 * time.Second

// validate sets the defaults and returns all errors together.
func (c *Config) validate() error {
	var errs []error
	wrong := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	c.setDefaults()
	if c.Name == "" {
		wrong("cluster: no node name")
	}
	if n := len(c.Name); n > placement.MaxRingKey {
		wrong("cluster: node name of %d bytes: at most %d", n, placement.MaxRingKey)
	}
	if n := len(c.FleetName); n == 0 || n > 255 {
		wrong("cluster: cluster name of %d bytes: want 1 to 255", n)
	}
	if err := CheckSecrets(c.Secrets); err != nil {
		errs = append(errs, err)
	}
	if join, err := gossip.ParseJoinAddrs(c.Join); err != nil {
		wrong("cluster: join: %w", err)
	} else {
		c.Join = join
	}
	host, _, err := splitHostPort(c.GossipAddr)
	if err != nil {
		wrong("cluster: gossip address: %w", err)
	}
	if ip := net.ParseIP(host); c.AdvertiseIP == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
		if c.AdvertiseIP, err = sockaddr.GetPrivateIP(); err != nil {
			wrong("cluster: private address: %w", err)
		}
	} else if c.AdvertiseIP == "" {
		c.AdvertiseIP = host
	}
	if ip := net.ParseIP(c.AdvertiseIP); ip == nil || ip.IsUnspecified() {
		wrong("cluster: advertised address %q: want an IP address that others can reach", c.AdvertiseIP)
	}
	if c.RelayAddr == "" {
		c.RelayAddr = net.JoinHostPort(c.AdvertiseIP, strconv.Itoa(DefaultRelayPort))
	}
	if host, _, err := splitHostPort(c.RelayAddr); err != nil {
		wrong("cluster: relay address: %w", err)
	} else if isLoopback(host) && !isLoopback(c.AdvertiseIP) {
		wrong("cluster: relay address %q: other nodes, which know this node as %s, cannot reach it", c.RelayAddr, c.AdvertiseIP)
	}
	if len(c.HTTPAddr) > placement.MaxAddress {
		wrong("cluster: HTTP address of %d bytes: at most %d", len(c.HTTPAddr), placement.MaxAddress)
	}
	return errors.Join(errs...)
}

// CheckSecrets reports what is wrong with the secrets of a fleet.
func CheckSecrets(secrets [][]byte) error {
	if n := len(secrets); n == 0 || n > maxSecrets {
		return fmt.Errorf("cluster: %d secrets: want 1 to %d", n, maxSecrets)
	}
	for _, s := range secrets {
		if n := len(s); n != 16 && n != 24 && n != 32 {
			return fmt.Errorf("cluster: secret of %d bytes: want 16, 24 or 32", n)
		}
	}
	return nil
}

func (c *Config) setDefaults() {
	if c.GossipAddr == "" {
		c.GossipAddr = ":" + strconv.Itoa(gossip.DefaultPort)
	}
	if c.AloneAfter <= 0 {
		c.AloneAfter = 30 * time.Second
	}
	if c.ChangeNotice == 0 {
		c.ChangeNotice = 2 * time.Second
	}
	c.ChangeNotice = max(c.ChangeNotice, 0)
	if c.StableFor <= 0 {
		c.StableFor = time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.renewInterval <= 0 {
		c.renewInterval = renewInterval
	}
	if c.Network == nil {
		c.Network = hostNetwork{}
	}
	if c.relayVersion == 0 {
		c.relayVersion = placement.RelayVersionNewest
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func splitHostPort(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %q", p)
	}
	return host, port, nil
}
