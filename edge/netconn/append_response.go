package netconn

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// appendResponse is the http.ResponseWriter of an append connection. It keeps the response until the
// handler has returned.
type appendResponse struct {
	header http.Header
	status int // 0: not set yet
	body   []byte
	date   dateCache
	out    bytes.Buffer
}

// reset makes it the response to another request.
func (r *appendResponse) reset() {
	clear(r.header)
	r.status, r.body = 0, r.body[:0]
}

// Header implements http.ResponseWriter.
func (r *appendResponse) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *appendResponse) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
}

// Write implements http.ResponseWriter.
func (r *appendResponse) Write(b []byte) (int, error) {
	if r.WriteHeader(http.StatusOK); r.status == http.StatusNoContent || r.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	r.body = append(r.body, b...)
	return len(b), nil
}

// layOut returns the bytes of the response, which hold until the next call.
func (r *appendResponse) layOut(now time.Time) []byte {
	r.WriteHeader(http.StatusOK)
	if r.status == http.StatusNoContent {
		r.header.Del("Content-Length")
	} else {
		r.header.Set("Content-Length", strconv.Itoa(len(r.body)))
	}
	r.header.Del("Date")
	b := &r.out
	b.Reset()
	b.WriteString("HTTP/1.1 ")
	b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(r.status), 10))
	b.WriteByte(' ')
	b.WriteString(http.StatusText(r.status))
	b.WriteString("\r\nDate: ")
	b.Write(r.date.format(now))
	b.WriteString("\r\n")
	for name, values := range r.header {
		for _, v := range values {
			if strings.IndexByte(v, '\r') >= 0 || strings.IndexByte(v, '\n') >= 0 {
				v = headerValueReplacer.Replace(v)
			}
			b.WriteString(name)
			b.WriteString(": ")
			b.WriteString(v)
			b.WriteString("\r\n")
		}
	}
	b.WriteString("\r\n")
	b.Write(r.body)
	return b.Bytes()
}

// headerValueReplacer removes line ends from a header value, as net/http does.
var headerValueReplacer = strings.NewReplacer("\n", " ", "\r", " ")

// dateCache caches the value of the Date header, which changes each second.
type dateCache struct {
	second int64
	text   []byte
}

func (d *dateCache) format(t time.Time) []byte {
	if s := t.Unix(); s != d.second {
		d.second, d.text = s, t.UTC().AppendFormat(d.text[:0], http.TimeFormat)
	}
	return d.text
}
