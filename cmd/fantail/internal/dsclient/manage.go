package dsclient

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Info describes a stream, as HEAD answers.
type Info struct {
	ContentType string `json:"contentType"`
	NextOffset  string `json:"nextOffset"`
	Closed      bool   `json:"closed"`
	TTLSeconds  int64  `json:"ttlSeconds,omitempty"` // 0: the stream has none
	ExpiresAt   string `json:"expiresAt,omitempty"`
}

func infoOf(h http.Header) Info {
	i := Info{ContentType: h.Get("Content-Type"), NextOffset: h.Get("Stream-Next-Offset"), Closed: isTrue(h, "Stream-Closed"), ExpiresAt: h.Get("Stream-Expires-At")}
	i.TTLSeconds, _ = strconv.ParseInt(h.Get("Stream-TTL"), 10, 64)
	return i
}

func isTrue(h http.Header, name string) bool { return strings.EqualFold(h.Get(name), "true") }

// CreateOptions says what a stream is created with. Zero values are left to the server.
type CreateOptions struct {
	ContentType string
	TTL         time.Duration // whole seconds
	ExpiresAt   string        // RFC 3339
	Closed      bool
	Body        []byte

	Source    *Stream // the stream becomes a fork of it
	Offset    string  // where the fork leaves the source
	SubOffset uint64
}

// Create creates the stream. created is false if it was there already with this configuration.
func (s *Stream) Create(ctx context.Context, o CreateOptions) (info Info, created bool, err error) {
	h := http.Header{}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("Content-Type", o.ContentType)
	set("Stream-Expires-At", o.ExpiresAt)
	set("Stream-Fork-Offset", o.Offset)
	if o.TTL > 0 {
		set("Stream-TTL", strconv.FormatInt(int64(o.TTL/time.Second), 10))
	}
	if o.Closed {
		set("Stream-Closed", "true")
	}
	if o.Source != nil {
		set("Stream-Forked-From", forkPath(o.Source))
	}
	if o.SubOffset > 0 {
		set("Stream-Fork-Sub-Offset", strconv.FormatUint(o.SubOffset, 10))
	}
	a, err := s.client.do(ctx, &request{method: http.MethodPut, url: s.url, header: h, body: o.Body, again: len(o.Body) == 0})
	if err != nil {
		return Info{}, false, err
	}
	return infoOf(a.header), a.status == http.StatusCreated, nil
}

// forkPath returns the path by which a server knows a source: below its root, whatever a proxy puts
// before it.
func forkPath(s *Stream) string {
	path := s.url.EscapedPath()
	if i := strings.Index(path, Root); i > 0 {
		return path[i:]
	}
	return path
}

// Info describes the stream.
func (s *Stream) Info(ctx context.Context) (Info, error) {
	a, err := s.client.do(ctx, &request{method: http.MethodHead, url: s.url, again: true})
	if err != nil {
		return Info{}, explainHead(err, s)
	}
	return infoOf(a.header), nil
}

// Delete deletes the stream. Sent again after an answer that was lost, the request finds no stream:
// the error is then a *Problem of 404 or 410.
func (s *Stream) Delete(ctx context.Context) error {
	_, err := s.client.do(ctx, &request{method: http.MethodDelete, url: s.url, again: true})
	return err
}

// explainHead adds a text to a refusal of HEAD, whose answer has no body.
func explainHead(err error, s *Stream) error {
	p, ok := err.(*Problem) //nolint:errorlint // do returns it as it is, unless it was repeated
	if ok && p.Detail == "" && (p.Status == http.StatusNotFound || p.Status == http.StatusGone) {
		p.Detail = s.Path() + " does not exist; fantail new creates it"
	}
	return err
}
