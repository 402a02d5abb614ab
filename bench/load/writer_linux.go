package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
)

// writers write to all streams. Each message has a producer's number, so that one that is
// sent again is not written again, at whichever server.
type writers struct {
	o    *options
	http *http.Client
	next []int64 // number of the message that is due, by stream; guarded by its turn
	seq  []int64 // and of the request
	turn []sync.Mutex

	mu    sync.Mutex
	ack   hist.Hist
	again atomic.Int64 // requests that had to be repeated
	late  atomic.Int64 // messages whose time had passed: the server, or this machine, is too slow
}

func newWriters(o *options) *writers {
	return &writers{
		o: o, next: make([]int64, o.streams), seq: make([]int64, o.streams), turn: make([]sync.Mutex, o.streams),
		http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256, MaxConnsPerHost: 256}},
	}
}

func (w *writers) create() error {
	return parallel.Do(w.o.streams, func(i int) error {
		return w.do("PUT", i, nil, nil)
	})
}

// do asks one server after the other until one answers well.
func (w *writers) do(method string, stream int, header map[string]string, body []byte) error {
	var last error
	for try := range 60 {
		if try > 0 {
			w.again.Add(1)
			time.Sleep(time.Duration(min(try, 10)) * 50 * time.Millisecond)
		}
		url := w.o.urls[(stream+try)%len(w.o.urls)] + fmt.Sprintf(w.o.path, stream)
		req, err := http.NewRequestWithContext(context.Background(), method, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		for k, v := range header {
			req.Header.Set(k, v)
		}
		resp, err := w.http.Do(req)
		if err != nil {
			last = err
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode < 300 {
			return nil
		}
		if last = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text); resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			break
		}
	}
	return last
}

// write writes the next message of a stream, or messages of so many bytes in one request.
func (w *writers) write(stream, size int) error {
	w.turn[stream].Lock()
	defer w.turn[stream].Unlock()
	began, n := time.Now(), w.next[stream]
	body := message(n, w.o.size)
	count := int64(1)
	if size > 0 {
		body = append([]byte("["), body...)
		for len(body) < size {
			body = append(append(body, ','), message(n+count, w.o.size)...)
			count++
		}
		body = append(body, ']')
	}
	header := map[string]string{"Producer-Id": "load", "Producer-Epoch": "0", "Producer-Seq": strconv.FormatInt(w.seq[stream], 10)}
	if err := w.do("POST", stream, header, body); err != nil {
		return err
	}
	w.next[stream] += count
	w.seq[stream]++
	w.mu.Lock()
	w.ack.Add(time.Since(began))
	w.mu.Unlock()
	return nil
}

// writersAtOnce bounds the requests under way.
const writersAtOnce = 128

// run writes at the rate, to each stream in turn, until stop is closed.
func (w *writers) run(stop <-chan struct{}) error {
	due, wait := parallel.Workers(writersAtOnce, func(stream int) error { return w.write(stream, 0) })
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began, written := time.Now(), 0
	for over := false; !over; {
		select {
		case <-tick.C:
		case <-stop:
			over = true
			continue
		}
		for want := int(time.Since(began).Seconds() * w.o.rate); written < want; written++ {
			select {
			case due <- written % w.o.streams:
			default:
				w.late.Add(1)
			}
		}
	}
	return wait()
}

// written is how many messages each stream has.
func (w *writers) written() (each []int64, all int64) {
	for i := range w.next {
		w.turn[i].Lock()
		each = append(each, w.next[i])
		all += w.next[i]
		w.turn[i].Unlock()
	}
	return each, all
}
