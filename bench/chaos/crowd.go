package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/hist"
)

// crowd is the readers of one process.
type crowd struct {
	prefix   string // of the streams' names
	streams  int
	longPoll bool
	pace     time.Duration
	ready    atomic.Pointer[[]string]

	ended [reasons]atomic.Int64
	up    atomic.Int64 // readers whose connection was accepted

	mu       sync.Mutex
	readers  []*reader
	latency  hist.Hist
	refused  string        // the first refusal
	late     []late        // the latest, the worst first
	arrivals map[int64]int // accepted connections, by tenth of a second
}

// tally counts what a crowd saw since a fault began.
type tally struct {
	Latency       hist.Hist // of every message, to every reader
	Stayed, Moved hist.Hist // the worst of each reader: while it was connected, and while it was not
	Readers, Up   int
	Received      int
	Ended         [reasons]int
	Refused       string
	Peak          int // most connections accepted within a second
	Late          []late
}

// late is a message that came late to a connected reader.
type late struct {
	Took   time.Duration
	Stream int
	Sent   time.Time
	At     string // the reader's node
}

func (l late) String() string {
	return fmt.Sprintf("%s, stream %d, sent %s, at %s", short(l.Took), l.Stream, l.Sent.UTC().Format("15:04:05.000"), l.At)
}

// mostLate are told of a crowd.
const mostLate = 5

func (t *tally) merge(o tally) {
	t.Latency.Merge(&o.Latency)
	t.Stayed.Merge(&o.Stayed)
	t.Moved.Merge(&o.Moved)
	t.Readers += o.Readers
	t.Up += o.Up
	t.Received += o.Received
	t.Peak += o.Peak
	t.Late = append(t.Late, o.Late...)
	for i, n := range o.Ended {
		t.Ended[i] += n
	}
	if t.Refused == "" {
		t.Refused = o.Refused
	}
}

// lost counts the connections that ended, except those that a node ended after a complete
// event.
func (t *tally) lost() (n int) {
	for why, count := range t.Ended {
		if reason(why) != ended {
			n += count
		}
	}
	return n
}

func (c *crowd) name(stream int) string { return streamName(c.prefix, stream) }

// project holds the streams of all crowds.
const project = "chaos"

func streamName(prefix string, stream int) string {
	return fmt.Sprintf("%s/%s-%d", project, prefix, stream)
}

func (c *crowd) took(d time.Duration) {
	c.mu.Lock()
	c.latency.Add(d)
	c.mu.Unlock()
}

// isLate remembers one of the latest messages, of each stream at most one.
func (c *crowd) isLate(l late) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.late) == mostLate && l.Took <= c.late[mostLate-1].Took {
		return
	}
	if i := slices.IndexFunc(c.late, func(o late) bool { return o.Stream == l.Stream }); i >= 0 {
		if c.late[i].Took >= l.Took {
			return
		}
		c.late = slices.Delete(c.late, i, i+1)
	}
	c.late = append(c.late, l)
	slices.SortFunc(c.late, func(a, b late) int { return cmp.Compare(b.Took, a.Took) })
	c.late = c.late[:min(len(c.late), mostLate)]
}

func (c *crowd) refuse(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == "" {
		c.refused = why
	}
}

func (c *crowd) arrive() {
	c.up.Add(1)
	c.mu.Lock()
	c.arrivals[time.Now().UnixMilli()/100]++
	c.mu.Unlock()
}

// serveCrowd runs the process of a crowd.
func serveCrowd(prefix string, streams int, longPoll bool, pace time.Duration) {
	c := &crowd{prefix: prefix, streams: streams, longPoll: longPoll, pace: pace, arrivals: map[int64]int{}}
	c.ready.Store(&[]string{})
	child.Serve(func(line string) (string, error) {
		what, arg, _ := strings.Cut(line, " ")
		switch what {
		case "ready":
			nodes := strings.Fields(arg)
			c.ready.Store(&nodes)
			return "", nil
		case "open":
			count, err := strconv.Atoi(arg)
			go c.open(count)
			return "", err
		case "cut":
			return strconv.Itoa(c.cut(arg)), nil
		case "begin":
			c.begin()
			return "", nil
		case "up":
			return strconv.FormatInt(c.up.Load(), 10), nil
		case "tally":
			return asJSON(c.tally())
		case "behind":
			return c.against(arg, (*crowd).behind)
		case "compare":
			return c.against(arg, (*crowd).compare)
		}
		return "", fmt.Errorf("%q", line)
	})
}

func asJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// open adds readers, a thousand a second.
func (c *crowd) open(count int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range count {
		c.mu.Lock()
		r := &reader{crowd: c, stream: len(c.readers) % c.streams, pace: c.pace}
		c.readers = append(c.readers, r)
		c.mu.Unlock()
		if c.longPoll {
			go r.poll()
		} else {
			go r.run()
		}
		<-tick.C
	}
}

func (c *crowd) all() []*reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readers
}

func (c *crowd) cut(at string) (n int) {
	for _, r := range c.all() {
		if r.drop(at) {
			n++
		}
	}
	return n
}

// begin forgets what was counted so far.
func (c *crowd) begin() {
	for _, r := range c.all() {
		r.mu.Lock()
		r.window = window{}
		r.mu.Unlock()
	}
	for i := range c.ended {
		c.ended[i].Store(0)
	}
	c.mu.Lock()
	c.latency, c.refused, c.late, c.arrivals = hist.Hist{}, "", nil, map[int64]int{}
	c.mu.Unlock()
}

func (c *crowd) tally() (t tally) {
	for _, r := range c.all() {
		r.mu.Lock()
		w := r.window
		r.mu.Unlock()
		t.Readers++
		t.Received += w.got
		if w.worst > 0 {
			t.Stayed.Add(w.worst)
		}
		if w.away > 0 {
			t.Moved.Add(w.away)
		}
	}
	t.Up = int(c.up.Load())
	for i := range c.ended {
		t.Ended[i] = int(c.ended[i].Load())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Latency, t.Refused, t.Late = c.latency, c.refused, slices.Clone(c.late)
	for tenth := range c.arrivals {
		n := 0
		for i := range int64(10) {
			n += c.arrivals[tenth+i]
		}
		t.Peak = max(t.Peak, n)
	}
	return t
}

// against does something with the digests of all logs, which are in a file.
func (c *crowd) against(path string, do func(*crowd, []digest) any) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var logs []digest
	if err := json.Unmarshal(b, &logs); err != nil {
		return "", err
	}
	return asJSON(do(c, logs))
}

// behind returns how many readers have not received everything yet.
func (c *crowd) behind(logs []digest) any {
	n := 0
	for _, r := range c.all() {
		r.mu.Lock()
		if r.sight.count < logs[r.stream].Count {
			n++
		}
		r.mu.Unlock()
	}
	return n
}

// compare holds every reader against its log.
func (c *crowd) compare(logs []digest) any {
	var d damage
	for _, r := range c.all() {
		r.mu.Lock()
		d.add(r.sight.compare(r.stream, logs[r.stream]))
		r.mu.Unlock()
	}
	return d
}
