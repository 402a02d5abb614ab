package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// short formats a duration for a table.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// line returns the row in one line.
func (w *row) line() string {
	return fmt.Sprintf("%s; %d written, %d received; lost %d, doubled %d, reordered %d, corrupt %d; unknown %d; "+
		"stall p99 %s (after: %s), worst %s, away %s; appends p99 %s, failures %s; sessions %.3f; forced %.2f %%; %s",
		w.fired, w.counts.acked, w.tally.Received, w.damage.Lost, w.damage.Doubled, w.damage.Reordered, w.damage.Corrupt,
		w.counts.unknownAnswers, short(w.tally.Stayed.Quantile(0.99)), short(w.beside), short(w.tally.Stayed.Quantile(1)),
		short(w.tally.Moved.Quantile(0.99)), short(w.counts.ack.Quantile(0.99)), short(w.counts.failure.Quantile(1)),
		w.sessions, 100*w.redirected, w.reasons())
}

func (w *row) reasons() string {
	var all []string
	for i, n := range w.tally.Ended {
		if n > 0 {
			all = append(all, fmt.Sprintf("%s %d", reasonNames[i], n))
		}
	}
	for what, h := range w.counts.refused {
		all = append(all, fmt.Sprintf("append: %s %d (p50 %s, longest %s)", what, h.Count(), short(h.Quantile(0.5)), short(h.Quantile(1))))
	}
	return strings.Join(all, ", ")
}

// printTable writes rows as Markdown.
func printTable(out io.Writer, rows []row) {
	fmt.Fprintln(out, "| fault | fired | written | received | lost | doubled | re-ordered | outcome unknown | stall p99 | the same right after | worst stall | while away, p99 | appends p99 | longest failure | sessions ÷ streams | forced | whole again | |")
	fmt.Fprintln(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for i := range rows {
		w := &rows[i]
		verdict := "ok"
		if len(w.failed) > 0 {
			verdict = "**FAILED**"
		}
		fmt.Fprintf(out, "| %s | %s | %d | %d | %d | %d | %d | %d | %s | %s | %s | %s | %s | %s | %.3f | %.2f %% | %s | %s |\n",
			w.fault, w.fired, w.counts.acked, w.tally.Received, w.damage.Lost, w.damage.Doubled,
			w.damage.Reordered+w.damage.Corrupt, w.counts.unknownAnswers,
			short(w.tally.Stayed.Quantile(0.99)), short(w.beside), short(w.tally.Stayed.Quantile(1)), short(w.tally.Moved.Quantile(0.99)),
			short(w.counts.ack.Quantile(0.99)), short(w.counts.failure.Quantile(1)),
			w.sessions, 100*w.redirected, short(w.healed), verdict)
	}
	fmt.Fprintln(out)
	for i := range rows {
		for _, n := range rows[i].notes {
			fmt.Fprintf(out, "- %s: %s\n", rows[i].fault, n)
		}
		for _, why := range rows[i].failed {
			why, _, _ = strings.Cut(why, "\n")
			fmt.Fprintf(out, "- %s: FAILED: %s\n", rows[i].fault, why)
		}
	}
}
