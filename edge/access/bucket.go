package access

import (
	"sync/atomic"
	"time"
)

// bucket counts what is asked for at a rate, in one word: the time until which what was granted
// lasts (GCRA). An empty bucket lets a burst pass. Nothing refills it: time does.
type bucket struct {
	until atomic.Int64 // nanoseconds on the clock of its callers
}

// bucketRate says how fast a bucket empties, and how far it may be filled.
type bucketRate struct {
	each  float64       // nanoseconds of one unit; 0: no limit
	burst time.Duration // how much may be used together, as the time that it takes at the rate
}

// perSecond returns a rate with a burst of two seconds of it.
func perSecond(n float64) bucketRate { return rateIn(n, time.Second, 2*time.Second) }

// perHour returns a rate with a burst of six minutes of it: streams are created several together,
// and two seconds of an hourly rate are less than one.
func perHour(n float64) bucketRate { return rateIn(n, time.Hour, 6*time.Minute) }

func rateIn(n float64, in, burst time.Duration) bucketRate {
	if n <= 0 {
		return bucketRate{}
	}
	return bucketRate{each: float64(in) / n, burst: burst}
}

// shareAmong returns the rate of one of several nodes: a part of it, but one unit in a time at least.
func (r bucketRate) shareAmong(nodes int, in time.Duration) bucketRate {
	if r.each > 0 && nodes > 1 {
		r.each = min(r.each*float64(nodes), max(r.each, float64(in)))
	}
	return r
}

// maxCost bounds the time that one request can cost.
const maxCost = 365 * 24 * time.Hour

// cost returns the time that some units take.
func (r bucketRate) cost(n int64) int64 { return int64(min(r.each*float64(n), float64(maxCost))) }

// reserve takes n units and returns how long to wait for their turn. If that is longer than most,
// nothing is taken. What is larger than the burst passes when the bucket is empty, and is paid for
// by those that follow.
func (b *bucket) reserve(r bucketRate, n int64, now int64, most time.Duration) (wait time.Duration, ok bool) {
	if r.each == 0 || n <= 0 {
		return 0, true
	}
	cost := r.cost(n)
	spare := max(0, r.burst-time.Duration(cost)) // how far it may be filled already
	for {
		old := b.until.Load()
		from := max(old, now)
		if wait = max(0, time.Duration(from-now)-spare); wait > most {
			return wait, false
		}
		if b.until.CompareAndSwap(old, from+cost) {
			return wait, true
		}
	}
}

// giveBack returns what was taken for a request that did not happen.
func (b *bucket) giveBack(r bucketRate, n int64) { b.until.Add(-r.cost(n)) }
