package main

import (
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// A node that is not ready says why.
func TestNodeReportsWhyItIsNotReady(t *testing.T) {
	now := time.Now()
	ms := uint64(now.UnixMilli())
	for want, ms := range map[string][]placement.Member{
		"joining\n":                     {{Name: "b"}},
		"still looking for other nodes": {{OwnsFrom: placement.Never}},
		"owns streams from 20":          {{OwnsFrom: shard.Millis(ms + 1000)}},
		"the same name":                 {{StartedAt: 1}, {Name: "b", StartedAt: 2}},
		"S2 answers other nodes":        {{Flags: placement.FlagStoreDown}, {Name: "b", RingKey: "other", StartedAt: 2}},
		"on their way here":             {{StartedAt: 1}, {Name: "b", StartedAt: 2, OwnsFrom: shard.Millis(ms + 1000)}},
	} {
		for i := range ms {
			m := &ms[i]
			if m.OwnsUntil = placement.Never; m.RingKey == "" {
				m.RingKey = "node"
			}
			if m.Name == "" {
				m.Name = "a"
			}
		}
		if got := notOwningReason(placement.NewView(ms), "a", now) + "\n"; !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
