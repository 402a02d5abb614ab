package s2

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// responseValidator lets nothing through as a success that S2 has not answered. The SDK takes any status
// below 400 for one, and an empty body for a message in which all is zero: a redirection by a
// proxy, or its 204, would have acknowledged an append, and said of a log that all of it is
// trimmed away. Read sessions have a client of the SDK's, and frames of their own; what is none
// ends one.
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

// isValidResponse: what is read or appended is answered by 200 and protobuf or JSON, as was asked for;
// what is made to exist (PUT), by any success.
func isValidResponse(req *http.Request, resp *http.Response) bool {
	if req.Method == http.MethodPut {
		return resp.StatusCode < http.StatusMultipleChoices
	}
	want := "json"
	if strings.Contains(req.Header.Get("Accept"), "protobuf") {
		want = "protobuf"
	}
	return resp.StatusCode == http.StatusOK && strings.Contains(resp.Header.Get("Content-Type"), want)
}
