package dsclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// MaxBody is the largest body of an append that servers accept.
const MaxBody = 16 << 20

// Producer appends to a stream. The server stores each of its requests once, however often it is
// sent. It is for one goroutine.
type Producer struct {
	stream      *Stream
	contentType string
	id          string
	epoch, seq  uint64
}

// NewProducer returns a producer of a stream of a content type. Without an id it gets one of its
// own, which no other producer has.
func (s *Stream) NewProducer(contentType, id string, epoch uint64) *Producer {
	if id == "" {
		id = "cli-" + rand.Text()
	}
	return &Producer{stream: s, contentType: contentType, id: id, epoch: epoch}
}

// ID returns the producer's id.
func (p *Producer) ID() string { return p.id }

// Append appends a body, and closes the stream after it if told so. It returns the offset after it.
// When it returns an error, the body may be written or not; see Written.
func (p *Producer) Append(ctx context.Context, body []byte, closes bool) (next string, err error) {
	h := http.Header{}
	h.Set("Producer-Id", p.id)
	h.Set("Producer-Epoch", strconv.FormatUint(p.epoch, 10))
	h.Set("Producer-Seq", strconv.FormatUint(p.seq, 10))
	if len(body) > 0 {
		h.Set("Content-Type", p.contentType)
	}
	if closes {
		h.Set("Stream-Closed", "true")
	}
	a, err := p.stream.client.do(ctx, &request{method: http.MethodPost, url: p.stream.url, header: h, body: body, again: true})
	if err != nil {
		return "", p.explain(err)
	}
	p.seq++
	return a.header.Get("Stream-Next-Offset"), nil
}

// explain adds to a producer's refusal what to do about it.
func (p *Producer) explain(err error) error {
	var r *Problem
	if !errors.As(err, &r) {
		return err
	}
	switch r.Slug() {
	case "producer-fenced":
		return fmt.Errorf("%w; the producer %q is at epoch %s: take a later one", err, p.id, r.Header.Get("Producer-Epoch"))
	case "producer-gap":
		return fmt.Errorf("%w; the stream has forgotten the producer %q, or it has written less than it says: the server expects seq %s and got %d", err, p.id, r.Header.Get("Producer-Expected-Seq"), p.seq)
	}
	return err
}
