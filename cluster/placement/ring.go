package placement

import (
	"slices"
	"strings"
	"sync"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"

	"github.com/fantail-dev/fantail/shard"
)

// The shape of the ring. Together with the library's major version and the hash it makes the ring
// generation. Nodes that differ in any of it disagree about owners, so each change of it is a new
// generation.
const (
	ringGeneration  = 1
	ringPartitions  = 4093
	ringReplication = 100
	ringLoad        = 1.25
)

// ring maps each stream to the key that owns it. It is a pure function of the set of keys: built
// from scratch, never changed.
type ring struct {
	keys   []string               // sorted, distinct
	owners [ringPartitions]uint16 // partition → index of its key
}

// newRing returns the ring of the given keys, in any order and with duplicates. It takes
// milliseconds, so no request may call it.
func newRing(keys []string) *ring {
	r := &ring{keys: slices.Compact(slices.Sorted(slices.Values(keys)))}
	if len(r.keys) == 0 {
		return r
	}
	members := make([]consistent.Member, len(r.keys))
	index := make(map[string]uint16, len(r.keys))
	for i, k := range r.keys {
		members[i], index[k] = ringKey(k), uint16(i)
	}
	c := consistent.New(members, consistent.Config{
		Hasher: ringHash{}, PartitionCount: ringPartitions, ReplicationFactor: ringReplication, Load: ringLoad,
	})
	for p := range r.owners {
		r.owners[p] = index[c.GetPartitionOwner(p).String()]
	}
	return r
}

// ringCache holds the rings that were built recently, in the order of their building. Views and
// tables change more often than the set of keys, and a ring of fifty keys takes tens of
// milliseconds.
var ringCache struct {
	mu    sync.Mutex
	m     map[string]*ring
	order []string
}

// maxCachedRings bounds the rings that are kept, at 8 KiB each.
const maxCachedRings = 256

// cachedRing returns the ring of the keys, from the cache if it is there.
func cachedRing(keys []string) *ring {
	name := strings.Join(keys, "\x00")
	ringCache.mu.Lock()
	r := ringCache.m[name]
	ringCache.mu.Unlock()
	if r != nil {
		return r
	}
	r = newRing(keys)
	ringCache.mu.Lock()
	defer ringCache.mu.Unlock()
	if ringCache.m == nil {
		ringCache.m = map[string]*ring{}
	}
	if ringCache.m[name] == nil {
		ringCache.m[name] = r
		ringCache.order = append(ringCache.order, name)
	}
	if len(ringCache.order) > maxCachedRings {
		delete(ringCache.m, ringCache.order[0])
		ringCache.order = ringCache.order[1:]
	}
	return r
}

// ownerIndex returns the owner's index in keys, or -1.
func (r *ring) ownerIndex(id shard.StreamID) int {
	if r == nil || len(r.keys) == 0 {
		return -1
	}
	return int(r.owners[PartitionOf(id)])
}

type ringKey string

func (k ringKey) String() string { return string(k) }

type ringHash struct{}

func (ringHash) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }

// Partitions is the number of parts of the ring: each stream is in one, and each part has one owner.
const Partitions = ringPartitions

// PartitionOf returns the part of the ring that a stream is in.
func PartitionOf(id shard.StreamID) int {
	return int(xxhash.Sum64String(string(id)) % ringPartitions)
}
