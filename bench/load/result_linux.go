package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/hist"
)

// result is a run's. Times are in ms where nothing else is said.
type result struct {
	Mode             string
	Readers, Streams int
	Rate             float64 `json:"MessagesASecond"`
	Size             int

	Came        float64 `json:"UpToDateSeconds"` // until the last reader was up to date
	CameMB      float64 `json:"UpToDateMBASecond"`
	ReaderBytes float64 // memory of the servers, for each reader
	ReaderCPU   float64 // µs, for each that came

	Seconds, Cores       float64 // cores: the servers'
	Busy                 float64 // of the machine, 0 to 1
	Written              int64
	Messages, Events     int // to readers
	Lost, Doubled        int
	Behind               int // readers that do not have all of it
	Ended, Refused       int
	Repeated, Late       int64 // requests of writers, messages that were not sent in time
	P50, P90, P99, Worst float64
	Ack50, Ack99         float64
	DeliveryCPU          float64 // µs
	PerSecond            float64 `json:",omitempty"` // deliveries, saturated
	Sessions             int     `json:",omitempty"` // at S2
	Back                 float64 `json:"BackSeconds,omitempty"`
	Peak                 int     `json:",omitempty"`
	Samples              []sample
}

// sample is some seconds of it.
type sample struct {
	At, P50, P99, Busy float64
	Up, Deliveries     int
}

// tooBusy is the load of a machine above which latencies say nothing of the server.
const tooBusy = 0.8

func (r *result) print(w io.Writer) {
	say := func(what, format string, a ...any) { fmt.Fprintf(w, "%-22s %s\n", what, fmt.Sprintf(format, a...)) }
	say("mode", "%s: %d readers, %d streams, %g messages of %d bytes a second", r.Mode, r.Readers, r.Streams, r.Rate, r.Size)
	say("up to date", "%.1f s, %.0f MB a second", r.Came, r.CameMB)
	say("a reader", "%.0f bytes, %.0f µs to let it in", r.ReaderBytes, r.ReaderCPU)
	if r.Messages > 0 {
		say("written, delivered", "%d, %d (%.0f a second)", r.Written, r.Messages, float64(r.Messages)/max(r.Seconds, r.Came))
	}
	say("lost, doubled, behind", "%d, %d, %d", r.Lost, r.Doubled, r.Behind)
	if r.Seconds > 0 {
		say("machine busy", "%.0f %%", 100*r.Busy)
		say("servers", "%.2f cores, %.2f µs a delivery", r.Cores, r.DeliveryCPU)
	}
	switch {
	case r.Messages == 0 || r.Mode == "catchup":
	case r.Busy > tooBusy:
		say("written to read", "p50 %.1f ms; the machine was too busy for more", r.P50)
	default:
		say("written to read", "p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, worst %.0f ms", r.P50, r.P90, r.P99, r.Worst)
		say("acknowledged", "p50 %.1f ms, p99 %.1f ms", r.Ack50, r.Ack99)
	}
	say("connections", "%d ended, %d refused; %d requests repeated, %d messages late", r.Ended, r.Refused, r.Repeated, r.Late)
	if r.Back > 0 {
		say("all back", "%.1f s, at most %d in a second", r.Back, r.Peak)
	}
	if r.Sessions > 0 {
		say("sessions at S2", "%d", r.Sessions)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// window returns the latencies that came between two tallies.
func window(before, now *tally) (h hist.Hist) {
	for i := range h {
		h[i] = now.Latency[i] - before.Latency[i]
	}
	return h
}

// plot draws latencies over time, in SVG.
func (r *result) plot() []byte {
	const width, height, left, top = 720, 300, 60, 30
	most, end := 1.0, 1.0
	for _, s := range r.Samples {
		most, end = max(most, s.P99), max(end, s.At)
	}
	line := func(of func(sample) float64) string {
		var points []string
		for _, s := range r.Samples {
			points = append(points, fmt.Sprintf("%.1f,%.1f", left+s.At/end*(width-left-20), height-30-of(s)/most*(height-30-top)))
		}
		return strings.Join(points, " ")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
<text x="%d" y="18">%s: %d readers, %d streams; written to read, over %.0f s: p99 (red), p50 (blue)</text>
<text x="4" y="%d">%.0f ms</text><text x="4" y="%d">0</text>
<polyline fill="none" stroke="gray" points="%d,%d %d,%d %d,%d"/>
<polyline fill="none" stroke="firebrick" stroke-width="2" points="%s"/>
<polyline fill="none" stroke="steelblue" stroke-width="2" points="%s"/>
</svg>
`, width, height, left, r.Mode, r.Readers, r.Streams, end, top+4, most, height-30, left, top, left, height-30, width-20, height-30,
		line(func(s sample) float64 { return s.P99 }), line(func(s sample) float64 { return s.P50 }))
	return b.Bytes()
}

func join(s []string) string { return strings.Join(s, ",") }
