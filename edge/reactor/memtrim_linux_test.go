package reactor

import (
	"slices"
	"testing"
	"time"
)

// Memory is given back once a crowd has come, not while it comes, and not for every few.
func TestMemoryIsTrimmedAfterACrowd(t *testing.T) {
	t.Parallel()
	rise := func(by int64) (n []int64) {
		for i := range int64(200) {
			n = append(n, by*i)
		}
		return n
	}
	for name, c := range map[string]struct {
		came []int64 // how many there are, by second
		want []int   // the seconds in which memory is given back
	}{
		"nobody":                   {[]int64{0, 0, 0}, nil},
		"a few":                    {[]int64{0, 900, 900, 900}, nil},
		"a crowd":                  {[]int64{0, 4000, 8000, 8000, 8000}, []int{3}},
		"a crowd and latecomers":   {[]int64{0, 4000, 8000, 8050, 8100}, []int{3}},
		"they never stop":          {[]int64{0, 1000, 2000, 3000, 4000}, nil},
		"come and go":              {slices.Repeat([]int64{9000, 9300, 9010, 9200}, 50), []int{2}},
		"back again":               {append(slices.Repeat([]int64{5000}, 40), 0, 3000, 5000, 5000), []int{1, 43}},
		"a steady rise":            {rise(20), []int{100}},
		"one by one":               {[]int64{500, 999, 1000, 1001, 1500}, []int{2}},
		"another one soon after":   {[]int64{5000, 5000, 9000, 9000, 9000}, []int{1}},
		"another one a while on":   {append(append([]int64{5000}, slices.Repeat([]int64{5000}, 40)...), 9000, 9000), []int{1, 42}},
		"one that comes meanwhile": {append([]int64{5000, 5000}, slices.Repeat([]int64{9000}, 40)...), []int{1, 31}},
	} {
		t.Run(name, func(t *testing.T) {
			var d crowdDetector
			var got []int
			start := time.Now()
			for i, came := range c.came {
				if d.shouldTrim(came, start.Add(time.Duration(i)*time.Second)) {
					got = append(got, i)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: in %v, want %v", name, got, c.want)
			}
		})
	}
}
