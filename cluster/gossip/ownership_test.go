package gossip

import (
	"testing"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// The record of the owners that began first counts, and of those that began together that of most.
// A member that owns nothing, or announces no record, has no say.
func TestRightfulRecordIsThatOfTheFirstOwners(t *testing.T) {
	t.Parallel()
	const now = 10_000_000
	owner := func(fleet uint64, start, startAt shard.Pos) placement.Member {
		return placement.Member{FleetHash: fleet, StartedAt: shard.Millis(start), OwnsFrom: shard.Millis(startAt), OwnsUntil: placement.Never}
	}
	left := owner(7, 1, 0)
	left.OwnsUntil = now - 1
	for name, c := range map[string]struct {
		members []placement.Member
		want    uint64
	}{
		"nobody":                          {nil, 0},
		"an older release":                {[]placement.Member{owner(0, 1, 0)}, 0},
		"one":                             {[]placement.Member{owner(7, 1, 0)}, 7},
		"newcomers own nothing":           {[]placement.Member{owner(7, 1, 0), owner(8, 2, placement.Never), owner(8, 2, placement.Never)}, 7},
		"only newcomers":                  {[]placement.Member{owner(8, 2, placement.Never)}, 0},
		"one that has left":               {[]placement.Member{left, owner(8, 1, 0)}, 8},
		"one that begins later":           {[]placement.Member{owner(7, 1, 0), owner(8, 1, now), owner(8, 1, now)}, 7},
		"one that was started later":      {[]placement.Member{owner(8, 100_000, 0), owner(8, 100_000, 0), owner(7, 1, 0)}, 7},
		"more of those who began at once": {[]placement.Member{owner(8, 3000, 0), owner(7, 1, 0), owner(8, 2000, 0)}, 8},
		"as many":                         {[]placement.Member{owner(8, 1, 0), owner(7, 2000, 0)}, 7},
		"beside an older release":         {[]placement.Member{owner(0, 1, 0), owner(7, 9000, 0)}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			if got := rightfulRecord(c.members, now); got != c.want {
				t.Errorf("%s: %d, want %d", name, got, c.want)
			}
		})
	}
}
