package cluster

import (
	"slices"
	"strings"
	"sync"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"

	"github.com/fantail-dev/fantail/shard"
)

// The shape of the ring. Together with the library's major version and the hash
// it is the ring generation: nodes that differ in any of it disagree about
// owners, so a change of it is a new generation.
const (
	ringGeneration = 1
	partitions     = 4093
	replication    = 100
	load           = 1.25
)

// Ring says which of its keys owns a stream. It is a pure function of the set of
// keys: built from scratch, never changed.
type Ring struct {
	keys  []string           // sorted, distinct
	table [partitions]uint16 // partition → index of its key
}

// NewRing lays out the ring of the given keys, in whatever order and however
// often they are named. It takes milliseconds: never on the way of a request.
func NewRing(keys []string) *Ring {
	r := &Ring{keys: slices.Compact(slices.Sorted(slices.Values(keys)))}
	if len(r.keys) == 0 {
		return r
	}
	members := make([]consistent.Member, len(r.keys))
	index := make(map[string]uint16, len(r.keys))
	for i, k := range r.keys {
		members[i], index[k] = ringKey(k), uint16(i)
	}
	c := consistent.New(members, consistent.Config{
		Hasher: ringHash{}, PartitionCount: partitions, ReplicationFactor: replication, Load: load,
	})
	for p := range r.table {
		r.table[p] = index[c.GetPartitionOwner(p).String()]
	}
	return r
}

// rings are the rings of late, in order of their making. Views and tables come and go more
// often than sets of keys, and a ring of fifty keys takes tens of milliseconds.
var rings struct {
	mu    sync.Mutex
	m     map[string]*Ring
	order []string
}

// maxRings bounds the rings that are kept, at 8 KiB each.
const maxRings = 256

// ringOf is NewRing, unless the ring was made of late.
func ringOf(keys []string) *Ring {
	name := strings.Join(keys, "\x00")
	rings.mu.Lock()
	r := rings.m[name]
	rings.mu.Unlock()
	if r != nil {
		return r
	}
	r = NewRing(keys)
	rings.mu.Lock()
	defer rings.mu.Unlock()
	if rings.m == nil {
		rings.m = map[string]*Ring{}
	}
	if rings.m[name] == nil {
		rings.m[name] = r
		rings.order = append(rings.order, name)
	}
	if len(rings.order) > maxRings {
		delete(rings.m, rings.order[0])
		rings.order = rings.order[1:]
	}
	return r
}

// Owner is the key that owns a stream; false if the ring has no keys.
func (r *Ring) Owner(id shard.StreamID) (key string, ok bool) {
	i := r.index(id)
	if i < 0 {
		return "", false
	}
	return r.keys[i], true
}

// index is the owner's index in keys, or -1.
func (r *Ring) index(id shard.StreamID) int {
	if r == nil || len(r.keys) == 0 {
		return -1
	}
	return int(r.table[xxhash.Sum64String(string(id))%partitions])
}

type ringKey string

func (k ringKey) String() string { return string(k) }

type ringHash struct{}

func (ringHash) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }
