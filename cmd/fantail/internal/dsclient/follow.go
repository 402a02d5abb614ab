package dsclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// maxSilence is the time without any line after which an open connection is given up. Servers send a
// comment after 25 s of silence at the latest.
const maxSilence = 60 * time.Second

var errSilence = fmt.Errorf("nothing came for %v", maxSilence)

// Live says how a stream is followed. Closed set.
type Live string

// The ways to follow a stream.
const (
	SSE      Live = "sse"       // one answer that stays open; line breaks of text become LF
	LongPoll Live = "long-poll" // one answer after the other; every byte as it was written
)

// Follow calls fn with what there is from an offset on, and then with what comes, each message once
// and in order, until the stream is closed, fn returns an error, which it returns, or ctx ends. A
// Chunk without a body tells a new position alone. connected is told about each connection; it may
// be nil.
func (s *Stream) Follow(ctx context.Context, offset string, live Live, connected func(), fn func(*Chunk) error) error {
	f := &follower{stream: s, offset: offset, fn: fn, connected: connected, retry: s.client.newRetrier()}
	if f.connected == nil {
		f.connected = func() {}
	}
	read := f.readEvents
	if live == LongPoll {
		read = f.poll
	}
	for {
		err := read(ctx)
		var own *callbackError
		switch {
		case f.closed:
			return nil
		case errors.As(err, &own):
			return own.err
		case err == nil: // the server ended the answer in order
			err = ErrEnded
		}
		if err := f.retry.pause(ctx, err); err != nil {
			return err
		}
	}
}

// ErrEnded is told to OnRetry when a server ends a connection in order, as a server that stops
// does.
var ErrEnded = errors.New("the server ended the connection")

// callbackError is an error of Follow's caller.
type callbackError struct{ err error }

func (e *callbackError) Error() string { return e.err.Error() }

// follower is the state of one Follow.
type follower struct {
	stream    *Stream
	offset    string
	cursor    string
	closed    bool
	fn        func(*Chunk) error
	connected func()
	retry     *retrier
}

// deliverChunk hands a chunk to the caller.
func (f *follower) deliverChunk(c *Chunk) error {
	f.retry.succeeded()
	if err := f.fn(c); err != nil {
		return &callbackError{err}
	}
	f.offset, f.closed = c.NextOffset, c.Closed
	return nil
}

// readEvents reads one answer with events to its end.
func (f *follower) readEvents(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(maxSilence, func() { cancel(errSilence) })
	defer silence.Stop()
	resp, err := f.stream.client.send(ctx, &request{
		method: http.MethodGet, url: f.stream.url, query: url.Values{"offset": {f.offset}, "live": {string(SSE)}},
	})
	if err != nil {
		return causeOf(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusNoContent { // the stream is closed, and all of it was read
		f.closed = true
		return nil
	}
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		return &ProtocolError{fmt.Sprintf("events come as %.60q", got)}
	}
	f.connected()
	events := &eventReader{in: bufio.NewReaderSize(resp.Body, 64<<10), base64: resp.Header.Get("Stream-SSE-Data-Encoding") == "base64", alive: func() { silence.Reset(maxSilence) }}
	for !f.closed {
		c, err := events.nextChunk()
		if err != nil {
			return causeOf(ctx, err)
		}
		if err := f.deliverChunk(c); err != nil {
			return err
		}
	}
	return nil
}

// causeOf returns why a context ended, if it did, and otherwise err.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), errSilence) {
		return errSilence
	}
	return err
}

// poll reads answers one after the other. Each waits for news.
func (f *follower) poll(ctx context.Context) error {
	for !f.closed {
		c, err := f.stream.poll(ctx, f.offset, f.cursor)
		if err != nil {
			return err
		}
		f.connected()
		f.cursor = c.cursor
		if err := f.deliverChunk(c); err != nil {
			return err
		}
	}
	return nil
}
