package dsclient

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Problem is an answer that refuses a request: an RFC 9457 document, or what a proxy answered.
type Problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Reason    string `json:"reason"` // why a credential is not good
	RequestID string `json:"requestId"`

	// Header has the answer's fields.
	Header http.Header `json:"-"`
}

// maxProblem bounds what is read of a refusal.
const maxProblem = 64 << 10

// problemOf reads and closes an answer that refuses.
func problemOf(resp *http.Response) *Problem {
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	p := &Problem{}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") || json.Unmarshal(b, p) != nil {
		*p = Problem{Title: http.StatusText(resp.StatusCode), Detail: plainText(resp.Header.Get("Content-Type"), b)}
	}
	p.Status, p.Header = resp.StatusCode, resp.Header
	return p
}

// plainText returns the first line of a body, if people can read it.
func plainText(contentType string, b []byte) string {
	if !strings.HasPrefix(contentType, "text/plain") {
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line[:min(len(line), 300)]
}

// Slug returns the last part of the problem's type, which names it: stream-not-found.
func (p *Problem) Slug() string { return p.Type[strings.LastIndexByte(p.Type, '/')+1:] }

// Error says what is wrong and what to do.
func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", p.Status)
	for _, part := range []string{p.Title, p.Detail} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	var more []string
	if slug := p.Slug(); slug != "" {
		more = append(more, slug)
	}
	if p.Reason != "" {
		more = append(more, p.Reason)
	}
	if p.RequestID != "" {
		more = append(more, "request "+p.RequestID)
	}
	if len(more) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(more, ", "))
	}
	return b.String()
}

// retryAfter returns for how long the server asks to wait.
func (p *Problem) retryAfter() time.Duration {
	seconds, err := strconv.Atoi(p.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// IsTemporary reports whether the same request may work a little later.
func IsTemporary(err error) bool {
	var p *Problem
	if !errors.As(err, &p) {
		return err != nil && !isFinal(err) // no answer
	}
	switch p.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	}
	return p.Status >= http.StatusInternalServerError && p.Status != http.StatusNotImplemented
}

// isFinal reports whether an error other than a refusal stays when the request is sent again.
func isFinal(err error) bool {
	var (
		credential  *credentialError
		protocol    *ProtocolError
		certificate *tls.CertificateVerificationError
	)
	return errors.As(err, &credential) || errors.As(err, &protocol) || errors.As(err, &certificate) || errors.Is(err, http.ErrSchemeMismatch)
}

// ProtocolError is an answer that the protocol does not allow: the server is none of Durable
// Streams, or something between changes what it sends.
type ProtocolError struct{ Why string }

func (e *ProtocolError) Error() string { return "the answer is not one of Durable Streams: " + e.Why }
