package main

import (
	"fmt"
	"os"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// run is the fleet with a load on it, which meets one fault after the other.
type run struct {
	*fleet
	load    *load
	quick   bool
	trip    time.Duration // to S2 and back
	between time.Duration // restarts of a soak
	after   time.Duration // how long to look on once a fault is over
	log     func(format string, args ...any)
	notes   []string // of the fault at hand
	turn    int      // counts victims
}

// span returns the duration of a fault.
func (r *run) span(quick, full time.Duration) time.Duration {
	if r.quick {
		return quick
	}
	return full
}

func (r *run) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
	r.log("  "+format, args...)
}

// row holds what a fault did.
type row struct {
	fault      string
	fired      string // the proof
	tally      tally
	counts     counts
	damage     damage
	sessions   float64       // mean of read sessions ÷ followed streams
	beside     time.Duration // p99 of the stall in the time after it
	redirected float64       // NOT_OWNER and must ÷ appends, once it was over
	healed     time.Duration
	ops        int // of the history
	notes      []string
	failed     []string
}

func (w *row) fail(format string, args ...any) {
	w.failed = append(w.failed, fmt.Sprintf(format, args...))
}

// meet lets the fleet meet a fault, and checks every claim.
func (r *run) meet(f fault) (w row) {
	w.fault, r.notes = f.name, nil
	r.log("%s: %s", f.name, f.what)
	begin := time.Now()
	losses := r.balancer.losses.Load()
	history, err := startHistory(r.load, f.name)
	if err == nil {
		err = r.load.begin()
	}
	if err != nil {
		w.fail("%v", err)
		return w
	}
	r.proxy.look()
	before, watch := r.proxy.look(), startWatch(r.fleet)
	if w.fired, err = f.do(r); err != nil {
		w.fail("the fault: %v", err)
	} else if w.fired == "" {
		w.fail("the fault did not fire")
	}
	over := time.Now()
	if err := r.settle(60 * time.Second); err != nil {
		w.fail("%v", err)
	}
	w.healed = time.Since(over)
	during := r.proxy.look()
	w.sessions = during.mean(before) / float64(r.load.streams)
	pause(2 * time.Second) // what was held up has arrived
	if w.tally, err = r.load.tally(); err != nil {
		w.fail("%v", err)
	}
	if err := r.load.forget(); err != nil {
		w.fail("%v", err)
	}
	pause(r.after / 2)
	then := watch.now()
	pause(r.after / 2)
	grown := watch.stop()
	w.redirected = share(grown, then)
	beside, err := r.load.tally()
	if err != nil {
		w.fail("%v", err)
	}
	w.beside = beside.Stayed.Quantile(0.99)
	if w.tally.Refused == "" {
		w.tally.Refused = beside.Refused
	}
	if w.ops, err = history.check(); err != nil {
		w.fail("%v", err)
	}
	if w.damage, err = r.load.verify(); err != nil {
		w.fail("%v", err)
	}
	w.counts = r.load.writing.begin()
	r.sessions(&w, f)
	if p99 := w.tally.Stayed.Quantile(0.99); f.stall > 0 && p99 > r.stallOf(f) {
		for _, l := range w.tally.Late {
			r.note("late: %v", l)
		}
	}
	w.notes = r.notes
	r.judge(&w, f, grown, int(r.balancer.losses.Load()-losses))
	r.log("  %.0f s; %s", time.Since(begin).Seconds(), w.line())
	for _, why := range w.failed {
		r.log("  FAILED: %s", why)
	}
	return w
}

// share returns which part of the appends between two looks met a node that was not their
// stream's owner, or insisted.
func share(now, then map[string]float64) float64 {
	grown := func(name string) float64 { return now[name] - then[name] }
	return (grown("fantail_not_owner_total") + grown("fantail_owner_overrides_total")) / max(grown("fantail_append_duration_seconds_count"), 1)
}

// sessions waits until there is one read session for each stream. Those that two nodes
// had to open both end with the minute that is paid for.
func (r *run) sessions(w *row, f fault) {
	within := 5 * time.Second
	if f.lingers && r.quick {
		return // the last of the quick faults has to leave it right
	}
	if f.lingers {
		within = 70 * time.Second
	}
	began := time.Now()
	if wait.For(within, "", func() bool { return r.proxy.look().open == r.load.streams }) != nil {
		w.fail("%d read sessions for %d streams %v after all was quiet; more than one: %q; none: %q",
			r.proxy.look().open, r.load.streams, within, r.proxy.doubled(), r.proxy.lacking(r.load.streams))
	}
	if took := time.Since(began); took > time.Second {
		r.note("one read session for each stream %s after all was quiet", short(took))
	}
}

// stallOf returns the claim for a fault's stall, at this distance from S2.
func (r *run) stallOf(f fault) time.Duration { return f.stall + time.Duration(f.trips)*r.trip }

// judge holds a row against the claims.
func (r *run) judge(w *row, f fault, grown map[string]float64, losses int) {
	if w.damage.total() > 0 {
		w.fail("%s", w.damage.First)
	}
	if w.tally.Refused != "" {
		w.fail("refused for good: %s", w.tally.Refused)
	}
	if w.counts.wrong != "" {
		w.fail("%s", w.counts.wrong)
	}
	if n := grown["fantail_gaps_detected_total"]; n > 0 {
		w.fail("fantail_gaps_detected_total grew by %v", n)
	}
	if w.counts.acked == 0 || w.tally.Received == 0 {
		w.fail("nothing was written and read")
	}
	// Machines are noisy: what is seen without a fault in the same minute comes on top.
	if p99 := w.tally.Stayed.Quantile(0.99); f.stall > 0 && p99 > r.stallOf(f)+w.beside {
		w.fail("stall of connected readers: p99 %v, more than %v and the %v of the time after", short(p99), r.stallOf(f), short(w.beside))
	}
	if f.sessions > 0 && w.sessions > f.sessions {
		w.fail("read sessions ÷ followed streams %.3f, more than %.2f", w.sessions, f.sessions)
	}
	if limit := 0.01; w.redirected > limit {
		w.fail("NOT_OWNER and must are %.1f %% of the appends after it", 100*w.redirected)
	}
	if f.steady && losses > 0 {
		w.fail("a node was not ready")
	}
	// A node may ask some to go elsewhere, where there are fewer.
	if n := r.load.readers - w.tally.Up; f.steady && n > r.load.readers/20 {
		w.fail("%d readers are not connected", n)
	}
	if n := w.tally.lost(); f.steady && n > 0 {
		w.fail("%d readers lost their connection", n)
	}
	if lost := grown[`fantail_handovers_total{result="lost"}`]; f.planned && lost > 0 {
		w.fail("%v streams were lost on the way to their heirs", lost)
	}
}

// logTo returns a log with the time since the start.
func logTo(began time.Time) func(string, ...any) {
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%5.1f  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}
