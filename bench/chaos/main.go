// Command chaos runs a fleet of real processes, with readers and writers, under
// faults, and holds what the clients saw against what they were told:
//
//   - everything acknowledged is delivered, once, in order, to every reader;
//   - what was refused never appears;
//   - after healing all nodes agree, and there is one S2 read session per stream;
//   - every fault that was asked for did happen.
//
// It needs root, for network namespaces; nothing outside of them is touched.
//
//	go run ./bench/chaos
//	go run ./bench/chaos -faults none,kill -readers 500
//	go run ./bench/chaos -quick
//	go run ./bench/chaos -soak 1h
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the command line.
type options struct {
	nodes, readers, streams int
	every, after, drain     time.Duration
	faults, table, keep     string
	quick, race             bool
	soak, between, trip     time.Duration
	inside                  string

	crowd    string
	longPoll bool
	pace     time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.nodes, "nodes", 5, "nodes")
	flag.IntVar(&o.readers, "readers", 5000, "SSE readers")
	flag.IntVar(&o.streams, "streams", 200, "streams")
	flag.DurationVar(&o.every, "every", time.Second, "time between two messages of a stream")
	flag.DurationVar(&o.after, "after", 10*time.Second, "how long to look on after a fault")
	flag.DurationVar(&o.drain, "drain", 4*time.Second, "over how long a node that stops ends its readers' connections")
	flag.StringVar(&o.faults, "faults", "", "which faults, in this order (default: all)")
	flag.StringVar(&o.table, "table", "", "file for the table")
	flag.StringVar(&o.keep, "keep", "", "folder that keeps logs and data")
	flag.BoolVar(&o.quick, "quick", false, "a subset, in less than two minutes")
	flag.BoolVar(&o.race, "race", false, "with the race detector in the nodes and S2 (needs a C compiler)")
	flag.DurationVar(&o.soak, "soak", 0, "instead: restart nodes for so long, and look for leaks")
	flag.DurationVar(&o.between, "between", 2*time.Minute, "how often a soak restarts them")
	flag.DurationVar(&o.trip, "trip", 0, "round trip to S2 from every node")
	flag.StringVar(&o.inside, "inside", "", "for internal use")
	flag.StringVar(&o.crowd, "crowd", "", "for internal use")
	flag.BoolVar(&o.longPoll, "longpoll", false, "for internal use")
	flag.DurationVar(&o.pace, "pace", 0, "for internal use")
	flag.Parse()
	switch {
	case o.crowd != "":
		serveCrowd(o.crowd, o.streams, o.longPoll, o.pace)
	case o.inside != "":
		if err := errors.Join(inside(o), raced(o.inside)); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			os.Exit(1)
		}
	default:
		code, err := enterRoom(o.keep)
		if err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
		}
		os.Exit(code)
	}
}

// quickFaults are those of -quick.
const quickFaults = "none,roll,kill,stop,split,cut-s2,s2-stop"

func (o *options) shrink() {
	o.nodes, o.readers, o.streams, o.after, o.drain = 3, 300, 40, 2*time.Second, 2*time.Second
	if o.faults == "" {
		o.faults = quickFaults
	}
}

// chosen returns the faults that were asked for.
func (o *options) chosen() (all []fault, err error) {
	known := faults()
	if o.faults == "" {
		return known, nil
	}
	for name := range strings.SplitSeq(o.faults, ",") {
		i := slices.IndexFunc(known, func(f fault) bool { return f.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no such fault: %s", name)
		}
		all = append(all, known[i])
	}
	return all, nil
}

// inside carries out the run, in its room.
func inside(o options) error {
	if o.quick {
		o.shrink()
	}
	chosen, err := o.chosen()
	if err != nil {
		return err
	}
	began := time.Now()
	log := logTo(began)
	binary := filepath.Join(o.inside, "fantail")
	if out, err := exec.Command("go", "build", "-race="+strconv.FormatBool(o.race), "-o", binary, "./cmd/fantail").CombinedOutput(); err != nil {
		return fmt.Errorf("go build ./cmd/fantail: %w: %s", err, out)
	}
	if err := furnish(o.nodes + 1); err != nil { // one more, for a surge
		return err
	}
	f, err := startFleet(binary, o.inside, o.nodes, o.drain, o.trip)
	if err != nil {
		return err
	}
	defer f.stop()
	log("%d nodes", o.nodes)
	z := loadSize{prefix: mainLoad, streams: o.streams, readers: o.readers, every: o.every, hot: min(2, o.streams)}
	if o.soak > 0 { // what nodes keep of each stream is full soon, and grows no more
		z.size, z.every = 8<<10, o.every/2
	}
	l, err := startLoad(f, z)
	if err != nil {
		return err
	}
	log("%d readers of %d streams", o.readers, o.streams)
	r := &run{fleet: f, load: l, quick: o.quick, trip: o.trip, between: o.between, after: o.after, log: log}
	if _, err := l.verify(); err != nil { // and warm
		return err
	}
	var rows []row
	failed := 0
	if o.soak > 0 {
		rows, chosen = []row{r.soak(o.soak)}, nil
		failed = min(len(rows[0].failed), 1)
	}
	for _, f := range chosen {
		w := r.meet(f)
		rows = append(rows, w)
		if len(w.failed) > 0 {
			failed++
		}
	}
	return errors.Join(report(o, rows, time.Since(began)), failure(failed))
}

// raced returns what the race detector found, from the logs in dir.
func raced(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	errs := []error{err}
	for _, log := range logs {
		b, err := os.ReadFile(log)
		errs = append(errs, err)
		if i := bytes.Index(b, []byte("WARNING: DATA RACE")); i >= 0 {
			errs = append(errs, fmt.Errorf("%s: %s", filepath.Base(log), b[i:min(i+4000, len(b))]))
		}
	}
	return errors.Join(errs...)
}

func failure(rows int) error {
	if rows == 0 {
		return nil
	}
	return fmt.Errorf("%d rows failed", rows)
}

// report prints the table, and keeps it.
func report(o options, rows []row, took time.Duration) error {
	printTable(os.Stdout, rows)
	if o.table == "" {
		return nil
	}
	file, err := os.Create(o.table)
	if err != nil {
		return err
	}
	args := slices.DeleteFunc(slices.Clone(os.Args[3:]), func(s string) bool {
		return slices.Contains([]string{"-table", o.table, "-keep", o.keep}, s)
	})
	fmt.Fprintf(file, "# Faults\n\n`go run ./bench/chaos %s`, %s, %d cores, %s/%s, %s; %d nodes, %d readers, %d streams; %.0f s.\n\n",
		strings.Join(args, " "), time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH,
		runtime.Version(), o.nodes, o.readers, o.streams, took.Seconds())
	printTable(file, rows)
	return file.Close()
}
