package dsclient

import (
	"context"
	"net/http"
	"net/url"
)

// Chunk holds what one read returned.
type Chunk struct {
	ContentType string
	Body        []byte
	NextOffset  string
	UpToDate    bool // there was nothing more
	Closed      bool // the stream ends here
	cursor      string
}

// Read returns the messages from an offset on, as far as one answer holds them.
func (s *Stream) Read(ctx context.Context, offset string) (*Chunk, error) {
	return s.read(ctx, url.Values{"offset": {offset}})
}

// poll returns the messages from an offset on, and waits for some if there are none.
func (s *Stream) poll(ctx context.Context, offset, cursor string) (*Chunk, error) {
	q := url.Values{"offset": {offset}, "live": {"long-poll"}}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	return s.read(ctx, q)
}

func (s *Stream) read(ctx context.Context, q url.Values) (*Chunk, error) {
	a, err := s.client.do(ctx, &request{method: http.MethodGet, url: s.url, query: q, again: true})
	if err != nil {
		return nil, err
	}
	c := &Chunk{
		ContentType: a.header.Get("Content-Type"), Body: a.body, NextOffset: a.header.Get("Stream-Next-Offset"), cursor: a.header.Get("Stream-Cursor"),
		UpToDate: isTrue(a.header, "Stream-Up-To-Date"), Closed: isTrue(a.header, "Stream-Closed"),
	}
	if c.NextOffset == "" {
		return nil, &ProtocolError{"a read has no Stream-Next-Offset"}
	}
	return c, nil
}
