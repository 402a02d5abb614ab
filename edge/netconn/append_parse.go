package netconn

import (
	"bytes"
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/fantail-dev/fantail/edge/byteclass"
)

// errNotPlainAppend means that net/http should see the request.
var errNotPlainAppend = errors.New("not an ordinary append")

// minRequestBytes counts the bytes that net/http receives before it looks at a request.
const minRequestBytes = 4

// plainAppend is a request that parsePlainAppend has accepted.
type plainAppend struct {
	target     string
	url        *url.URL
	header     http.Header
	bodyLength int
	size       int // of the request, with its body
}

// parsePlainAppend parses the request at the start of b, if its header has arrived; complete is false
// if it has not. full says that no more can arrive. It accepts only a plain append: HTTP/1.1, in lines
// that end in CRLF, with one Content-Length in digits, and without fields that concern the connection.
// Two servers that read a request differently let a client smuggle another request past one of them:
// so parsePlainAppend accepts only what cannot be read in two ways, and returns errNotPlainAppend for
// everything else.
func parsePlainAppend(b []byte, full bool) (p plainAppend, complete bool, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if full || hasBareLF(b) {
			return p, false, errNotPlainAppend
		}
		return p, false, nil
	}
	line, rest, _ := strings.Cut(string(b[:end+2]), "\r\n")
	target, post := strings.CutPrefix(line, "POST ")
	target, http1 := strings.CutSuffix(target, " HTTP/1.1")
	if !post || !http1 || !strings.HasPrefix(target, "/") || !byteclass.All(target, byteclass.Target) {
		return p, false, errNotPlainAppend
	}
	p.target = target
	if p.url, err = url.ParseRequestURI(target); err != nil {
		return p, false, errNotPlainAppend
	}
	if p.header, err = parseFields(rest); err != nil {
		return p, false, err
	}
	length, err := strconv.ParseUint(p.header.Get("Content-Length"), 10, 16)
	if err != nil {
		return p, false, errNotPlainAppend
	}
	p.bodyLength, p.size = int(length), end+4+int(length)
	return p, true, nil
}

// hasBareLF reports whether a line ends in a bare LF; other parsers may take that for a line end,
// and so see the end of the header earlier.
func hasBareLF(b []byte) bool {
	for i := bytes.IndexByte(b, '\n'); i >= 0; {
		if i == 0 || b[i-1] != '\r' {
			return true
		}
		next := bytes.IndexByte(b[i+1:], '\n')
		if next < 0 {
			return false
		}
		i += 1 + next
	}
	return false
}

// parseFields parses the fields of a header: lines that end in CRLF. A field that matters here
// may come once only.
func parseFields(lines string) (http.Header, error) {
	h := make(http.Header, 8)
	values := make([]string, strings.Count(lines, "\r\n")) // one allocation for all values
	for len(lines) > 0 {
		var line string
		line, lines, _ = strings.Cut(lines, "\r\n")
		name, value, found := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !found || name == "" || !byteclass.All(name, byteclass.Token) || !byteclass.All(value, byteclass.Value) {
			return nil, errNotPlainAppend
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if !isPlainField(name, value, h) {
			return nil, errNotPlainAppend
		}
		if had := h[name]; had != nil {
			h[name] = append(had, value)
			continue
		}
		values[0] = value
		h[name], values = values[:1:1], values[1:]
	}
	return h, nil
}

// isPlainField reports whether a plain append may have a field, after those in h.
func isPlainField(name, value string, h http.Header) bool {
	switch name {
	case "Host":
		return h[name] == nil
	case "Content-Length":
		return h[name] == nil && byteclass.All(value, byteclass.Digits)
	case "Connection":
		return strings.EqualFold(value, "keep-alive")
	case "Transfer-Encoding", "Te", "Trailer", "Expect", "Upgrade", "Http2-Settings", "Pragma":
		return false
	}
	return true
}
