package edge

import (
	"slices"
	"testing"
	"time"
)

// Memory is given back once a crowd has come, not while it comes, and not for every few.
func TestSettling(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		came []int64 // so far, by second
		want []int   // the seconds in which memory is given back
	}{
		"nobody":                   {[]int64{0, 0, 0}, nil},
		"a few":                    {[]int64{0, 900, 900, 900}, nil},
		"a crowd":                  {[]int64{0, 4000, 8000, 8000, 8000}, []int{3}},
		"a crowd and latecomers":   {[]int64{0, 4000, 8000, 8050, 8100}, []int{3}},
		"they never stop":          {[]int64{0, 1000, 2000, 3000, 4000}, nil},
		"one by one":               {[]int64{500, 999, 1000, 1001, 1500}, []int{2}},
		"another one soon after":   {[]int64{5000, 5000, 9000, 9000, 9000}, []int{1}},
		"another one a while on":   {append(append([]int64{5000}, slices.Repeat([]int64{5000}, 40)...), 9000, 9000), []int{1, 42}},
		"one that comes meanwhile": {append([]int64{5000, 5000}, slices.Repeat([]int64{9000}, 40)...), []int{1, 31}},
	} {
		var s settling
		var got []int
		start := time.Now()
		for i, came := range c.came {
			if s.due(came, start.Add(time.Duration(i)*time.Second)) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: in %v, want %v", name, got, c.want)
		}
	}
}
