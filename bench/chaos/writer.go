package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

var (
	errCut  = errors.New("cut by the balancer")       //nolint:gochecknoglobals // sentinel
	errDial = errors.New("the call was not answered") //nolint:gochecknoglobals // sentinel
)

// writing holds what the writers of a crowd share.
type writing struct {
	balancer *balancer
	http     *http.Client
	prefix   string
	books    []*book
	gates    []sync.Mutex // each guards its book

	mu     sync.Mutex
	paused bool
	resume chan struct{} // closed when paused ends
	busy   int           // appends on their way
	counts counts
	size   int
}

// counts holds the results of appends since a fault began.
type counts struct {
	acked, unknownAnswers, unsure int
	refused                       map[string]*hist.Hist // by status and problem: how long it took
	wrong                         string                // an answer that should never come
	ack, failure                  hist.Hist             // how long an answer took
}

func newWriting(b *balancer, prefix string, streams, writers, size int) *writing {
	w := &writing{
		balancer: b, prefix: prefix, gates: make([]sync.Mutex, streams), size: size,
		counts: counts{refused: map[string]*hist.Hist{}},
		http: &http.Client{Transport: &http.Transport{
			MaxIdleConnsPerHost: 1024,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, addr)
				if err != nil {
					err = fmt.Errorf("%w: %w", errDial, err)
				}
				return c, err
			},
		}},
	}
	for range streams {
		w.books = append(w.books, newBook(writers))
	}
	return w
}

// begin returns what was counted so far, and forgets it.
func (w *writing) begin() counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.counts
	w.counts = counts{refused: map[string]*hist.Hist{}}
	return c
}

// pause keeps writers from beginning an append, and waits for those on their way.
func (w *writing) pause(within time.Duration) error {
	w.mu.Lock()
	if !w.paused {
		w.paused, w.resume = true, make(chan struct{})
	}
	w.mu.Unlock()
	return wait.For(within, "no append is on its way", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.busy == 0
	})
}

func (w *writing) goOn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused {
		w.paused = false
		close(w.resume)
	}
}

// enter waits while writing is paused.
func (w *writing) enter() {
	for {
		w.mu.Lock()
		if !w.paused {
			w.busy++
			w.mu.Unlock()
			return
		}
		resume := w.resume
		w.mu.Unlock()
		<-resume
	}
}

func (w *writing) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy--
}

// run does the work of one writer, until ctx ends. What it could not write at its pace it leaves out:
// readers see how late the next one is.
func (w *writing) run(ctx context.Context, stream, writer int, every time.Duration) {
	if !sleep(ctx, rand.N(every)) {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	tuple := (stream+writer)%2 == 0
	for seq := 0; ctx.Err() == nil; {
		w.enter()
		v := w.write(stream, writer, tuple, seq)
		w.leave()
		if v == acked {
			seq++
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// write appends the writer's next message, and again until it is settled.
func (w *writing) write(stream, writer int, tuple bool, seq int) verdict {
	gate, b := &w.gates[stream], w.books[stream]
	gate.Lock()
	number := len(b.wrote[writer])
	b.wrote[writer] = append(b.wrote[writer], pending)
	gate.Unlock()
	m := message{stream, writer, number, time.Now().UnixMicro()}
	body := fmt.Appendf(nil, "%q", m.encode(w.size))
	header := []string{"Content-Type", "application/json"}
	if tuple {
		header = append(header, "Producer-Id", fmt.Sprint("w", writer), "Producer-Epoch", "0", "Producer-Seq", strconv.Itoa(seq))
	}
	v := pending
	for v == pending {
		if v = w.attempt(streamName(w.prefix, stream), body, tuple, header); v == pending {
			pause(50*time.Millisecond + rand.N(100*time.Millisecond))
		}
	}
	gate.Lock()
	b.wrote[writer][number] = v
	gate.Unlock()
	return v
}

// attempt sends an append once. Pending: it may be sent again.
func (w *writing) attempt(name string, body []byte, tuple bool, header []string) verdict {
	began := time.Now()
	status, problem, err := post(w.http, w.balancer, name, body, header)
	took := time.Since(began)
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.counts
	if err == nil && (status == http.StatusOK || status == http.StatusNoContent) {
		c.acked++
		c.ack.Add(took)
		return acked
	}
	c.failure.Add(took)
	isUnknown := problem == "append-outcome-unknown"
	if isUnknown {
		c.unknownAnswers++
	}
	what := fmt.Sprintf("%d %s", status, problem)
	if err != nil {
		what = "no answer"
	}
	if c.refused[what] == nil {
		c.refused[what] = new(hist.Hist)
	}
	c.refused[what].Add(took)
	switch {
	case tuple && (err != nil || status == 429 || status == 503):
		return pending
	case errors.Is(err, errDial), status == 429, status == 503 && !isUnknown:
		return pending // certainly not written
	case err != nil, isUnknown:
		c.unsure++
		return unknown
	}
	if c.wrong == "" {
		c.wrong = fmt.Sprintf("an append to %s was answered %d %s", name, status, problem)
	}
	if tuple {
		return refused
	}
	return unknown
}

// post sends an append to a node that is ready, and returns the slug of the problem
// that it is answered with.
func post(client *http.Client, b *balancer, name string, body []byte, header []string) (status int, problem string, err error) {
	nodes := b.nodes()
	if len(nodes) == 0 {
		return 0, "", errDial
	}
	at := nodes[rand.IntN(len(nodes))]
	ctx, cancel := context.WithTimeout(b.connected(at), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at+"/v1/stream/"+name, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.GetBody = nil // never sent again behind our back
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		var p struct{ Type string }
		_ = json.NewDecoder(resp.Body).Decode(&p)
		problem = p.Type[strings.LastIndexByte(p.Type, '/')+1:]
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, problem, err
}
