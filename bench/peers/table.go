//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/fantail-dev/fantail/bench/internal/hist"
)

// table prints medians, mode by mode. A server that lost, doubled or did not deliver
// messages is marked: it was asked for nothing that its documentation does not promise.
func table(w io.Writer, all []*server, modes []mode, got results) {
	for _, m := range modes {
		fmt.Fprintf(w, "## %s. %s\n\n| |", m.letter, m.title)
		for _, v := range m.values {
			fmt.Fprintf(w, " %s |", v.title)
			if v.ratio {
				fmt.Fprint(w, " ÷ C |")
			}
		}
		fmt.Fprint(w, " rounds | |\n|---|")
		for _, v := range m.values {
			fmt.Fprint(w, "---|", strings.Repeat("---|", count(v.ratio)))
		}
		fmt.Fprint(w, "---|---|\n")
		for _, s := range all {
			f := got[s.name][m.letter]
			if len(f) == 0 {
				continue
			}
			fmt.Fprintf(w, "| %s |", s.title)
			for _, v := range m.values {
				mine := median(f, v.of)
				fmt.Fprintf(w, " "+v.format+" |", mine)
				if limit := got[limitName][m.letter]; v.ratio && len(limit) > 0 {
					fmt.Fprintf(w, " %.2f |", mine/median(limit, v.of))
				} else if v.ratio {
					fmt.Fprint(w, " |")
				}
			}
			fmt.Fprintf(w, " %d | %s |\n", len(f), amiss(f))
		}
		fmt.Fprintln(w)
	}
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func median(all []figures, of func(*figures) float64) float64 {
	v := make([]float64, len(all))
	for i := range all {
		v[i] = of(&all[i])
	}
	return hist.Median(v)
}

func amiss(all []figures) string {
	var lost, doubled, behind int
	for i := range all {
		lost, doubled, behind = lost+all[i].Lost, doubled+all[i].Doubled, behind+all[i].ReadersBehind
	}
	if lost+doubled+behind == 0 {
		return ""
	}
	return fmt.Sprintf("lost %d, doubled %d, %d readers behind", lost, doubled, behind)
}
