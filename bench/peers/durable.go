//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/bench/internal/poster"
	"github.com/fantail-dev/fantail/bench/internal/usage"
)

// writers is how many connections write at once.
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

const (
	historyPiece  = 1 << 20
	historyPieces = 200
	historyReads  = 3 // the first fills caches
)

// catchUp reads a stream of 200 MB from its start to its end; the last of some times counts.
func catchUp(s *server, r running) (f figures, err error) {
	const kind = "application/octet-stream"
	url := r.url + fmt.Sprintf(s.path, 0)
	if err := ask.Send(http.DefaultClient, http.MethodPut, url, kind, nil); err != nil {
		return f, err
	}
	piece := bytes.Repeat([]byte("0123456789abcdef"), historyPiece/16)
	for range historyPieces {
		if err := ask.Send(http.DefaultClient, http.MethodPost, url, kind, piece); err != nil {
			return f, err
		}
	}
	buf := make([]byte, historyPiece)
	for range historyReads {
		began, got := time.Now(), int64(0)
		for offset, done := "-1", false; !done; {
			n, next, end, err := chunk(url+"?offset="+offset, buf)
			if err != nil {
				return f, err
			}
			got, offset, done = got+n, next, end
		}
		if got != historyPieces*historyPiece {
			return f, fmt.Errorf("%d bytes of history, not %d", got, historyPieces*historyPiece)
		}
		f.BytesPerSecond = float64(got) / time.Since(began).Seconds()
	}
	return f, nil
}

// plain asks for nothing compressed, which http.DefaultClient would.
var plain = &http.Client{Transport: &http.Transport{DisableCompression: true}}

// chunk is one answer: its length, what to ask for next, and whether that is the end.
func chunk(url string, buf []byte) (n int64, next string, end bool, err error) {
	resp, err := plain.Get(url) //nolint:noctx // a command's
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
