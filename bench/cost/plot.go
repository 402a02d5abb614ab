package main

import (
	"bytes"
	"fmt"
	"math"
)

// The plot's frame, in pixels, and its axes, in powers of ten.
const (
	width, height            = 760, 480
	left, right, top, bottom = 70, 260, 50, 60
	firstX, lastX            = 2, 6 // readers
	firstY, lastY            = 0, 5 // dollars
)

func x(readers float64) float64 {
	return left + (math.Log10(readers)-firstX)/(lastX-firstX)*(width-left-right)
}

func y(dollars float64) float64 {
	return height - bottom - (math.Log10(dollars)-firstY)/(lastY-firstY)*(height-top-bottom)
}

// plot draws the bill over readers in SVG, both logarithmic: of the three designs for 1,000
// streams, and of the last two for 10,000, dashed.
func (m model) plot() []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`, width, height)
	p(`<rect width="%d" height="%d" fill="#fff"/>`, width, height)
	p(`<text x="%d" y="24" font-size="15">What S2 bills a month: 10 nodes, 5 deploys a day; appends to each stream: %g a minute</text>`, left, m.appends)
	for e := firstX; e <= lastX; e++ {
		at := x(math.Pow10(e))
		p(`<path d="M%.1f %d V%d" stroke="#ddd"/>`, at, top, height-bottom)
		p(`<text x="%.1f" y="%d" text-anchor="middle">%s</text>`, at, height-bottom+18, thousands(e))
	}
	for e := firstY; e <= lastY; e++ {
		at := y(math.Pow10(e))
		p(`<path d="M%d %.1f H%d" stroke="#ddd"/>`, left, at, width-right)
		p(`<text x="%d" y="%.1f" text-anchor="end">$%s</text>`, left-8, at+4, thousands(e))
	}
	p(`<text x="%d" y="%d" text-anchor="middle">readers</text>`, (left+width-right)/2, height-bottom+42)
	for _, l := range []struct {
		design  int
		streams float64
		dash    string
		down    float64 // of the line's name, which another's is near
	}{{0, 1e3, "none", 0}, {1, 1e3, "none", 9}, {1, 10e3, "5 4", 0}, {2, 1e3, "none", 0}, {2, 10e3, "5 4", -5}} {
		d := designs[l.design]
		var points bytes.Buffer
		var last float64
		for e := float64(firstX); e <= lastX; e += 1. / 16 {
			f := size{readers: math.Pow(10, e), streams: l.streams, nodes: 10, deploys: 5}
			last = y(d.of(m.bill(f)))
			fmt.Fprintf(&points, "%.1f,%.1f ", x(f.readers), last)
		}
		p(`<polyline fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s" points="%s"/>`,
			d.color, l.dash, bytes.TrimSpace(points.Bytes()))
		name := d.name
		if l.design > 0 {
			name += fmt.Sprintf(", %.0fK streams", l.streams/1e3)
		}
		p(`<text x="%d" y="%.1f" fill="%s">%s</text>`, width-right+6, last+4+l.down, d.color, name)
	}
	p(`</svg>`)
	return b.Bytes()
}

// thousands formats ten to the e.
func thousands(e int) string {
	switch {
	case e >= 6:
		return fmt.Sprintf("%gM", math.Pow10(e-6))
	case e >= 3:
		return fmt.Sprintf("%gK", math.Pow10(e-3))
	}
	return fmt.Sprintf("%g", math.Pow10(e))
}
