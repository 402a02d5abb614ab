package placement

import (
	"github.com/cespare/xxhash/v2"

	"github.com/fantail-dev/fantail/shard"
)

// Partitions is the number of parts of the ring: each stream is in one, and each part has one owner.
const Partitions = ringPartitions

// PartitionOf returns the part of the ring that a stream is in.
func PartitionOf(id shard.StreamID) int {
	return int(xxhash.Sum64String(string(id)) % ringPartitions)
}

// CountPartitions returns how many parts of the ring each owner has, by the owners' names.
func (t *OwnerTable) CountPartitions() map[string]int {
	counts := make(map[string]int, len(t.members))
	if t.ring == nil || len(t.members) == 0 {
		return counts
	}
	for _, i := range t.ring.owners {
		counts[t.members[i].Name]++
	}
	return counts
}
