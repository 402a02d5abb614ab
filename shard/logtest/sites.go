package logtest

import (
	"fmt"

	"github.com/fantail-dev/fantail/shard"
)

var (
	_ shard.Prober = (*Memory)(nil)
	_ shard.Prober = (*Client)(nil)
)

// sites returns the site of a basin, or none without a name. Its log also holds the clock records,
// if it is in the Memory's own basin.
func (m *Memory) sites(basin string) []shard.Site {
	switch basin {
	case "":
		return nil
	case m.Basin:
		return []shard.Site{{Log: "__ds/fleet", Basin: basin}}
	}
	return []shard.Site{{Log: shard.StreamID("__ds/fleet/" + basin), Basin: basin}}
}

// Sites implements shard.Prober.
func (m *Memory) Sites() []shard.Site { return m.sites(m.Basin) }

// Mapping implements shard.Prober.
func (m *Memory) Mapping() string { return "all in basin " + m.Basin }

// Describe implements shard.Prober.
func (m *Memory) Describe(s shard.Site) string { return "basin " + s.Basin }

// Explain implements shard.Prober.
func (m *Memory) Explain(s shard.Site, err error) string {
	return fmt.Sprintf("basin %s: %v", s.Basin, err)
}

// Sites implements shard.Prober.
func (c *Client) Sites() []shard.Site { return c.memory.sites(c.Basin) }

// Mapping implements shard.Prober.
func (c *Client) Mapping() string { return "all in basin " + c.Basin }

// Describe implements shard.Prober.
func (c *Client) Describe(s shard.Site) string { return c.memory.Describe(s) }

// Explain implements shard.Prober.
func (c *Client) Explain(s shard.Site, err error) string { return c.memory.Explain(s, err) }
