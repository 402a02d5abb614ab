package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fantail-dev/fantail/shard"
)

func keysOf(format string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf(format, i)
	}
	return keys
}

// keyStyles lists the forms of keys for which earlier versions of the library built different rings.
var keyStyles = []string{"fantail-%d", "fantail-7d9f-%05x", "10.0.0.%d:4457", "x-%d"}

func TestRingDependsOnTheSetAlone(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, style := range keyStyles {
		for _, n := range []int{1, 2, 3, 5, 10, 30} {
			t.Run(fmt.Sprintf("%s, %d keys", style, n), func(t *testing.T) {
				keys := keysOf(style, n)
				want := newRing(keys)
				for range 4 {
					mixed := append(slices.Clone(keys), keys[rnd.IntN(n)])
					rnd.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
					got := newRing(mixed)
					if got.owners != want.owners || !slices.Equal(got.keys, want.keys) {
						t.Fatal("another order gave another ring")
					}
				}
			})
		}
	}
}

// The ring is part of what nodes agree on: another table for the same members is another ring
// generation.
func TestRingHasNotChanged(t *testing.T) {
	t.Parallel()
	r := newRing([]string{"node-0", "node-1", "node-2"})
	for id, want := range map[shard.StreamID]string{
		"default/a": "node-1", "default/b": "node-0", "chat/room/1": "node-2", "x/y": "node-2",
	} {
		t.Run(string(id), func(t *testing.T) {
			if got := r.keys[r.ownerIndex(id)]; got != want {
				t.Errorf("the owner is %s, not %s", got, want)
			}
		})
	}
}

func TestRingMovesLittleAndIsBalanced(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 5, 10, 30} {
		t.Run(fmt.Sprint(n, " nodes"), func(t *testing.T) {
			keys := keysOf("fantail-%d", n+1)
			before, after := newRing(keys[:n]), newRing(keys)
			moved, load := 0, map[string]int{}
			for p := range before.owners {
				from, to := before.keys[before.owners[p]], after.keys[after.owners[p]]
				if from != to {
					moved++
				}
				load[from]++
			}
			if ideal := float64(ringPartitions) / float64(n+1); float64(moved) > 1.35*ideal {
				t.Errorf("a join moves %d partitions, ideal %.0f", moved, ideal)
			}
			for k, c := range load {
				if avg := float64(ringPartitions) / float64(n); float64(c) > 1.26*avg+1 {
					t.Errorf("%s has %d partitions, average %.0f", k, c, avg)
				}
			}
			if len(load) != n {
				t.Errorf("%d own anything", len(load))
			}
		})
	}
}

func TestRingWithoutKeys(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*ring{"none": nil, "of nil": newRing(nil), "of no keys": newRing([]string{})} {
		t.Run(name, func(t *testing.T) {
			if i := r.ownerIndex("a"); i >= 0 {
				t.Errorf("an empty ring has owner %d", i)
			}
		})
	}
}

func TestRingLookupDoesNotAllocate(t *testing.T) {
	r := newRing(keysOf("n-%d", 10))
	if n := testing.AllocsPerRun(100, func() { r.ownerIndex("default/some/stream") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRingOwner(b *testing.B) {
	r := newRing(keysOf("n-%d", 10))
	b.ReportAllocs()
	for b.Loop() {
		r.ownerIndex("default/some/stream")
	}
}

func BenchmarkNewRing(b *testing.B) {
	for _, n := range []int{3, 10, 30} {
		keys := keysOf("n-%d", n)
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			for b.Loop() {
				newRing(keys)
			}
		})
	}
}

// A ring that was built recently is not built again, and what is cached is bounded.
func TestRecentRingsAreCached(t *testing.T) {
	keys := keysOf("late-%d", 5)
	r := cachedRing(keys)
	if cachedRing(keys) != r || cachedRing(keys[:4]) == r {
		t.Error("not the ring of these keys")
	}
	for i := range maxCachedRings {
		cachedRing([]string{fmt.Sprint("other-", i)})
	}
	if len(ringCache.m) != maxCachedRings || len(ringCache.order) != maxCachedRings || cachedRing(keys) == r {
		t.Errorf("%d rings are kept", len(ringCache.m))
	}
}
