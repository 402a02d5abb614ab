package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/fleet"
	"github.com/fantail-dev/fantail/bench/internal/usage"
)

// load is a run.
type load struct {
	o       *options
	fleet   *fleet.Fleet // nil: the servers were not started here
	w       *writers
	asking  sync.Mutex // a client answers one question at a time
	clients []*child.Peer
	began   time.Time
	r       *result
}

func run(o *options) (r *result, err error) {
	l := &load{o: o, began: time.Now(), r: &result{Mode: o.mode, Readers: o.readers, Streams: o.streams, Rate: o.rate, Size: o.size}}
	defer func() {
		for _, c := range l.clients {
			c.Stop()
		}
		if l.fleet != nil {
			l.fleet.Stop()
		}
	}()
	if o.fleet > 0 {
		l.report("a fleet of %d nodes", o.fleet)
		if l.fleet, err = fleet.Start(o.fleet, o.drain); err != nil {
			return nil, err
		}
		o.urls = nil
		for i := range o.fleet {
			o.urls = append(o.urls, fleet.HTTP(i))
		}
	}
	l.w = newWriters(o)
	l.report("%d streams", o.streams)
	if err := l.w.create(); err != nil {
		return nil, err
	}
	if o.mode == "catchup" {
		if err := l.fill(); err != nil {
			return nil, err
		}
	}
	if err := l.joinReaders(); err != nil {
		return nil, err
	}
	switch o.mode {
	case "saturate":
		err = l.saturate()
	case "catchup":
	default:
		err = l.steady()
	}
	if err != nil {
		return nil, err
	}
	return l.r, l.judge()
}

func (l *load) report(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs  %s\n", time.Since(l.began).Seconds(), fmt.Sprintf(format, a...))
}

// each asks all clients.
func (l *load) each(line func(i int) string) (answers []string, err error) {
	l.asking.Lock()
	defer l.asking.Unlock()
	answers = make([]string, len(l.clients))
	errs := make([]error, len(l.clients))
	var wg sync.WaitGroup
	for i, c := range l.clients {
		wg.Go(func() { answers[i], errs[i] = c.Ask(line(i)) })
	}
	wg.Wait()
	for _, e := range errs {
		if e != nil {
			return nil, e
		}
	}
	return answers, nil
}

func (l *load) all(line string) ([]string, error) { return l.each(func(int) string { return line }) }

func (l *load) tally() (sum tally, err error) {
	answers, err := l.all("tally")
	for _, a := range answers {
		var one tally
		if err := json.Unmarshal([]byte(a), &one); err != nil {
			return sum, err
		}
		sum.merge(&one)
	}
	return sum, err
}

// fill writes the history, spread over the streams.
func (l *load) fill() error {
	const batch = 512 << 10
	for written, i := 0, 0; written < l.o.history; written, i = written+batch, i+1 {
		if err := l.w.batch(i%l.o.streams, batch/l.o.size); err != nil {
			return err
		}
	}
	return nil
}

// joinReaders has the readers come, and waits until all of them are up to date.
func (l *load) joinReaders() error {
	before := l.used()
	args := []string{
		"-urls=" + join(l.o.urls), "-server=" + l.o.server, "-path=" + l.o.path, "-streams=" + strconv.Itoa(l.o.streams),
		"-clients=" + strconv.Itoa(l.o.clients), "-arrive=" + strconv.Itoa(l.o.arrive),
	}
	for i := range l.o.clients {
		c, err := child.Self(append(args, "-client="+strconv.Itoa(i))...)
		if err != nil {
			return err
		}
		l.clients = append(l.clients, c)
	}
	began := time.Now()
	per := l.o.readers / l.o.clients
	_, err := l.each(func(i int) string {
		if i == 0 {
			return fmt.Sprint("open ", l.o.readers-per*(l.o.clients-1))
		}
		return fmt.Sprint("open ", per)
	})
	if err != nil {
		return err
	}
	t, err := l.until(10*time.Minute, func(t *tally) bool { return t.Tip == l.o.readers })
	if err != nil {
		return err
	}
	last := t.LastTip.Sub(began)
	l.r.Came, l.r.CameMB = last.Seconds(), float64(t.Bytes)/1e6/last.Seconds()
	l.report("all are up to date after %.1f s: %.0f MB, %d messages", last.Seconds(), float64(t.Bytes)/1e6, t.Messages)
	time.Sleep(2 * time.Second)
	now := l.used()
	l.r.ReaderBytes = float64(now.memory-before.memory) / float64(l.o.readers)
	l.r.ReaderCPU = (now.serverCPU - before.serverCPU).Seconds() * 1e6 / float64(l.o.readers)
	return nil
}

// until waits for what the clients see.
func (l *load) until(within time.Duration, ok func(*tally) bool) (tally, error) {
	said := time.Now()
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		t, err := l.tally()
		if err != nil || ok(&t) {
			return t, err
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			l.report("%d up, %d up to date, of %d; %d refused %s", t.Up, t.Tip, l.o.readers, t.Refused, t.Why)
		}
		if time.Now().After(end) {
			return t, fmt.Errorf("not within %v: %d up, %d up to date, of %d; %d refused: %s", within, t.Up, t.Tip, l.o.readers, t.Refused, t.Why)
		}
	}
}

// used returns what the servers use.
func (l *load) used() (u consumption) {
	pids := l.o.pids
	if l.fleet != nil {
		pids = l.fleet.PIDs()
	}
	for _, p := range pids {
		u.memory += usage.Memory(p)
		u.serverCPU += usage.CPU(p)
	}
	u.machineBusy, u.machineAll = usage.Machine()
	return u
}

type consumption struct {
	memory                             int64
	serverCPU, machineBusy, machineAll time.Duration
}

// steady writes at the rate, unless it is idle, and looks on; something happens in the
// middle, if it is to.
func (l *load) steady() error {
	if _, err := l.all("forget"); err != nil {
		return err
	}
	stop, wrote := make(chan struct{}), make(chan error, 1)
	if l.o.mode == "idle" {
		wrote <- nil
	} else {
		go func() { wrote <- l.w.run(stop) }()
	}
	began, first := time.Now(), l.used()
	happened := make(chan error, 1)
	go func() {
		time.Sleep(l.o.last / 2)
		happened <- l.happen()
	}()
	prev, at := tally{}, first
	for time.Since(began) < l.o.last {
		time.Sleep(min(5*time.Second, l.o.last))
		t, err := l.tally()
		if err != nil {
			return err
		}
		u := l.used()
		step := window(&prev, &t)
		s := sample{
			At: time.Since(began).Seconds(), Up: t.Up, Deliveries: t.Messages - prev.Messages,
			P50: ms(step.Quantile(0.5)), P99: ms(step.Quantile(0.99)), Busy: share(at, u),
		}
		l.r.Samples = append(l.r.Samples, s)
		l.report("%d up; %d delivered, p50 %.1f ms, p99 %.1f ms, worst %.0f ms; lost %d, doubled %d; machine busy %.0f %%",
			t.Up, s.Deliveries, s.P50, s.P99, ms(step.Quantile(1)), t.Lost, t.Doubled, 100*s.Busy)
		prev, at = t, u
	}
	close(stop)
	if err := <-wrote; err != nil {
		return err
	}
	if err := <-happened; err != nil {
		return err
	}
	last := l.used()
	l.r.Busy, l.r.Seconds = share(first, last), time.Since(began).Seconds()
	l.r.Cores = (last.serverCPU - first.serverCPU).Seconds() / l.r.Seconds
	return nil
}

// happen runs what happens in the middle.
func (l *load) happen() error {
	switch {
	case l.o.restart:
		l.report("node 1 is restarted")
		return l.fleet.Restart(1)
	case l.o.mode == "reconnect":
		began := time.Now()
		if _, err := l.all("cut"); err != nil {
			return err
		}
		t, err := l.until(time.Minute, func(t *tally) bool { return t.Up == l.o.readers })
		l.r.Back, l.r.Peak = t.LastUp.Sub(began).Seconds(), t.Peak
		l.report("all are back after %.1f s; at most %d came in a second", l.r.Back, t.Peak)
		return err
	}
	return nil
}

// ahead is the lead of the writer in batches before the slowest reader: enough that the
// server always has something to send, and less than would make it drop readers.
const ahead = 8

// saturate writes as fast as the slowest reader takes it.
func (l *load) saturate() error {
	if _, err := l.all("forget"); err != nil {
		return err
	}
	began, first, sent := time.Now(), l.used(), 0
	for time.Since(began) < l.o.last {
		if err := l.w.batch(sent%l.o.streams, 64); err != nil {
			return err
		}
		sent++
		if err := l.everywhere(time.Minute, int64(64*ahead/l.o.streams)); err != nil {
			return err
		}
	}
	t, err := l.tally()
	last := l.used()
	l.r.Seconds, l.r.Busy = time.Since(began).Seconds(), share(first, last)
	l.r.Cores, l.r.PerSecond = (last.serverCPU-first.serverCPU).Seconds()/l.r.Seconds, float64(t.Messages)/l.r.Seconds
	l.report("%d batches of 64, %.0f deliveries a second", sent, float64(t.Messages)/l.r.Seconds)
	return err
}

// everywhere waits until every reader has every message, but for the newest of its stream.
func (l *load) everywhere(within time.Duration, newest int64) error {
	behind := 0
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(time.Millisecond) {
		want, _ := l.w.written()
		for i := range want {
			want[i] -= newest
		}
		b, _ := json.Marshal(want)
		answers, err := l.all("behind " + string(b))
		if err != nil {
			return err
		}
		behind = 0
		for _, a := range answers {
			n, _ := strconv.Atoi(a)
			behind += n
		}
		if behind == 0 {
			return nil
		}
	}
	l.r.Behind = behind
	return nil
}

// judge holds what came against what was written.
func (l *load) judge() error {
	if err := l.everywhere(20*time.Second, 0); err != nil {
		return err
	}
	t, err := l.tally()
	if err != nil {
		return err
	}
	_, l.r.Written = l.w.written()
	l.r.Messages, l.r.Events, l.r.Lost, l.r.Doubled = t.Messages, t.Events, t.Lost, t.Doubled
	l.r.Ended, l.r.Refused, l.r.Repeated, l.r.Late = t.Ended, t.Refused, l.w.again.Load(), l.w.late.Load()
	l.r.P50, l.r.P90, l.r.P99, l.r.Worst = ms(t.Latency.Quantile(0.5)), ms(t.Latency.Quantile(0.9)), ms(t.Latency.Quantile(0.99)), ms(t.Latency.Quantile(1))
	l.r.Ack50, l.r.Ack99 = ms(l.w.ack.Quantile(0.5)), ms(l.w.ack.Quantile(0.99))
	if l.fleet != nil {
		l.r.Sessions = int(l.fleet.Sum("fantail_s2_read_sessions"))
	}
	if l.r.Cores > 0 && t.Messages > 0 && l.o.mode != "idle" {
		l.r.DeliveryCPU = l.r.Cores * l.r.Seconds * 1e6 / float64(t.Messages)
	}
	return nil
}

func share(a, b consumption) float64 {
	if b.machineAll == a.machineAll {
		return 0
	}
	return float64(b.machineBusy-a.machineBusy) / float64(b.machineAll-a.machineAll)
}
