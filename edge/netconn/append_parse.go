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

// parseRequest parses the request at the start of buf, if its header has arrived. It accepts
// only a plain append: HTTP/1.1, within AppendConns.MaxRequest, in lines that end in CRLF, with one
// Content-Length in digits, to the same host as before, and without fields that concern the
// connection. Two servers that read a request differently let a client smuggle another request
// past one of them: so parseRequest accepts only what cannot be read in two ways, and returns
// errNotPlainAppend for everything else.
func (c *appendConn) parseRequest() error {
	if !c.requestBegun {
		if len(c.buf) < minRequestBytes {
			return nil
		}
		c.requestBegun = true
		for i := 0; i < minRequestBytes && (c.buf[0] == '\r' || c.buf[0] == '\n'); i++ {
			c.buf = c.buf[:copy(c.buf, c.buf[1:])] // net/http skips them after a POST, too
		}
	}
	end := bytes.Index(c.buf, []byte("\r\n\r\n"))
	if end < 0 {
		if len(c.buf) == cap(c.buf) || hasBareLF(c.buf) {
			return errNotPlainAppend
		}
		return nil
	}
	line, rest, _ := strings.Cut(string(c.buf[:end+2]), "\r\n")
	target, post := strings.CutPrefix(line, "POST ")
	target, http1 := strings.CutSuffix(target, " HTTP/1.1")
	if !post || !http1 || !strings.HasPrefix(target, "/") || !byteclass.All(target, byteclass.Target) {
		return errNotPlainAppend
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return errNotPlainAppend
	}
	h, err := parseFields(rest)
	if err != nil {
		return err
	}
	length, err := strconv.ParseUint(h.Get("Content-Length"), 10, 16)
	c.requestSize = end + 4 + int(length)
	if err != nil || h.Get("Host") != c.template.Host || c.requestSize > cap(c.buf) {
		return errNotPlainAppend
	}
	delete(h, "Host")
	r := c.template.WithContext(c.ctx)
	r.RequestURI, r.URL, r.Header, r.ContentLength, r.Body = target, u, h, int64(length), http.NoBody
	c.request = r
	return nil
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
