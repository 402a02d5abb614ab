package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// history holds what a few clients see that write to one stream and read it whole, on nodes at
// random, while a fault lasts. What they saw has to be linearizable, except that a read may be as
// old as an answer from memory.
type history struct {
	load   *load
	stream string
	end    context.CancelFunc
	done   sync.WaitGroup
	began  time.Time

	mu  sync.Mutex
	ops []porcupine.Operation
}

const (
	historians = 5
	// oldest is the greatest age of an answer from memory.
	oldest = 250 * time.Millisecond
	// never is the latest time for an operation with an unknown outcome.
	never = int64(1) << 62
)

// model is a stream as its clients see it.
var model = porcupine.Model{ //nolint:gochecknoglobals // a value
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		was, _ := state.(string)
		if m, ok := input.(string); ok { // an append
			return true, was + m + ","
		}
		return output == was, was
	},
}

func startHistory(l *load, name string) (*history, error) {
	ctx, end := context.WithCancel(context.Background())
	h := &history{load: l, stream: "history/" + name + strconv.FormatInt(time.Now().UnixMilli(), 36), end: end, began: time.Now()}
	req, err := http.NewRequest(http.MethodPut, "http://"+l.fleet.balancer.nodes()[0]+"/v1/stream/"+h.stream, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := l.writing.http.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	for c := range historians {
		h.done.Go(func() { h.client(ctx, c) })
	}
	return h, nil
}

// client writes and reads, a few times a second.
func (h *history) client(ctx context.Context, c int) {
	seq := 0
	for i := 0; sleep(ctx, rand.N(2*time.Second)); i++ {
		from := time.Now()
		if i%3 != 0 {
			if got, ok := h.read(ctx); ok {
				h.note(c, nil, got, from.Add(-oldest), time.Since(h.began).Nanoseconds())
			}
			continue
		}
		m, tuple := fmt.Sprintf("%d-%d", c, i), c%2 == 0
		switch h.write(m, c, tuple, &seq) {
		case acked:
			h.note(c, m, nil, from, time.Since(h.began).Nanoseconds())
		default:
			h.note(historians+100*c+i, m, nil, from, never) // of a client of its own: it goes on
		}
	}
}

func (h *history) write(m string, c int, tuple bool, seq *int) verdict {
	header := []string{"Content-Type", "text/plain"}
	if tuple {
		header = append(header, "Producer-Id", fmt.Sprint(c), "Producer-Epoch", "0", "Producer-Seq", strconv.Itoa(*seq))
	}
	for {
		status, problem, err := post(h.load.writing.http, h.load.fleet.balancer, h.stream, []byte(m+","), header)
		switch {
		case err == nil && status < 300:
			*seq++
			return acked
		case !tuple && (err != nil || problem == "append-outcome-unknown"):
			return unknown
		}
		pause(100 * time.Millisecond)
	}
}

// read returns the stream's text, from its start to its tail.
func (h *history) read(ctx context.Context) (string, bool) {
	nodes := h.load.fleet.balancer.nodes()
	if len(nodes) == 0 {
		return "", false
	}
	at := nodes[rand.IntN(len(nodes))]
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/v1/stream/"+h.stream+"?offset=-1", nil)
	if err != nil {
		return "", false
	}
	resp, err := h.load.writing.http.Do(req)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err == nil && resp.StatusCode == http.StatusOK && resp.Header.Get("Stream-Up-To-Date") != ""
}

func (h *history) note(client int, in, out any, from time.Time, until int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{
		ClientId: client, Input: in, Call: from.Sub(h.began).Nanoseconds(), Output: out, Return: until,
	})
}

// check ends the clients and looks at what they saw.
func (h *history) check() (ops int, err error) {
	h.end()
	h.done.Wait()
	switch porcupine.CheckOperationsTimeout(model, h.ops, 20*time.Second) {
	case porcupine.Illegal:
		var all strings.Builder
		for _, o := range h.ops {
			fmt.Fprintf(&all, "\n\tclient %d, %d to %d ms: wrote %v, read %v", o.ClientId, o.Call/1e6, o.Return/1e6, o.Input, o.Output)
		}
		return len(h.ops), fmt.Errorf("what clients saw of %s is not linearizable:%s", h.stream, all.String())
	case porcupine.Unknown:
		return len(h.ops), fmt.Errorf("a history of %d operations is too long to check", len(h.ops))
	}
	return len(h.ops), nil
}
