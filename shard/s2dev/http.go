package s2dev

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	mimeJSON  = "application/json"
	mimeProto = "application/protobuf"
	mimeS2S   = "s2s/proto"
	mimeSSE   = "text/event-stream"
)

// apiCall is one request. path has the segments after /v1, each decoded on its own, since a
// stream's name may hold an escaped slash.
type apiCall struct {
	*Server
	w    http.ResponseWriter
	r    *http.Request
	path []string
}

func segments(u *url.URL) ([]string, *apiError) {
	parts := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	for i, p := range parts {
		s, err := url.PathUnescape(p)
		if err != nil {
			return nil, newError("bad_path", "%s", err)
		}
		parts[i] = s
	}
	return parts, nil
}

// handle answers a request for S2's API or for an operator's page.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	c := &apiCall{Server: s, w: w, r: r}
	if err := c.route(); err != nil {
		c.replyError(err)
	}
}

func (c *apiCall) route() *apiError {
	if !c.cfg.AllowRemote && !LocalHost(c.r.Host) {
		return newError("permission_denied", "host `%s` is not loopback", c.r.Host)
	}
	path, err := segments(c.r.URL)
	if err != nil {
		return err
	}
	if len(path) == 1 {
		return c.operatorPage(path[0])
	}
	if path[0] != "v1" {
		return noSuchRoute()
	}
	if err := c.faults.checkToken(c.r.Header.Get("Authorization")); err != nil {
		return err
	}
	c.path = path[1:]
	switch c.path[0] {
	case "basins":
		return c.routeBasins()
	case "streams":
		return c.routeStreams()
	case "access-tokens", "locations", "metrics":
		return newError("not_implemented", "Not implemented")
	}
	return noSuchRoute()
}

func noSuchRoute() *apiError {
	return &apiError{status: http.StatusNotFound, code: "bad_path", message: "no such route"}
}

func noSuchMethod() *apiError {
	return &apiError{
		status: http.StatusMethodNotAllowed, code: "bad_path", message: "no such method",
	}
}

// LocalHost reports whether a request's Host names loopback. Any other name on a loopback address
// means that a browser was led here by a foreign DNS entry.
func LocalHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	return isLoopback(host) || strings.HasSuffix(host, ".localhost")
}

func (c *apiCall) operatorPage(page string) *apiError {
	switch page {
	case "health", "ping":
		if err := c.cfg.failure.err(); err != nil {
			return newError("unavailable", "%s", err)
		}
		_, _ = io.WriteString(c.w, "OK\n")
	case "metrics":
		c.w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		total := c.meter.readTotal()
		total.writeMetrics(c.w)
	default:
		return noSuchRoute()
	}
	return nil
}

func (c *apiCall) replyError(err *apiError) {
	if err.status == http.StatusTooManyRequests {
		c.w.Header().Set("Retry-After", "1")
	}
	c.w.Header().Set("Content-Type", mimeJSON)
	c.w.WriteHeader(err.status)
	_, _ = c.w.Write(err.json())
}

func (c *apiCall) replyJSON(status int, body any) *apiError {
	b, err := json.Marshal(body)
	if err != nil {
		return newError("other", "%s", err)
	}
	c.w.Header().Set("Content-Type", mimeJSON)
	c.w.WriteHeader(status)
	_, _ = c.w.Write(b)
	return nil
}

// abortConnection ends the response without completing it: the client sees a lost connection.
func abortConnection() { panic(http.ErrAbortHandler) }

// readBody returns the request's body, decompressed.
func (c *apiCall) readBody() ([]byte, *apiError) {
	raw, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBodyBytes))
	if err != nil {
		if _, big := errors.AsType[*http.MaxBytesError](err); big {
			return nil, &apiError{status: 413, code: "invalid", message: "body too large"}
		}
		return nil, newError("client_hangup", "%s", err)
	}
	kind := plain
	switch strings.ToLower(c.r.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "zstd":
		kind = zstandard
	case "gzip":
		kind = gzipped
	default:
		return nil, newError("bad_header", "unknown content encoding")
	}
	out, err := decompress(kind, raw, maxBodyBytes)
	if err != nil {
		return nil, newError("bad_header", "body: %s", err)
	}
	return out, nil
}

func jsonError(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	return newError("bad_json", "%s", err)
}

// decodeBody decodes a JSON body into v. With mayBeEmpty, an empty body leaves v unchanged.
func (c *apiCall) decodeBody(v any, mayBeEmpty bool) *apiError {
	b, bad := c.readBody()
	if bad != nil {
		return bad
	}
	if len(b) == 0 && mayBeEmpty {
		return nil
	}
	if !isUnicode(b) {
		return newError("bad_json", "invalid unicode in a string")
	}
	if err := json.Unmarshal(b, v); err != nil {
		return jsonError(err)
	}
	return nil
}

// isUnicode reports whether all strings in a JSON text are Unicode: valid UTF-8, without half a
// surrogate pair in an escape. encoding/json replaces both by U+FFFD, which would turn a name into
// another.
func isUnicode(text []byte) bool {
	if !utf8.Valid(text) {
		return false
	}
	for {
		at := bytes.IndexByte(text, '\\')
		if at < 0 || at+2 > len(text) {
			return true
		}
		r, ok := escapedUnit(text[at:])
		if text = text[at+2:]; !ok || !utf16.IsSurrogate(r) {
			continue
		}
		text = text[4:]
		low, ok := escapedUnit(text)
		if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
			return false
		}
		text = text[6:]
	}
}

// escapedUnit returns the UTF-16 code unit of an escape \uXXXX at the start of a text.
func escapedUnit(text []byte) (unit rune, ok bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}

func (c *apiCall) contentType() string { return mediaType(c.r.Header.Get("Content-Type")) }

func mediaType(v string) string {
	t, _, err := mime.ParseMediaType(v)
	if err != nil {
		return ""
	}
	return t
}

// accepts reports whether the Accept header names a media type.
func (c *apiCall) accepts(kind string) bool {
	for part := range strings.SplitSeq(c.r.Header.Get("Accept"), ",") {
		if mediaType(strings.TrimSpace(part)) == kind {
			return true
		}
	}
	return false
}

func (c *apiCall) basinHeader() (string, *apiError) {
	name := c.r.Header.Get("S2-Basin")
	if name == "" {
		return "", newError("bad_header", "missing header `s2-basin`")
	}
	if err := checkBasinName(name); err != nil {
		return "", newError("bad_header", "%s", err.message)
	}
	return name, nil
}

// base64Format reports whether the s2-format header asks for base64.
func (c *apiCall) base64Format() (bool, *apiError) {
	switch c.r.Header.Get("S2-Format") {
	case "", "raw", "json":
		return false, nil
	case "base64", "json-binsafe":
		return true, nil
	}
	return false, newError("bad_header", "unknown s2-format")
}

// queryNumber returns a query parameter; nil if it is absent.
func queryNumber(q url.Values, key string) (*uint64, *apiError) {
	if !q.Has(key) {
		return nil, nil
	}
	n, err := strconv.ParseUint(q.Get(key), 10, 64)
	if err != nil {
		return nil, newError("bad_query", "%s: %s", key, err)
	}
	return &n, nil
}
