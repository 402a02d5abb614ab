package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// client speaks Durable Streams, as any user of the fleet does.
type client struct{ http *http.Client }

func newClient(t *testing.T) *client {
	tr := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(tr.CloseIdleConnections)
	return &client{&http.Client{Transport: tr}}
}

// answer is a response with its body.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (c *client) do(ctx context.Context, method, url, body string, header ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

func (c *client) must(t *testing.T, status int, method, url, body string, header ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, err := c.do(ctx, method, url, body, header...)
	if err != nil || a.status != status {
		t.Fatalf("%s %s: %d %s (%v), want %d", method, url, a.status, a.body, err, status)
	}
	return a
}

// readAll returns every message of a JSON stream, by catch-up.
func (c *client) readAll(t *testing.T, url string) []string {
	t.Helper()
	var all []string
	for at := "-1"; ; {
		a := c.must(t, 200, "GET", url+"?offset="+at, "")
		all = append(all, decodeTexts(t, a.body)...)
		at = a.header.Get("Stream-Next-Offset")
		if a.header.Get("Stream-Up-To-Date") == "true" {
			return all
		}
	}
}

// decodeTexts decodes a JSON array of strings.
func decodeTexts(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatalf("%v in %.200s", err, b)
	}
	return out
}

// reader is one SSE reader. Its connection may be broken at any time. It reconnects to the current
// result of url, with the last offset that it received.
type reader struct {
	client *client
	url    func(try int) string
	got    []string
	count  atomic.Int64 // len(got), for other goroutines
	offset string
	tries  int // connections made
	closed bool
	heard  func()
}

// follow starts n readers, each at its url, until ctx ends or their streams are closed. It returns
// once each has received something. ended returns when all have ended.
func (c *client) follow(ctx context.Context, t *testing.T, n int, within time.Duration, url func(i, try int) string) (
	readers []*reader, ended func(),
) {
	t.Helper()
	var reading sync.WaitGroup
	var begun atomic.Int64
	readers = make([]*reader, n)
	for i := range readers {
		r := &reader{client: c, url: func(try int) string { return url(i, try) }}
		r.heard = sync.OnceFunc(func() { begun.Add(1) })
		readers[i] = r
		reading.Go(func() {
			if err := r.run(ctx); err != nil {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	eventually(t, within, "every reader has begun", func() bool { return begun.Load() == int64(n) })
	return readers, reading.Wait
}

// run reads until the stream is closed or ctx ends.
func (r *reader) run(ctx context.Context) error {
	if r.offset == "" {
		r.offset = "-1"
	}
	for ctx.Err() == nil && !r.closed {
		err := r.connect(ctx)
		var bad *protocolError
		if errors.As(err, &bad) {
			return bad
		}
		if ctx.Err() == nil && !r.closed {
			pause(ctx, 20*time.Millisecond) // as a client's backoff would
		}
	}
	return nil
}

// protocolError is an error that no reconnection may hide.
type protocolError struct{ why string }

func (e *protocolError) Error() string { return e.why }

func (r *reader) connect(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url(r.tries)+"?live=sse&offset="+r.offset, nil)
	if err != nil {
		return err
	}
	r.tries++
	resp, err := r.client.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("status %d", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		b, _ := io.ReadAll(resp.Body)
		return &protocolError{fmt.Sprintf("status %d: %s", resp.StatusCode, b)}
	}
	return r.readEvents(resp.Body)
}

// readEvents reads the stream's events. Data counts once its control event has told the offset after
// it, since the reader would resume there.
func (r *reader) readEvents(body io.Reader) error {
	sc := bufio.NewScanner(body)
	sc.Buffer(nil, 32<<20)
	var name string
	var data []byte
	var pending []string
	for sc.Scan() {
		line := sc.Bytes()
		switch {
		case len(line) == 0 && name == "data":
			var batch []string
			if err := json.Unmarshal(data, &batch); err != nil {
				return &protocolError{fmt.Sprintf("%v in %.100s", err, data)}
			}
			pending = append(pending, batch...)
			name, data = "", nil
		case len(line) == 0 && name == "control":
			var control struct {
				StreamNextOffset string
				StreamClosed     bool
			}
			if err := json.Unmarshal(data, &control); err != nil || control.StreamNextOffset < r.offset && r.offset != "-1" {
				return &protocolError{fmt.Sprintf("control %s after %s (%v)", data, r.offset, err)}
			}
			r.got, r.offset = append(r.got, pending...), control.StreamNextOffset
			r.count.Store(int64(len(r.got)))
			r.closed = control.StreamClosed
			name, data, pending = "", nil, nil
			if r.heard != nil {
				r.heard()
			}
		case bytes.HasPrefix(line, []byte("event: ")):
			name = string(line[len("event: "):])
		case bytes.HasPrefix(line, []byte("data:")):
			data = append(data, line[len("data:"):]...)
		}
	}
	return sc.Err()
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// eventually waits until ok returns true.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for !ok() {
		if ctx.Err() != nil {
			t.Fatalf("not within %v: %s", within, what)
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// metric returns the sum of a metric over its labels, read from an admin address; false if there is
// no answer.
func (c *client) metric(ctx context.Context, admin, name string) (sum float64, ok bool) {
	a, err := c.do(ctx, "GET", "http://"+admin+"/metrics", "")
	if err != nil || a.status != 200 {
		return 0, false
	}
	for line := range strings.Lines(string(a.body)) {
		rest, found := strings.CutPrefix(line, name)
		if !found || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:]), 64)
		if err != nil {
			return 0, false
		}
		sum += v
	}
	return sum, true
}

// wantSame fails unless both lists are equal, and reports the first difference.
func wantSame(t *testing.T, who string, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: message %d is %q, want %q", who, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d messages, want %d", who, len(got), len(want))
	}
}
