// Command cost computes what S2 bills a month for the readers of three designs. The first has a
// read session for each reader, the second a session for each stream on each node. The third is
// Fantail, with a session for each stream in the whole fleet.
//
// What an append, a followed stream and a redeploy ask of S2 is counted by the embedded
// S2's meter, in a run of three real nodes; the bill multiplies that.
//
//	go run ./bench/cost -svg bench/results/cost.svg
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

func run() error {
	svg := flag.String("svg", "", "write the plot to this file")
	appends := flag.Float64("appends", 1, "appends to each stream, a minute, of the bill")
	var l load
	flag.StringVar(&l.reads, "reads", "session", "the nodes' --s2-reads: session, auto or exclusive")
	flag.IntVar(&l.streams, "streams", 30, "streams of the run")
	flag.IntVar(&l.few, "few", 10, "how many of them are followed at first")
	flag.IntVar(&l.readers, "readers", 6, "readers of each stream of the run")
	flag.IntVar(&l.appends, "run-appends", 5, "appends to each stream of the run, one after the other")
	flag.Parse()
	if l.few <= 0 || l.few >= l.streams || l.readers <= 0 || l.appends <= 0 {
		return errors.New("want 0 < few < streams, and readers and appends")
	}
	fmt.Println(strings.Join(append([]string{"$ go run ./bench/cost"}, os.Args[1:]...), " "))
	counts, err := measure(l)
	if err != nil {
		return err
	}
	counts.print(os.Stdout, l)
	m := model{counts.units(l), *appends}
	m.print(os.Stdout)
	if *svg == "" {
		return nil
	}
	return os.WriteFile(*svg, m.plot(), 0o644)
}
