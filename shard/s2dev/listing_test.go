package s2dev

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// The index lists what a sorted list of the names would, whatever comes and goes.
func TestNameIndexListsLikeASortedList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var x nameIndex
	there := map[string]bool{}
	for range 3000 {
		name := fmt.Sprintf("%c/%d", 'a'+r.IntN(3), r.IntN(200))
		switch {
		case r.IntN(3) > 0 && !there[name]:
			there[name] = true
			x.add(name)
		case there[name]:
			delete(there, name)
			x.remove()
		}
		if r.IntN(10) > 0 {
			continue
		}
		prefix, after, limit := []string{"", "a/", "b/1", "d"}[r.IntN(4)], []string{"", name, "b"}[r.IntN(3)], 1+r.IntN(100)
		var want []string
		for n := range there {
			if strings.HasPrefix(n, prefix) && n > after {
				want = append(want, n)
			}
		}
		slices.Sort(want)
		got, more := x.list(prefix, after, limit, func(n string) bool { return there[n] })
		if !slices.Equal(got, want[:min(limit, len(want))]) || more != (len(want) > limit) {
			t.Fatalf("%q above %q, %d: %q, %v; want %q", prefix, after, limit, got, more, want)
		}
	}
}

// A page costs the same in the middle of 100,000 streams as in the middle of 1,000.
func TestListingIsFlat(t *testing.T) {
	page := func(streams int) time.Duration {
		var x nameIndex
		for i := range streams {
			x.add(fmt.Sprintf("project/%07d", i))
		}
		exists := func(string) bool { return true }
		_, _ = x.list("", "", 1, exists)
		best := time.Hour
		for range 5 {
			began := time.Now()
			for range 200 {
				if names, _ := x.list("project/", fmt.Sprintf("project/%07d", streams/2), 100, exists); len(names) != 100 {
					t.Fatal(len(names))
				}
			}
			best = min(best, time.Since(began)/200)
		}
		return best
	}
	small, large := page(1_000), page(100_000)
	t.Logf("a page of 100 of 1,000 streams takes %v, of 100,000 %v", small, large)
	if large > 5*small {
		t.Errorf("a page takes %v of 100,000 streams and %v of 1,000", large, small)
	}
}
