//go:build linux

// Command peers puts Fantail beside what people use today, and beside what no server can
// be better than, on the same machine in the same minutes and with the same client
// (bench/load). Rounds alternate; the table has medians, and ratios to the loop in C.
//
//	bench/peers/install && go run ./bench/peers
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/usage"
)

// mode is one measurement.
type mode struct {
	letter, title string
	args          []string                                          // flags of bench/load, or
	run           func(s *server, r running) (f figures, err error) // for what is no matter of readers
	values        []value
}

// value is one figure of a result of bench/load.
type value struct {
	title  string
	of     func(*figures) float64
	format string
	ratio  bool // to the loop in C, beside it
}

// figures holds the figures of a result of bench/load that the table needs, and those of the
// other modes.
type figures struct {
	ReaderBytes, Cores, DeliveryCPU, PerSecond, P99, Busy float64
	AppendCPU, BytesPerSecond                             float64
	Seconds, Asked50, AskedWorst, PeakMB                  float64
	Lost, Doubled                                         int
	ReadersBehind                                         int `json:"Behind"` // readers that do not have all of it
	Refused                                               int
}

func p99(f *figures) float64 { return f.P99 }
func cpu(f *figures) float64 { return f.DeliveryCPU }

func modes(last time.Duration) []mode {
	span := "-for=" + last.String()
	perSecond := func(f *figures) float64 { return f.PerSecond }
	appends := []value{
		{"appends a second", perSecond, "%.0f", false},
		{"µs of CPU for each", func(f *figures) float64 { return f.AppendCPU }, "%.1f", false},
	}
	bytesPerSecond := []value{{"MB a second", func(f *figures) float64 { return f.BytesPerSecond / 1e6 }, "%.0f", false}}
	return []mode{
		{
			"A", "10,000 idle readers of one stream",
			[]string{"-mode=idle", "-readers=10000", "-streams=1", "-arrive=5000", span},
			nil,
			[]value{
				{"bytes a reader", func(f *figures) float64 { return f.ReaderBytes }, "%.0f", false},
				{"cores", func(f *figures) float64 { return f.Cores }, "%.3f", false},
			},
		},
		{
			"B", "15,000 readers of one stream, a message a second",
			[]string{"-mode=fanout", "-readers=15000", "-rate=1", "-arrive=5000", span},
			nil,
			[]value{{"µs a delivery", cpu, "%.2f", true}, {"p99 ms", p99, "%.0f", true}},
		},
		{
			"C", "5,000 readers of 500 streams, a message a second on each",
			[]string{"-mode=streams", "-readers=5000", "-streams=500", "-rate=500", "-arrive=5000", span},
			nil,
			[]value{{"µs a delivery", cpu, "%.2f", true}, {"p99 ms", p99, "%.1f", true}},
		},
		{
			"D", "1,000 readers of one stream, as fast as they take it",
			[]string{"-mode=saturate", "-readers=1000", "-streams=1", span},
			nil,
			[]value{{"deliveries a second", perSecond, "%.0f", true}, {"µs a delivery", cpu, "%.2f", true}},
		},
		{"E", "64 writers on one stream, 210 bytes", nil, func(s *server, r running) (figures, error) { return write(s, r, 1, last) }, appends},
		{"F", "64 writers over 1,000 streams, 210 bytes", nil, func(s *server, r running) (figures, error) { return write(s, r, 1000, last) }, appends},
		{
			"G", "one reader catches up with 200 MB in messages of 1 MiB, the fastest of three", nil, large.catchUp,
			bytesPerSecond,
		},
		{
			"H", "one reader catches up with 20 MB in JSON messages of 200 bytes, the fastest of three", nil, small.catchUp,
			bytesPerSecond,
		},
		{
			"I", fmt.Sprintf("%d clients catch up with 10 MB in JSON messages of 200 bytes together, and a HEAD of another stream meanwhile", stormClients),
			nil, storm,
			[]value{
				{"seconds", func(f *figures) float64 { return f.Seconds }, "%.1f", false},
				{"HEAD p50 ms", func(f *figures) float64 { return f.Asked50 }, "%.0f", false},
				{"worst", func(f *figures) float64 { return f.AskedWorst }, "%.0f", false},
				{"MB at most", func(f *figures) float64 { return f.PeakMB }, "%.0f", false},
				{"refused", func(f *figures) float64 { return float64(f.Refused) }, "%.0f", false},
			},
		},
		{
			"J", "10,000 readers of 1,000 streams, a message a second on each",
			[]string{"-mode=streams", "-readers=10000", "-streams=1000", "-rate=1000", "-arrive=5000", span},
			nil,
			[]value{{"µs a delivery", cpu, "%.2f", true}, {"p99 ms", p99, "%.1f", true}},
		},
	}
}

// results are by server and mode, one for each round.
type results map[string]map[string][]figures

func main() {
	rounds := flag.Int("rounds", 3, "of each")
	last := flag.Duration("for", 10*time.Second, "of each measurement")
	only := flag.String("only", "", "servers, with commas; all that are installed if empty")
	which := flag.String("modes", "ABCDEFGHIJ", "what is measured")
	out := flag.String("json", "", "file for all figures")
	serves := flag.String("serve", "", "be the net/http server at this address")
	clients := flag.Bool("crowd", false, "for internal use")
	flag.Parse()
	if *clients {
		serveCrowd()
		return
	}
	var err error
	if *serves != "" {
		err = serveNetHTTP(*serves)
	} else {
		err = run(*rounds, *last, *only, *which, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(rounds int, last time.Duration, only, which, out string) error {
	dir, err := os.MkdirTemp("", "fantail-peers-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if b, err := exec.Command("go", "build", "-o", dir+"/", "./bench/load", "./cmd/fantail").CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, b)
	}
	var all []*server
	for _, s := range servers(filepath.Join(dir, "fantail")) {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		if why := s.missing(); why != nil {
			fmt.Fprintf(os.Stderr, "without %s: %v\n", s.name, why)
			continue
		}
		all = append(all, s)
	}
	wanted := slices.DeleteFunc(modes(last), func(m mode) bool { return !strings.Contains(which, m.letter) })
	got, began := results{}, time.Now()
	for round := range rounds {
		for _, s := range all {
			for _, m := range wanted {
				if m.run != nil && s.dialect != "durable" {
					continue // what else has writes that last, and a history?
				}
				f, err := measureOne(dir, s, m)
				if err != nil {
					fmt.Fprintf(os.Stderr, "%s, %s: %v\n", s.name, m.letter, err)
					continue
				}
				if got[s.name] == nil {
					got[s.name] = map[string][]figures{}
				}
				got[s.name][m.letter] = append(got[s.name][m.letter], f)
			}
			fmt.Fprintf(os.Stderr, "%5.0fs  round %d of %d: %s\n", time.Since(began).Seconds(), round+1, rounds, s.name)
		}
	}
	table(os.Stdout, all, wanted, got)
	if out == "" {
		return nil
	}
	b, err := json.MarshalIndent(got, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(b, '\n'), 0o600)
}

// measureOne starts a server for one measurement, and ends it.
func measureOne(dir string, s *server, m mode) (f figures, err error) {
	data, err := os.MkdirTemp(dir, "data-")
	if err != nil {
		return f, err
	}
	r, err := s.start(data)
	if err != nil {
		return f, err
	}
	defer r.stop()
	if m.run != nil {
		return m.run(s, r)
	}
	pids := make([]string, 0, 4)
	for _, p := range usage.Family(r.pid) {
		pids = append(pids, fmt.Sprint(p))
	}
	file := filepath.Join(data, "result.json")
	args := append(slices.Clone(m.args), "-server="+s.dialect, "-urls="+r.url, "-pids="+strings.Join(pids, ","), "-clients=2", "-json="+file)
	if s.path != "" {
		args = append(args, "-path="+s.path)
	}
	for _, h := range s.headers {
		args = append(args, "-header="+h)
	}
	said, failed := exec.Command(filepath.Join(dir, "load"), args...).CombinedOutput()
	b, err := os.ReadFile(file)
	if err != nil {
		return f, fmt.Errorf("%w: %s", failed, tail(said))
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, err
	}
	if failed != nil {
		fmt.Fprintf(os.Stderr, "%s, %s: lost %d, doubled %d, %d readers behind\n", s.name, m.letter, f.Lost, f.Doubled, f.ReadersBehind)
	}
	return f, nil
}

func tail(b []byte) string { return strings.TrimSpace(string(b[max(len(b)-400, 0):])) }
