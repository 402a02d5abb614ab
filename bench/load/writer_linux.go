package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
)

// writers write to all streams. Each message has a producer's number, so that a message that is
// sent again is not written again, at whichever server.
type writers struct {
	o       *options
	dialect dialect
	header  http.Header // of every request
	http    *http.Client
	next    []int64 // number of the message that is due, by stream; guarded by its turn
	seq     []int64 // and of the request
	turn    []sync.Mutex

	pipe    net.Conn // of a server that has no batches
	answers *bufio.Reader

	mu    sync.Mutex
	ack   hist.Hist
	again atomic.Int64 // requests that had to be repeated
	late  atomic.Int64 // messages whose time had passed: the server, or this machine, is too slow
}

func newWriters(o *options) *writers {
	return &writers{
		o: o, dialect: dialects[o.server].of(o.path), header: o.headers.header(), next: make([]int64, o.streams), seq: make([]int64, o.streams), turn: make([]sync.Mutex, o.streams),
		http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256, MaxConnsPerHost: 256}},
	}
}

func (w *writers) create() error {
	if w.dialect.plain {
		return nil
	}
	return parallel.Do(w.o.streams, func(i int) error {
		return w.do("PUT", i, w.header, nil)
	})
}

// do asks one server after the other until one answers well.
func (w *writers) do(method string, stream int, header http.Header, body []byte) error {
	var last error
	for try := range 60 {
		if try > 0 {
			w.again.Add(1)
			time.Sleep(time.Duration(min(try, 10)) * 50 * time.Millisecond)
		}
		url := w.o.urls[(stream+try)%len(w.o.urls)] + fill(w.dialect.write, stream, "")
		req, err := http.NewRequestWithContext(context.Background(), method, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header = header.Clone()
		req.Header.Set("Content-Type", w.dialect.contentType)
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

// write writes the next message of a stream.
func (w *writers) write(stream int) error { return w.batch(stream, 1) }

// batch writes so many messages: in one request, or to a server that has no batches in as
// many, but in one piece.
func (w *writers) batch(stream, count int) error {
	w.turn[stream].Lock()
	defer w.turn[stream].Unlock()
	began, n := time.Now(), w.next[stream]
	all := make([][]byte, count)
	for i := range all {
		all[i] = message(n+int64(i), w.o.size)
	}
	var err error
	switch {
	case w.dialect.plain && count > 1:
		err = w.pipeline(stream, all)
	case w.dialect.plain:
		err = w.do("POST", stream, w.header, w.dialect.message(stream, all[0]))
	default:
		h := http.Header{"Producer-Id": {"load"}, "Producer-Epoch": {"0"}, "Producer-Seq": {strconv.FormatInt(w.seq[stream], 10)}}
		maps.Copy(h, w.header)
		body := all[0]
		if count > 1 {
			body = append(append([]byte("["), bytes.Join(all, []byte(","))...), ']')
		}
		err = w.do("POST", stream, h, body)
	}
	if err != nil {
		return err
	}
	w.next[stream] += int64(count)
	w.seq[stream]++
	w.mu.Lock()
	w.ack.Add(time.Since(began))
	w.mu.Unlock()
	return nil
}

// pipeline sends requests on one connection without waiting for the answers, which is how
// their order is kept, and then waits for all of them.
func (w *writers) pipeline(stream int, all [][]byte) (err error) {
	if w.pipe == nil {
		if w.pipe, err = net.Dial("tcp", strings.TrimPrefix(w.o.urls[0], "http://")); err != nil { //nolint:noctx // a command's
			return err
		}
		w.answers = bufio.NewReader(w.pipe)
	}
	if _, err := w.pipe.Write(w.dialect.posts(stream, w.pipe.RemoteAddr().String(), w.header, all)); err != nil {
		return err
	}
	for range all {
		resp, err := http.ReadResponse(w.answers, nil)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode >= 300 {
			return fmt.Errorf("%s: %s: %w", resp.Status, text, err)
		}
	}
	return nil
}

// writersAtOnce bounds the requests under way.
const writersAtOnce = 128

// run writes at the rate, to each stream in turn, until stop is closed.
func (w *writers) run(stop <-chan struct{}) error {
	due, wait := parallel.Workers(writersAtOnce, func(stream int) error { return w.write(stream) })
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

// written returns how many messages each stream has.
func (w *writers) written() (each []int64, all int64) {
	for i := range w.next {
		w.turn[i].Lock()
		each = append(each, w.next[i])
		all += w.next[i]
		w.turn[i].Unlock()
	}
	return each, all
}
