package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// progress is a bar on a terminal, for what takes long. A nil one shows nothing. It is for one
// goroutine.
type progress struct {
	out         io.Writer
	what        string
	format      formatAmount
	done, total int64
	began, last time.Time
}

// formatAmount formats an amount.
type formatAmount func(int64) string

func countUnit(n int64) string { return fmt.Sprint(n) }

// countOf returns a number with what it counts: 1 message, 2 messages.
func countOf[N int | int64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func bytesUnit(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// progressEvery is the time between two changes of what is shown.
const progressEvery = 100 * time.Millisecond

// newProgress returns a bar if out is a terminal, and otherwise nil. With a total of 0 it shows the
// amount alone.
func newProgress(out io.Writer, what string, total int64, unit formatAmount) *progress {
	if !isTerminal(out) {
		return nil
	}
	now := time.Now()
	return &progress{out: out, what: what, format: unit, total: total, began: now, last: now}
}

// isTerminal reports whether what is written is shown on a terminal that knows control sequences.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || f.Name() == os.DevNull {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// add adds to what is done.
func (p *progress) add(n int64) {
	if p != nil {
		p.set(p.done + n)
	}
}

// set sets what is done.
func (p *progress) set(done int64) {
	if p == nil {
		return
	}
	p.done = done
	if now := time.Now(); now.Sub(p.last) >= progressEvery {
		p.last = now
		p.show(now)
	}
}

const barWidth = 30

func (p *progress) show(now time.Time) {
	line := fmt.Sprintf("%s %s", p.what, p.format(p.done))
	if p.total > 0 {
		part := min(1, float64(p.done)/float64(p.total))
		full := int(part * barWidth)
		line = fmt.Sprintf("%s [%s%s] %3.0f %%  %s of %s", p.what, strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), 100*part, p.format(p.done), p.format(p.total))
		if spent := now.Sub(p.began); part > 0.01 && part < 1 {
			line += fmt.Sprintf("  %v left", time.Duration(float64(spent)*(1-part)/part).Round(time.Second))
		}
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", line)
}

// finish removes the bar.
func (p *progress) finish() {
	if p != nil && p.out != nil {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.out = nil
		p.last = time.Now().Add(24 * time.Hour) // nothing is shown any more
	}
}
