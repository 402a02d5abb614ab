package cluster

import (
	"fmt"
	"testing"
)

// Other nodes cannot reach a relay on loopback, unless they are on it as well.
func TestRelayOnLoopbackNeedsLoopbackAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		relay, gossip, advertise string
		refused                  bool
	}{
		{"127.0.0.1:1", "127.0.0.1:2", "", false},
		{"127.0.0.2:1", ":2", "127.0.0.2", false},
		{"[::1]:1", "127.0.0.1:2", "", false},
		{"10.0.0.1:1", "127.0.0.1:2", "10.0.0.1", false},
		{":1", ":2", "10.0.0.1", false},
		{"127.0.0.1:1", ":2", "10.0.0.1", true},
		{"127.0.0.1:1", "10.0.0.1:2", "", true},
		{"localhost:1", "10.0.0.1:2", "", true},
		{"[::1]:1", "10.0.0.1:2", "", true},
	} {
		t.Run(fmt.Sprintf("relay %s, gossip %s, advertised %s", c.relay, c.gossip, c.advertise), func(t *testing.T) {
			cfg := Config{
				Name: "n", FleetName: "c", Secrets: [][]byte{[]byte("0123456789abcdef")},
				RelayAddr: c.relay, GossipAddr: c.gossip, AdvertiseIP: c.advertise,
			}
			if err := cfg.validate(); (err != nil) != c.refused {
				t.Errorf("%v", err)
			}
		})
	}
}
