package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"time"
)

// poll reads by long-poll and never ends. The reader counts as up while its connection works, and
// asks again as soon as it has an answer.
func (r *reader) poll() {
	for {
		why := r.pollOnce()
		r.mu.Lock()
		if r.conn != nil && r.at == "" {
			why = cut
		}
		r.conn, r.at = nil, ""
		r.mu.Unlock()
		r.crowd.ended[why].Add(1)
		pause(comeBack)
	}
}

// pollOnce polls over one connection until that ends.
func (r *reader) pollOnce() reason {
	conn, at := r.crowd.dial()
	if conn == nil {
		return dialled
	}
	defer conn.Close()
	r.mu.Lock()
	r.conn, r.at, r.upAt = conn, at, time.Now()
	r.mu.Unlock()
	r.crowd.arrive()
	defer r.crowd.up.Add(-1)
	in := bufio.NewReaderSize(conn, 2048)
	for {
		from := r.lastID
		if from == "" {
			from = "-1"
		}
		if _, err := fmt.Fprintf(conn, "GET /v1/stream/%s?live=long-poll&offset=%s HTTP/1.1\r\nHost: %s\r\n\r\n",
			r.crowd.name(r.stream), from, at); err != nil {
			return broken
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return broken
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			return broken
		case resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusTooManyRequests:
			return asked
		case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent:
			r.crowd.refuse(fmt.Sprintf("%d from %s for stream %d after %q", resp.StatusCode, at, r.stream, from))
			return refusal
		}
		r.event(resp.Header.Get("Stream-Next-Offset"), body, resp.StatusCode == http.StatusOK)
		if resp.Close {
			return ended
		}
		pause(time.Millisecond)
	}
}
