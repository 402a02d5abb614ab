package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// client asks one node for streams of JSON messages of one size.
type client struct {
	at   string
	http *http.Client
}

func newClient(at string) *client {
	return &client{at, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
}

const (
	nextOffset = "Stream-Next-Offset"
	upToDate   = "Stream-Up-To-Date"
)

// do sends a request and returns its answer, whose body is the caller's to read.
func (c *client) do(method, stream string, body []byte, headers ...string) (*http.Response, error) {
	req, err := http.NewRequest(method, c.at+"/v1/stream/"+stream, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.http.Do(req)
	if err == nil && resp.StatusCode/100 != 2 {
		why, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s %s", method, stream, resp.Status, why)
	}
	return resp, err
}

// ask sends a request and returns the head of its answer, and how long it took.
func (c *client) ask(method, stream string, body []byte, headers ...string) (http.Header, time.Duration, error) {
	began := time.Now()
	resp, err := c.do(method, stream, body, headers...)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Header, time.Since(began), err
}

var isJSON = []string{"Content-Type", "application/json"}

func (c *client) create(stream, source string) error {
	headers := isJSON
	if source != "" {
		headers = append(slices.Clip(headers), "Stream-Forked-From", "/v1/stream/"+source)
	}
	_, _, err := c.ask(http.MethodPut, stream, nil, headers...)
	return err
}

// write makes a stream (a fork, if it has a source) of so many messages. Each
// append makes a checkpoint due and leaves room for it, so that what a take-over
// has to read is the same for all streams.
func (c *client) write(stream, source string, messages, size int) error {
	if err := c.create(stream, source); err != nil {
		return err
	}
	return c.post(stream, messages, size, 500)
}

// post appends messages of a size; they go as arrays of at most per messages.
func (c *client) post(stream string, messages, size, per int) error {
	for messages > 0 {
		n := min(messages, per)
		if _, _, err := c.ask(http.MethodPost, stream, array(n, size), isJSON...); err != nil {
			return err
		}
		messages -= n
	}
	return nil
}

// array returns a JSON array of n strings, each of size bytes with its quotes.
func array(n, size int) []byte {
	message := `,"` + strings.Repeat("x", size-2) + `"`
	b := []byte(strings.Repeat(message, n) + "]")
	b[0] = '['
	return b
}

// catchUp reads a stream from its start to its tail, chunk by chunk. It returns
// the number of its messages and the offset of its last chunk.
func (c *client) catchUp(stream string, size int) (messages int, last string, took time.Duration, err error) {
	began := time.Now()
	for at := "-1"; ; {
		resp, err := c.do(http.MethodGet, stream+"?offset="+at, nil)
		if err != nil {
			return 0, "", 0, err
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			return 0, "", 0, err
		}
		messages += int(n-1) / (size + 1) // each with a comma or a bracket, and one bracket more
		if last = at; resp.Header.Get(upToDate) != "" {
			return messages, last, time.Since(began), nil
		}
		at = resp.Header.Get(nextOffset)
	}
}

// firstByte returns the time until the first byte of a chunk arrives.
func (c *client) firstByte(stream, offset string) (time.Duration, error) {
	began := time.Now()
	resp, err := c.do(http.MethodGet, stream+"?offset="+offset, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var b [1]byte
	if _, err := io.ReadFull(resp.Body, b[:]); err != nil {
		return 0, err
	}
	took := time.Since(began)
	_, err = io.Copy(io.Discard, resp.Body)
	return took, err
}

// head returns the time that a HEAD takes.
func (c *client) head(stream string) (time.Duration, error) {
	_, took, err := c.ask(http.MethodHead, stream, nil)
	return took, err
}

// tail returns the log position after a stream's last message: its next offset is
// {life}_{position × 1000}.
func (c *client) tail(stream string) (uint64, error) {
	h, _, err := c.ask(http.MethodHead, stream, nil)
	if err != nil {
		return 0, err
	}
	_, place, _ := strings.Cut(h.Get(nextOffset), "_")
	n, err := strconv.ParseUint(place, 10, 64)
	return n / 1000, err
}

// warmUp has a fresh node do once what is measured, with other streams.
func (c *client) warmUp(streams []string, size int) error {
	for _, name := range streams {
		if _, err := c.head(name); err != nil {
			return err
		}
		if _, _, _, err := c.catchUp(name, size); err != nil {
			return err
		}
		if err := c.post(name, 1, size, 1); err != nil {
			return err
		}
	}
	return nil
}
