package edge

import (
	"bytes"
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// errExtraordinary is a request that net/http should see.
var errExtraordinary = errors.New("not an ordinary append")

// parse finds next at the head of in, if its head has come. It is an ordinary append: HTTPAddr/1.1,
// of no more than fits, in lines that end in CRLF, whose length is said once and in digits, to
// the host that was asked before, and with nothing that concerns the connection. Two servers
// that understand a request otherwise let the one smuggle in what the other does not see: so
// what is accepted here is what nobody can understand in two ways, and all else is extraordinary.
func (w *writer) parse() error {
	if !w.begun {
		if len(w.in) < least {
			return nil
		}
		w.begun = true
		for i := 0; i < least && (w.in[0] == '\r' || w.in[0] == '\n'); i++ {
			w.in = w.in[:copy(w.in, w.in[1:])] // which net/http skips after a POST, too
		}
	}
	end := bytes.Index(w.in, []byte("\r\n\r\n"))
	if end < 0 {
		if len(w.in) == cap(w.in) || bareEnd(w.in) {
			return errExtraordinary
		}
		return nil
	}
	line, rest, _ := strings.Cut(string(w.in[:end+2]), "\r\n")
	target, post := strings.CutPrefix(line, "POST ")
	target, http1 := strings.CutSuffix(target, " HTTP/1.1")
	if !post || !http1 || !strings.HasPrefix(target, "/") || !all(target, inTarget) {
		return errExtraordinary
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return errExtraordinary
	}
	h, err := fields(rest)
	if err != nil {
		return err
	}
	length, err := strconv.ParseUint(h.Get("Content-Length"), 10, 16)
	w.size = end + 4 + int(length)
	if err != nil || h.Get("Host") != w.as.Host || w.size > cap(w.in) {
		return errExtraordinary
	}
	delete(h, "Host")
	r := w.as.WithContext(w.ctx)
	r.RequestURI, r.URL, r.Header, r.ContentLength, r.Body = target, u, h, int64(length), http.NoBody
	w.next = r
	return nil
}

// bareEnd reports whether a line ends in a bare LF, by which to others the head may have come.
func bareEnd(b []byte) bool {
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

// fields parses the fields of a head: lines that end in CRLF. Of those that matter here there is
// one of each at most.
func fields(lines string) (http.Header, error) {
	h := make(http.Header, 8)
	values := make([]string, strings.Count(lines, "\r\n")) // one allocation for all
	for len(lines) > 0 {
		var line string
		line, lines, _ = strings.Cut(lines, "\r\n")
		name, value, found := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !found || name == "" || !all(name, inToken) || !all(value, inValue) {
			return nil, errExtraordinary
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if !ordinary(name, value, h) {
			return nil, errExtraordinary
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

// ordinary reports whether a field may come with an ordinary append, after those in h.
func ordinary(name, value string, h http.Header) bool {
	switch name {
	case "Host":
		return h[name] == nil
	case "Content-Length":
		return h[name] == nil && all(value, inDigits)
	case "Connection":
		return strings.EqualFold(value, "keep-alive")
	case "Transfer-Encoding", "Te", "Trailer", "Expect", "Upgrade", "Http2-Settings", "Pragma":
		return false
	}
	return true
}

// class is what a byte may be part of.
type class uint8

const (
	inTarget class = 1 << iota // printable ASCII without a space
	inToken                    // RFC 9110, 5.6.2
	inValue                    // printable ASCII, spaces and tabs
	inDigits
	inText // printable ASCII and spaces
	inTag  // what an entity tag and a list of them may hold
)

// String says what may stand in a value of the class.
func (c class) String() string {
	switch c {
	case inDigits:
		return "digits"
	case inTarget:
		return "printable ASCII without spaces"
	case inToken:
		return "a token"
	case inTag:
		return "no control characters"
	default:
		return "printable ASCII"
	}
}

var classes = func() (c [256]class) {
	for b := byte(' '); b < 0x7f; b++ {
		c[b] |= inValue | inText | inTag
		if b != ' ' {
			c[b] |= inTarget
		}
		if b >= '0' && b <= '9' {
			c[b] |= inDigits
		}
		if !strings.ContainsRune(" \"(),/:;<=>?@[\\]{}", rune(b)) {
			c[b] |= inToken
		}
	}
	c['\t'] |= inValue | inTag
	for b := 0x80; b <= 0xff; b++ {
		c[b] |= inTag
	}
	return c
}()

// all reports whether every byte of s is of the class.
func all(s string, of class) bool {
	for i := range len(s) {
		if classes[s[i]]&of == 0 {
			return false
		}
	}
	return true
}
