package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// loadSize says what a load is made of.
type loadSize struct {
	prefix   string
	streams  int
	readers  int
	every    time.Duration // between two messages of a stream
	hot      int           // streams with three writers more, ten times as fast
	size     int           // of a message, at least
	longPoll bool
	pin      string        // the only node that readers may use
	pace     time.Duration // that readers take over every 4 KiB
}

const (
	// mainLoad runs all the time; faults may add others.
	mainLoad   = "main"
	hotWriters = 4
	// perHerd readers are in one process, which may have 20,000 files.
	perHerd = 15_000
)

// load holds streams with their writers and readers.
type load struct {
	loadSize
	fleet   *fleet
	writing *writing
	herds   []*herd
	offsets []string // how far the logs have been read
	end     context.CancelFunc
	writers sync.WaitGroup
}

// startLoad makes the streams, opens the readers, and lets the writers write.
func startLoad(f *fleet, z loadSize) (*load, error) {
	l := &load{loadSize: z, fleet: f, offsets: make([]string, z.streams)}
	l.writing = newWriting(f.balancer, z.prefix, z.streams, hotWriters, z.size)
	if err := parallel.Do(z.streams, l.create); err != nil {
		return nil, err
	}
	for left := z.readers; left > 0; left -= perHerd {
		h := &herd{pin: z.pin}
		var err error
		if h.peer, err = child.Self("-crowd", z.prefix, "-streams", strconv.Itoa(z.streams),
			"-longpoll="+strconv.FormatBool(z.longPoll), "-pace="+z.pace.String()); err != nil {
			return nil, err
		}
		f.balancer.serve(h)
		l.herds = append(l.herds, h)
		if _, err := h.ask(fmt.Sprint("open ", min(left, perHerd))); err != nil {
			return nil, err
		}
	}
	if err := wait.For(60*time.Second, fmt.Sprintf("all %d readers are connected", z.readers), func() bool {
		return l.up() == z.readers
	}); err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	l.end = end
	for s := range z.streams {
		l.writers.Go(func() { l.writing.run(ctx, s, 0, z.every) })
		for w := 1; s < z.hot && w < hotWriters; w++ {
			l.writers.Go(func() { l.writing.run(ctx, s, w, z.every/10) })
		}
	}
	return l, nil
}

// stop ends the load.
func (l *load) stop() {
	l.end()
	l.writing.goOn()
	l.writers.Wait()
	for _, h := range l.herds {
		l.fleet.balancer.leave(h)
		h.peer.Stop()
	}
}

func (l *load) create(stream int) error {
	return wait.For(20*time.Second, "a stream is made", func() bool {
		nodes := l.fleet.balancer.nodes()
		if len(nodes) == 0 {
			return false
		}
		url := "http://" + nodes[stream%len(nodes)] + "/v1/stream/" + streamName(l.prefix, stream)
		req, err := http.NewRequest(http.MethodPut, url, nil)
		if err != nil {
			return false
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := l.writing.http.Do(req)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusOK
	})
}

func (l *load) up() (n int) {
	for _, h := range l.herds {
		s, _ := h.ask("up")
		up, _ := strconv.Atoi(s)
		n += up
	}
	return n
}

// begin starts a fault's counting.
func (l *load) begin() error {
	l.writing.begin()
	return l.forget()
}

// forget resets the counts of the readers.
func (l *load) forget() error {
	for _, h := range l.herds {
		if _, err := h.ask("begin"); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) tally() (t tally, err error) {
	for _, h := range l.herds {
		var one tally
		s, err := h.ask("tally")
		if err != nil {
			return t, err
		}
		if err := json.Unmarshal([]byte(s), &one); err != nil {
			return t, err
		}
		t.merge(one)
	}
	return t, nil
}

// verify holds the logs against what was acknowledged, and every reader against the
// logs, while there are no writes. Its damage is only what is new.
func (l *load) verify() (d damage, err error) {
	if err := l.writing.pause(90 * time.Second); err != nil {
		return d, err
	}
	defer l.writing.goOn()
	var mu sync.Mutex
	err = parallel.Do(l.streams, func(s int) error {
		one, err := l.verifyLog(s)
		mu.Lock()
		defer mu.Unlock()
		d.add(one)
		return err
	})
	if err != nil {
		return d, err
	}
	digests := make([]digest, l.streams)
	for i, b := range l.writing.books {
		digests[i] = b.digest()
	}
	b, err := json.Marshal(digests)
	if err != nil {
		return d, err
	}
	path := filepath.Join(l.fleet.dir, l.prefix+"-digests.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return d, err
	}
	late := wait.For(15*time.Second, "every reader has everything", func() bool {
		behind := 0
		for _, h := range l.herds {
			s, _ := h.ask("behind " + path)
			n, _ := strconv.Atoi(s)
			behind += n
		}
		return behind == 0
	})
	for _, h := range l.herds {
		var one damage
		s, err := h.ask("compare " + path)
		if err != nil {
			return d, err
		}
		if err := json.Unmarshal([]byte(s), &one); err != nil {
			return d, err
		}
		d.add(one)
	}
	if d.total() == 0 {
		return d, late
	}
	return d, nil
}

// verifyLog reads what a stream has gained from two nodes, which have to agree.
func (l *load) verifyLog(stream int) (d damage, err error) {
	nodes := l.fleet.balancer.nodes()
	if len(nodes) == 0 {
		return d, errors.New("no node is ready")
	}
	var logs [2][][]byte
	var ends [2]string
	for i := range logs {
		at := nodes[(stream+i)%len(nodes)]
		if logs[i], ends[i], err = l.read(at, stream, l.offsets[stream]); err != nil {
			return d, err
		}
	}
	l.offsets[stream] = ends[0]
	var chains [2]uint64
	for i := range logs {
		for _, m := range logs[i] {
			chains[i] = chain(chains[i], m)
		}
	}
	d = l.writing.books[stream].read(stream, logs[0])
	if chains[0] != chains[1] || ends[0] != ends[1] {
		d.note(&d.Corrupt, "stream %d: two nodes do not agree: %d messages to %s, %d messages to %s",
			stream, len(logs[0]), ends[0], len(logs[1]), ends[1])
	}
	return d, nil
}

// read catches up from an offset to the tail.
func (l *load) read(at string, stream int, from string) (all [][]byte, end string, err error) {
	if from == "" {
		from = "-1"
	}
	for {
		resp, err := l.writing.http.Get("http://" + at + "/v1/stream/" + streamName(l.prefix, stream) + "?offset=" + from)
		if err != nil {
			return nil, "", err
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, "", fmt.Errorf("catching up with stream %d from %s: %d %.200s (%w)", stream, from, resp.StatusCode, b, err)
		}
		each(b, func(m []byte) { all = append(all, m) })
		from = resp.Header.Get("Stream-Next-Offset")
		if strings.EqualFold(resp.Header.Get("Stream-Up-To-Date"), "true") {
			return all, from, nil
		}
	}
}
