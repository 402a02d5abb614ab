// Package hist sums up what was measured: counts of durations, medians.
package hist

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Median returns the middle of v, or the mean of the two in the middle.
func Median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// MedianInterval returns between which bounds the median lies with 95 % certainty, by drawing from the
// values again and again.
func MedianInterval(v []float64) (low, high float64) {
	rnd := rand.New(rand.NewPCG(1, 2))
	medians, again := make([]float64, 4000), make([]float64, len(v))
	for n := range medians {
		for i := range again {
			again[i] = v[rnd.IntN(len(v))]
		}
		medians[n] = Median(again)
	}
	slices.Sort(medians)
	return medians[len(medians)/40], medians[len(medians)-1-len(medians)/40]
}

// Hist counts durations in steps of 5 %, from 0.1 ms to a few minutes.
type Hist [300]int

const low = 100 * time.Microsecond

// Add counts a duration.
func (h *Hist) Add(d time.Duration) {
	i := 0
	if d > low {
		i = int(math.Log(float64(d)/float64(low)) / math.Log(1.05))
	}
	h[min(i, len(h)-1)]++
}

// Merge adds what another counted.
func (h *Hist) Merge(o *Hist) {
	for i, n := range o {
		h[i] += n
	}
}

// Count returns the number of values.
func (h *Hist) Count() (n int) {
	for _, c := range h {
		n += c
	}
	return n
}

// Quantile returns the upper end of the step that holds the quantile q; 1 is the longest.
func (h *Hist) Quantile(q float64) time.Duration {
	left := int(math.Ceil(q * float64(h.Count())))
	if left == 0 {
		return 0
	}
	for i, n := range h {
		if left -= n; left <= 0 {
			return time.Duration(float64(low) * math.Pow(1.05, float64(i+1)))
		}
	}
	return 0
}
