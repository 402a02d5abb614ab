package s2dev

import (
	"context"
	"slices"
	"sort"
	"strings"
	"sync"
)

func listNames[T any](all map[string]T, prefix, after string, limit int) (names []string, more bool) {
	for name := range all {
		if strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	if len(names) > limit {
		return names[:limit], true
	}
	return names, false
}

// nameIndex keeps the names of a basin's streams in order, so that a page of a listing costs the same
// whatever their number. Creating a stream costs no more than an append to a slice; the next listing
// sorts the new names in. Deleted names leave it when they are many.
type nameIndex struct {
	mu      sync.Mutex // after catalogue.mu
	sorted  []string   // some may be deleted, or come twice
	added   []string   // not in sorted yet
	deleted int        // names of sorted and added that are deleted, at most
}

func (x *nameIndex) add(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.added = append(x.added, name)
}

func (x *nameIndex) remove() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.deleted++
}

// list returns the names that exist, begin with prefix and sort above after: limit at most.
func (x *nameIndex) list(prefix, after string, limit int, exists func(string) bool) (names []string, more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.tidy(exists)
	i, found := slices.BinarySearch(x.sorted, max(prefix, after))
	if found && x.sorted[i] == after {
		i++
	}
	for ; i < len(x.sorted) && strings.HasPrefix(x.sorted[i], prefix); i++ {
		if !exists(x.sorted[i]) {
			continue
		}
		if len(names) == limit {
			return names, true
		}
		names = append(names, x.sorted[i])
	}
	return names, false
}

// tidy sorts new names in, and drops deleted ones once they are half of all.
func (x *nameIndex) tidy(exists func(string) bool) {
	if len(x.added) > 0 {
		slices.Sort(x.added)
		x.sorted = slices.Compact(mergeSorted(x.sorted, x.added))
		x.added = nil
	}
	if x.deleted > len(x.sorted)/2 {
		x.sorted = slices.DeleteFunc(x.sorted, func(name string) bool { return !exists(name) })
		x.deleted = 0
	}
}

// mergeSorted returns the names of two sorted slices in order.
func mergeSorted(a, b []string) []string {
	out := make([]string, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] <= b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

func (c *catalogue) listBasins(prefix, after string, limit int) (out []basinMeta, more bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	names, more := listNames(c.basins, prefix, after, limit)
	for _, n := range names {
		out = append(out, c.basins[n].meta)
	}
	return out, more
}

func (c *catalogue) listStreams(basin, prefix, after string, limit int) (out []streamMeta, more bool, err *apiError) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.basins[basin]
	if b == nil {
		return nil, false, basinNotFound(basin)
	}
	names, more := b.names.list(prefix, after, limit, func(name string) bool { return b.streams[name] != nil })
	for _, n := range names {
		st := b.streams[n]
		st.mu.Lock()
		out = append(out, st.meta)
		st.mu.Unlock()
	}
	return out, more, nil
}

// List returns names of streams that begin with prefix and sort above after, in their order, and when
// they were created, in milliseconds since 1970 (GET /streams).
func (d *Direct) List(_ context.Context, prefix, after string, limit int) (names []string, created []uint64, more bool, err error) {
	if !d.server.enterRequest() {
		return nil, nil, false, ErrNoAnswer
	}
	defer d.server.requests.Done()
	d.server.meter.countOp(d.server.catalogue.usageOf(d.basin, ""), OpListStreams)
	metas, more, bad := d.server.catalogue.listStreams(d.basin, prefix, after, max(1, min(limit, maxListPage)))
	for _, m := range metas {
		names, created = append(names, m.Name), append(created, uint64(m.Created.UnixMilli())) //nolint:gosec // after 1970
	}
	return names, created, more, toDirectError(false, bad)
}
