//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/bench/internal/poster"
	"github.com/fantail-dev/fantail/bench/internal/usage"
)

// writers is the number of concurrent writers.
const writers = 64

// write has all writers append for a while; each append is answered before its writer's next.
func write(s *server, r running, streams int, last time.Duration) (f figures, err error) {
	path := func(i int) string { return fmt.Sprintf(s.path, i) }
	err = parallel.Do(streams, func(i int) error {
		return ask.Send(http.DefaultClient, http.MethodPut, r.url+path(i), "application/json", nil)
	})
	if err != nil {
		return f, err
	}
	body := fmt.Appendf(nil, `{"p":%q}`, strings.Repeat("x", 202))
	all, err := poster.Crowd(writers, strings.TrimPrefix(r.url, "http://"), streams, path, body)
	if err != nil {
		return f, err
	}
	work := make([]func() error, len(all))
	for i, p := range all {
		defer p.Close()
		work[i] = p.Post
	}
	used := cpuOf(r.pid)
	n, took, err := parallel.During(last, work)
	f.PerSecond, f.AppendCPU = float64(n)/took.Seconds(), (cpuOf(r.pid)-used).Seconds()*1e6/float64(n)
	return f, err
}

const historyReads = 4 // the first fills caches

// history describes the messages to catch up with: times POSTs of a body each.
type history struct {
	kind  string
	body  []byte
	times int
}

// large is 200 MB in messages of 1 MiB, small 20 MB in messages of 200 bytes, half half of that.
var (
	large = history{"application/octet-stream", bytes.Repeat([]byte("0123456789abcdef"), 1<<16), 200}
	small = history{"application/json", fmt.Appendf(nil, "[%s]", bytes.Join(slices.Repeat(
		[][]byte{fmt.Appendf(nil, "%q", strings.Repeat("x", 198))}, 1000), []byte(","))), 100}
	half = history{small.kind, small.body, small.times / 2}
)

// catchUp has one client read a stream from its start to its end, again and again; the
// fastest time after the first counts.
func (h history) catchUp(s *server, r running) (f figures, err error) {
	url := r.url + fmt.Sprintf(s.path, 0)
	if err := h.fill(url); err != nil {
		return f, err
	}
	for i := range historyReads {
		began := time.Now()
		got, err := h.read(plain, url, make([]byte, 1<<20))
		if err != nil {
			return f, err
		}
		if i > 0 {
			f.BytesPerSecond = max(f.BytesPerSecond, float64(got)/time.Since(began).Seconds())
		}
	}
	return f, nil
}

// fill makes a stream with the history.
func (h history) fill(url string) error {
	if err := ask.Send(http.DefaultClient, http.MethodPut, url, h.kind, nil); err != nil {
		return err
	}
	for range h.times {
		if err := ask.Send(http.DefaultClient, http.MethodPost, url, h.kind, h.body); err != nil {
			return err
		}
	}
	return nil
}

// read reads all of it, and returns how many bytes that is.
func (h history) read(client *http.Client, url string, buf []byte) (got int64, err error) {
	answers := 0
	for offset, done := "-1", false; !done; answers++ {
		var n int64
		if n, offset, done, err = readChunk(client, url+"?offset="+offset, buf); err != nil {
			return got, err
		}
		got += n
	}
	want := h.times * len(h.body)
	if h.kind == "application/json" { // n arrays of the same messages are n bytes longer than messages and commas
		want += answers - h.times
	}
	if got != int64(want) {
		return got, fmt.Errorf("%d bytes of history, not %d", got, want)
	}
	return got, nil
}

// plain asks for nothing compressed, which http.DefaultClient would.
var plain = &http.Client{Transport: &http.Transport{DisableCompression: true}}

// readChunk reads one answer and returns its length, what to ask for next, and whether that is the
// end.
func readChunk(client *http.Client, url string, buf []byte) (n int64, next string, end bool, err error) {
	resp, err := client.Get(url) //nolint:noctx // a command's
	if err != nil {
		return 0, "", false, err
	}
	defer resp.Body.Close()
	n, err = io.CopyBuffer(writer{io.Discard}, resp.Body, buf)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return n, resp.Header.Get("Stream-Next-Offset"), resp.Header.Get("Stream-Up-To-Date") == "true", err
}

// writer hides that io.Discard would read by 8 KiB.
type writer struct{ io.Writer }

func cpuOf(pid int) (sum time.Duration) {
	for _, p := range usage.Family(pid) {
		sum += usage.CPU(p)
	}
	return sum
}
