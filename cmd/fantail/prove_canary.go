package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// canary is the load of one proof: streams, each with writers and readers at every node.
type canary struct {
	flags  *proveCmd
	remote *remote
	nodes  *nodeSet
	base   http.RoundTripper
	name   string // what the streams' names begin with
	began  time.Time

	streams int
	perNode int       // writers, and readers, of a stream: one at each of so many nodes
	acked   [][]int64 // by stream and writer; each is its writer's

	mu        sync.Mutex
	checks    []*canaryCheck // of readers that have ended
	connected atomic.Int64
	ended     atomic.Int64 // connections with events that ended before their stream did
	received  atomic.Int64
	written   atomic.Int64
	retries   atomic.Int64
	worst     worstTimes
}

// worstTimes holds the longest times that were seen.
type worstTimes struct {
	mu               sync.Mutex
	delivery, append time.Duration
	deliveryAt       time.Time
}

func (w *worstTimes) delivered(d time.Duration, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d > w.delivery {
		w.delivery, w.deliveryAt = d, at
	}
}

func (w *worstTimes) appended(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.append = max(w.append, d)
}

// canaryMessage is one message.
type canaryMessage struct {
	Writer  int   `json:"w"`
	Message int   `json:"n"`
	At      int64 `json:"t"` // when it was sent, in microseconds since the proof began
}

// clientAt returns a client that goes to one node first.
func (c *canary) clientAt(home int) *dsclient.Client {
	one := *c.remote.Client
	one.HTTP = &http.Client{Transport: &nodeTransport{nodes: c.nodes, home: home, base: c.base}, CheckRedirect: c.remote.HTTP.CheckRedirect}
	one.Patience = c.flags.Patience
	one.OnRetry = func(error, time.Duration) { c.retries.Add(1) }
	return &one
}

func (c *canary) stream(client *dsclient.Client, i int) (*dsclient.Stream, error) {
	return client.Stream(fmt.Sprintf("%s/%d", c.name, i))
}

// create creates the streams.
func (c *canary) create(ctx context.Context) error {
	for i := range c.streams {
		s, err := c.stream(c.clientAt(i), i)
		if err == nil {
			_, _, err = s.Create(ctx, dsclient.CreateOptions{ContentType: jsonType, TTL: canaryTTL})
		}
		if err != nil {
			return fmt.Errorf("create %s/%d: %w", c.name, i, err)
		}
	}
	return nil
}

// canaryTTL ends streams that an interrupted proof has left behind.
const canaryTTL = 24 * time.Hour

// run writes and reads until writing ends, and then closes the streams and waits until all readers
// have what was written. It returns the first error of a writer or reader.
func (c *canary) run(ctx, writing context.Context) error {
	c.acked = make([][]int64, c.streams)
	for i := range c.acked {
		c.acked[i] = make([]int64, c.perNode)
	}
	var errs errorList
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	var readers, writers sync.WaitGroup
	for i := range c.streams {
		for k := range c.perNode {
			readers.Go(func() { errs.add(c.read(reading, i, k)) })
		}
	}
	if err := c.awaitReaders(ctx, &errs); err != nil {
		stopReading()
		readers.Wait()
		return err
	}
	for i := range c.streams {
		for k := range c.perNode {
			writers.Go(func() { errs.add(c.write(ctx, writing, i, k)) })
		}
	}
	writers.Wait()
	errs.add(c.close(ctx))
	late := time.AfterFunc(c.flags.Settle, stopReading)
	defer late.Stop()
	readers.Wait()
	return errs.first()
}

// awaitReaders waits until every reader is connected.
func (c *canary) awaitReaders(ctx context.Context, errs *errorList) error {
	for c.connected.Load() < int64(c.streams*c.perNode) {
		if err := errs.first(); err != nil {
			return err
		}
		if err := waitFor(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// write does the work of one writer: it appends a message after the other, at the rate of the
// proof.
func (c *canary) write(ctx, writing context.Context, stream, writer int) error {
	s, err := c.stream(c.clientAt(writer), stream)
	if err != nil {
		return err
	}
	p := s.NewProducer(jsonType, "", 0)
	every := time.Duration(float64(c.perNode) / c.flags.Rate * float64(time.Second))
	_ = waitFor(writing, rand.N(every)) // writers do not all write in the same moment
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; writing.Err() == nil; n++ {
		sent := time.Now()
		body, err := json.Marshal([]canaryMessage{{writer, n, sent.Sub(c.began).Microseconds()}})
		if err != nil {
			return err
		}
		if _, err := p.Append(ctx, body, false); err != nil {
			return fmt.Errorf("writer %d of stream %d: %w", writer, stream, err)
		}
		c.worst.appended(time.Since(sent))
		c.acked[stream][writer]++
		c.written.Add(1)
		select {
		case <-tick.C:
		case <-writing.Done():
		}
	}
	return nil
}

// close closes the streams, so that their readers end.
func (c *canary) close(ctx context.Context) error {
	var errs errorList
	for i := range c.streams {
		s, err := c.stream(c.clientAt(i), i)
		if err == nil {
			_, err = s.NewProducer("", "", 0).Append(ctx, nil, true)
		}
		errs.add(err)
	}
	return errs.first()
}

// read does the work of one reader: it follows a stream to its end, and checks each message.
func (c *canary) read(ctx context.Context, stream, node int) error {
	s, err := c.stream(c.clientAt(node), stream)
	if err != nil {
		return err
	}
	check, connections := newCanaryCheck(stream, c.perNode), 0
	first := sync.OnceFunc(func() { c.connected.Add(1) })
	connected := func() {
		if connections++; connections > 1 {
			c.ended.Add(1)
		}
		first()
	}
	err = s.Follow(ctx, "-1", c.flags.Live, connected, func(chunk *dsclient.Chunk) error {
		return c.checkChunk(check, chunk)
	})
	c.mu.Lock()
	c.checks = append(c.checks, check)
	c.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("reader of stream %d at node %d: %w", stream, node, err)
	}
	return nil
}

// checkChunk checks the messages of a chunk.
func (c *canary) checkChunk(check *canaryCheck, chunk *dsclient.Chunk) error {
	messages, err := splitJSON(chunk.Body)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, raw := range messages {
		var m canaryMessage
		if err := json.Unmarshal(raw, &m); err != nil {
			m = canaryMessage{Writer: -1}
		}
		check.receive(m.Writer, m.Message)
		if m.Writer >= 0 {
			c.worst.delivered(now.Sub(c.began.Add(time.Duration(m.At)*time.Microsecond)), now)
		}
	}
	c.received.Add(int64(len(messages)))
	return nil
}

// readAgain reads each stream from its start, and checks what is stored.
func (c *canary) readAgain(ctx context.Context) error {
	for i := range c.streams {
		s, err := c.stream(c.clientAt(i), i)
		if err != nil {
			return err
		}
		check := newCanaryCheck(i, c.perNode)
		for at, done := "-1", false; !done; {
			chunk, err := s.Read(ctx, at)
			if err != nil {
				return fmt.Errorf("read %s/%d again: %w", c.name, i, err)
			}
			messages, err := splitJSON(chunk.Body)
			if err != nil {
				return err
			}
			for _, raw := range messages {
				m := canaryMessage{Writer: -1}
				_ = json.Unmarshal(raw, &m)
				check.receive(m.Writer, m.Message)
			}
			at, done = chunk.NextOffset, chunk.UpToDate || chunk.Closed
		}
		c.mu.Lock()
		c.checks = append(c.checks, check)
		c.mu.Unlock()
	}
	return nil
}

// remove deletes the streams.
func (c *canary) remove(ctx context.Context) error {
	var errs errorList
	for i := range c.streams {
		s, err := c.stream(c.clientAt(i), i)
		if err == nil {
			err = s.Delete(ctx)
		}
		errs.add(err)
	}
	return errs.first()
}

// ackedOf returns how many messages of each writer of a stream were acknowledged.
func (c *canary) ackedOf(stream int) []int {
	out := make([]int, c.perNode)
	for w := range out {
		out[w] = int(c.acked[stream][w])
	}
	return out
}

// tally adds up what the checks found.
func (c *canary) tally() (t proofTally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, check := range c.checks {
		t.Lost += check.finish(c.ackedOf(check.stream))
		t.Doubled += check.doubled
		t.Reordered += check.reordered
		t.Unknown += check.unknown
		t.Faults = append(t.Faults, check.examples...)
	}
	t.Faults = slices.Clip(t.Faults[:min(len(t.Faults), maxFaultExamples)])
	return t
}

// errorList keeps the first error of several goroutines.
type errorList struct {
	mu  sync.Mutex
	err error
}

func (l *errorList) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

func (l *errorList) first() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
