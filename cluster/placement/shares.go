package placement

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
