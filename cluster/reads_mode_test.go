package cluster

import (
	"testing"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// The mode survives gossip beside the other features of a member.
func TestReadsModeIsTold(t *testing.T) {
	for _, mode := range []shard.Mode{shard.ModeSession, shard.ModeAuto, shard.ModeExclusive} {
		m := placement.Member{Name: "a", RingKey: "a", RelayAddr: "10.0.0.1:4467", HTTPAddr: "10.0.0.1:4437", Features: placement.FeatureTLS | placement.FeatureStoreAnswered | featuresOfMode(mode)}
		got, err := placement.DecodeMember("a", m.Encode())
		if err != nil || modeOf(got.Features) != mode || got.Features&placement.FeatureTLS == 0 {
			t.Errorf("%s is told as %s: %v", mode, modeOf(got.Features), err)
		}
	}
}
