package dsclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Root is the path below which servers have their streams.
const Root = "/v1/stream/"

// Client holds how a server is reached. Its fields do not change once it is used.
type Client struct {
	// HTTP makes the requests. It needs no timeout: requests end with their contexts.
	HTTP *http.Client
	// Base is the URL of the server, without the path of a stream.
	Base *url.URL
	// Token returns the bearer token of a request; empty: none is sent. It is called for each
	// request, so that a renewed token is used (nil: no token).
	Token func() (string, error)
	// Patience bounds the time for which requests are sent again without any success (30 s).
	Patience time.Duration
	// OnRetry is told why a request is sent again, and after what time (nil: it is not told).
	OnRetry func(why error, wait time.Duration)
}

// Stream is one stream of a server. A signed URL keeps its query in every request.
type Stream struct {
	client *Client
	url    *url.URL
}

// ParseBase returns a server's URL: with or without the path of streams at its end.
func ParseBase(s string) (*url.URL, error) {
	u, err := parseURL(s)
	if err != nil {
		return nil, err
	}
	if u.RawQuery != "" {
		return nil, errors.New("the URL of a server has no query")
	}
	return u.JoinPath("/"), nil
}

func parseURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("want a URL, such as https://streams.example") // the error of Parse repeats it, with its signature
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("want a URL with http or https and a host, such as https://streams.example")
	}
	return u, nil
}

// IsStreamURL reports whether a text is the URL of a stream, and not of a server or a name.
func IsStreamURL(s string) bool {
	_, name, ok := strings.Cut(s, Root)
	return strings.Contains(s, "://") && ok && name != "" && !strings.HasPrefix(name, "?")
}

// Stream returns the stream of a name, PROJECT/NAME or NAME alone, not percent-encoded; or of a
// URL.
func (c *Client) Stream(name string) (*Stream, error) {
	if IsStreamURL(name) {
		u, err := parseURL(name)
		if err != nil {
			return nil, err
		}
		return &Stream{c, u}, nil
	}
	u, err := c.resolve(name)
	if err != nil {
		return nil, err
	}
	return &Stream{c, u}, nil
}

// resolve returns the URL of a name below the server's root.
func (c *Client) resolve(name string) (*url.URL, error) {
	segments := strings.Split(name, "/")
	for i, s := range segments {
		if s == "" || s == "." || s == ".." {
			return nil, fmt.Errorf("%q is no name of a stream: want NAME or PROJECT/NAME, without empty parts, or a URL with %s in it", name, Root)
		}
		segments[i] = url.PathEscape(s)
	}
	base := strings.TrimSuffix(c.Base.EscapedPath(), "/")
	if !strings.HasSuffix(base+"/", Root) {
		base += strings.TrimSuffix(Root, "/")
	}
	u := *c.Base
	u.RawPath = base + "/" + strings.Join(segments, "/")
	var err error
	u.Path, err = url.PathUnescape(u.RawPath)
	return &u, err
}

// URL returns the stream's URL. It has the signature of a signed one.
func (s *Stream) URL() string { return s.url.String() }

// Path returns the stream's URL without its query, which may be a signature.
func (s *Stream) Path() string {
	u := *s.url
	u.RawQuery = ""
	return u.String()
}

// request is one request, which can be sent again.
type request struct {
	method string
	url    *url.URL
	query  url.Values // added to the URL's own
	header http.Header
	body   []byte
	again  bool // it may be sent again
}

// send sends a request once, and returns an answer of 2xx, 304 or a *Problem. The caller closes the
// answer's body.
func (c *Client) send(ctx context.Context, q *request) (*http.Response, error) {
	u := *q.url
	if len(q.query) > 0 {
		if u.RawQuery != "" {
			u.RawQuery += "&"
		}
		u.RawQuery += q.query.Encode()
	}
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for name, values := range q.header {
		req.Header[name] = values
	}
	if c.Token != nil {
		token, err := c.Token()
		if err != nil {
			return nil, &credentialError{err}
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	if resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotModified {
		return nil, problemOf(resp)
	}
	return resp, nil
}

// credentialError is the error of a token that cannot be read: sending again does not help.
type credentialError struct{ err error }

func (e *credentialError) Error() string { return e.err.Error() }
func (e *credentialError) Unwrap() error { return e.err }

// withoutURL removes the URL from an error, because a signed one is a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// do sends a request until it is answered for good, and reads the answer.
func (c *Client) do(ctx context.Context, q *request) (*answer, error) {
	r := c.newRetrier()
	for {
		a, err := c.attempt(ctx, q)
		if err == nil || !q.again {
			return a, err
		}
		if err := r.pause(ctx, err); err != nil {
			return nil, err
		}
	}
}

// answer is an answer with its body.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// attemptTimeout bounds one request whose answer is read as a whole. It is longer than servers
// wait in a long-poll.
const attemptTimeout = 2 * time.Minute

func (c *Client) attempt(ctx context.Context, q *request) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	resp, err := c.send(ctx, q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &answer{resp.StatusCode, resp.Header, b}, nil
}

// Sibling returns another stream of the server that the stream is on, by its name or URL.
func (s *Stream) Sibling(name string) (*Stream, error) {
	if IsStreamURL(name) {
		return s.client.Stream(name)
	}
	base := *s.url
	base.RawQuery = ""
	if before, _, ok := strings.Cut(base.EscapedPath(), Root); ok {
		base.RawPath = before + "/"
		base.Path, _ = url.PathUnescape(base.RawPath)
	}
	c := *s.client
	c.Base = &base
	return c.Stream(name)
}
