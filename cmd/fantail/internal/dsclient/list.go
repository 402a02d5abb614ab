package dsclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Listed is one stream of a listing. Without detail only its name and when it was created are known.
type Listed struct {
	Name        string `json:"name"`
	Created     string `json:"created,omitempty"`
	ContentType string `json:"contentType,omitempty"`
	NextOffset  string `json:"nextOffset,omitempty"`
	Closed      *bool  `json:"closed,omitempty"`
	TTLSeconds  int64  `json:"ttlSeconds,omitempty"`
	ExpiresAt   string `json:"expiresAt,omitempty"`
}

// The bounds of one page of a listing.
const (
	maxPage       = 1000
	maxDetailPage = 100
)

// List calls fn with the streams of a project whose names begin with prefix and sort above after,
// page by page, until there are no more or fn returns an error, which it returns. Without detail some
// of the names may be of streams that were deleted.
func (c *Client) List(ctx context.Context, project, prefix, after string, detail bool, fn func([]Listed) error) error {
	at := *c.Base
	base := strings.TrimSuffix(at.EscapedPath(), "/")
	if !strings.HasSuffix(base+"/", Root) {
		base += strings.TrimSuffix(Root, "/")
	}
	at.RawPath = base + "/" + url.PathEscape(project) + "/__ds/streams"
	at.Path, _ = url.PathUnescape(at.RawPath)
	q := url.Values{"limit": {strconv.Itoa(maxPage)}}
	if detail {
		q = url.Values{"limit": {strconv.Itoa(maxDetailPage)}, "detail": {"1"}}
	}
	if prefix != "" {
		q.Set("prefix", prefix)
	}
	for {
		if after != "" {
			q.Set("after", after)
		}
		a, err := c.do(ctx, &request{method: http.MethodGet, url: &at, query: q, again: true})
		if err != nil {
			return err
		}
		var page struct {
			Streams []Listed `json:"streams"`
			Next    string   `json:"next"`
		}
		if err := json.Unmarshal(a.body, &page); err != nil || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
			return &ProtocolError{"a listing is no JSON; the server may have none"}
		}
		if err := fn(page.Streams); err != nil {
			return err
		}
		if page.Next == "" {
			return nil
		}
		if page.Next <= after {
			return &ProtocolError{"a listing does not advance"}
		}
		after = page.Next
	}
}
