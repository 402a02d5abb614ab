package main

import (
	"math"
	"time"
)

// hist counts durations in steps of 5 %, from 0.1 ms to a few minutes.
type hist [300]int

const histLow = 100 * time.Microsecond

func (h *hist) add(d time.Duration) {
	i := 0
	if d > histLow {
		i = int(math.Log(float64(d)/float64(histLow)) / math.Log(1.05))
	}
	h[min(i, len(h)-1)]++
}

func (h *hist) merge(o *hist) {
	for i, n := range o {
		h[i] += n
	}
}

func (h *hist) count() (n int) {
	for _, c := range h {
		n += c
	}
	return n
}

// quantile is the upper end of the step that holds it; 1 is the longest.
func (h *hist) quantile(q float64) time.Duration {
	left := int(math.Ceil(q * float64(h.count())))
	if left == 0 {
		return 0
	}
	for i, n := range h {
		if left -= n; left <= 0 {
			return time.Duration(float64(histLow) * math.Pow(1.05, float64(i+1)))
		}
	}
	return 0
}
