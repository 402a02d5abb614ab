package gossip

import (
	"context"
	"fmt"
	"io"
	"log" //nolint:depguard // what memberlist takes
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// Ping asks the node at an address of gossip for an answer over UDP, encrypted with the secret of the
// fleet, as the nodes do among each other. It joins nothing: the node does not take the caller for a
// member. It returns the round trip.
func Ping(ctx context.Context, fleet string, secret []byte, addr string) (time.Duration, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return 0, err
	}
	from, err := (&net.Dialer{}).DialContext(ctx, "udp", to.String()) // nothing is sent; it tells the own address
	if err != nil {
		return 0, err
	}
	local, ok := from.LocalAddr().(*net.UDPAddr)
	_ = from.Close()
	if !ok {
		return 0, fmt.Errorf("%s is no address of UDP", addr)
	}
	cfg := memberlist.DefaultLANConfig()
	cfg.Name, cfg.Label = "doctor", fleet
	cfg.BindAddr, cfg.BindPort, cfg.AdvertiseAddr = local.IP.String(), 0, local.IP.String()
	if cfg.Keyring, err = memberlist.NewKeyring([][]byte{secret}, secret); err != nil {
		return 0, err
	}
	cfg.EnableCompression, cfg.GossipInterval, cfg.PushPullInterval = false, 0, 0
	cfg.ProbeTimeout, cfg.ProbeInterval = 2*time.Second, 3*time.Second // an answer is awaited for the second
	cfg.UDPBufferSize = 1                                              // so small that no news of this "member" rides on the ping
	cfg.Logger = log.New(io.Discard, "", 0)                            //nolint:forbidigo // what memberlist takes
	m, err := memberlist.Create(cfg)
	if err != nil {
		return 0, err
	}
	defer func() { _ = m.Shutdown() }()
	return m.Ping("", to)
}
