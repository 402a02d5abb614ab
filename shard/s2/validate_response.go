package s2

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// responseValidator rejects success answers that did not come from S2. The SDK takes any status
// below 400 for a success, and an empty body for a message with only zeros: a proxy's redirection
// or 204 would acknowledge an append, and would report a whole log as trimmed. Read sessions use
// the SDK's own client. They have frames, and bytes that are no frame end a session.
type responseValidator struct{ transport }

// RoundTrip implements http.RoundTripper.
func (g responseValidator) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := g.transport.RoundTrip(req)
	if err != nil || resp.StatusCode >= http.StatusBadRequest || isValidResponse(req, resp) {
		return resp, err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
	return nil, fmt.Errorf("%s with %q is no answer of S2", resp.Status, resp.Header.Get("Content-Type"))
}

// isValidResponse reports whether an answer has the form of S2's: for a read or an append, 200 with
// protobuf or JSON, as requested; for a POST that makes a stream or a basin, 201 with JSON; for a PUT, any
// success.
func isValidResponse(req *http.Request, resp *http.Response) bool {
	if req.Method == http.MethodPut {
		return resp.StatusCode < http.StatusMultipleChoices
	}
	status, want := http.StatusOK, "json"
	if req.Method == http.MethodPost && !strings.HasSuffix(req.URL.Path, "/records") {
		status = http.StatusCreated
	}
	if strings.Contains(req.Header.Get("Accept"), "protobuf") {
		want = "protobuf"
	}
	return resp.StatusCode == status && strings.Contains(resp.Header.Get("Content-Type"), want)
}
