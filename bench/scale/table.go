package main

import (
	"fmt"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/hist"
)

// pair holds what one measurement gave for the two streams that it compares.
type pair struct {
	name   string
	values [2][]time.Duration // plain or short, and the rival
}

func (p *pair) add(i int, d time.Duration) { p.values[i] = append(p.values[i], d) }

// table collects pairs in the order in which they are first named.
type table []*pair

func (t *table) pair(name string) *pair {
	for _, p := range *t {
		if p.name == name {
			return p
		}
	}
	p := &pair{name: name}
	*t = append(*t, p)
	return p
}

// print prints medians, in milliseconds, and their ratio.
func (t *table) print(base, rival string) {
	fmt.Printf("%-50s %9s %9s %7s %5s\n", "", base, rival, "ratio", "of")
	for _, p := range *t {
		a, b := median(p.values[0]), median(p.values[1])
		fmt.Printf("%-50s %9.2f %9.2f %7.2f %5d\n", p.name, a, b, b/a, len(p.values[0]))
	}
}

// median returns the median, in milliseconds.
func median(v []time.Duration) float64 {
	ms := make([]float64, len(v))
	for i, d := range v {
		ms[i] = d.Seconds() * 1000
	}
	return hist.Median(ms)
}
