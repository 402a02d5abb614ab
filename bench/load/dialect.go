package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// dialect describes how to read and write a server of event streams. In its paths and its body
// %[1]d is the number of a stream, and %[2]s the offset to read from, or the message.
type dialect struct {
	read, write string
	body        string // empty: the message as it is
	contentType string // the body's content type
	// plain servers have no offsets, nothing to be created, no batches, no producers:
	// a reader is up to date once it has its head.
	plain bool
}

// dialects are the servers that are known, by what -server says.
var dialects = map[string]dialect{ //nolint:gochecknoglobals // a table
	"durable":    {read: "?live=sse&offset=%[2]s", contentType: "application/json"}, // of -path
	"sse":        {read: "/s/%[1]d", write: "/s/%[1]d", contentType: "application/json", plain: true},
	"nchan":      {read: "/sub/%[1]d", write: "/pub/%[1]d", contentType: "application/json", plain: true},
	"mercure":    {read: "/.well-known/mercure?topic=load-%[1]d", write: "/.well-known/mercure", body: "topic=load-%[1]d&data=%[2]s", contentType: "application/x-www-form-urlencoded", plain: true},
	"centrifugo": {read: "/connection/uni_sse?cf_connect=%%7B%%22subs%%22:%%7B%%22load-%[1]d%%22:%%7B%%7D%%7D%%7D", write: "/api/publish", body: `{"channel":"load-%[1]d","data":%[2]s}`, contentType: "application/json", plain: true},
}

func dialectNames() string { return strings.Join(slices.Sorted(maps.Keys(dialects)), ", ") }

// of makes the dialect that of a path, where the server has no path of its own.
func (d dialect) of(path string) dialect {
	if d.write == "" {
		path = strings.ReplaceAll(path, "%d", "%[1]d")
		d.read, d.write = path+d.read, path
	}
	return d
}

// request returns the whole request of a reader.
func (d dialect) request(stream int, offset, host string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n\r\n", fill(d.read, stream, offset), host)
}

// message returns the bytes that are written for one message.
func (d dialect) message(stream int, m []byte) []byte {
	if d.body == "" {
		return m
	}
	return []byte(fill(d.body, stream, string(m)))
}

// posts returns requests of one message each, for one connection and in one piece: their order is
// kept that way.
func (d dialect) posts(stream int, host string, header http.Header, all [][]byte) []byte {
	var b bytes.Buffer
	for _, m := range all {
		m = d.message(stream, m)
		fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n", fill(d.write, stream, ""), host, d.contentType, len(m))
		_ = header.Write(&b)
		b.WriteString("\r\n")
		b.Write(m)
	}
	return b.Bytes()
}

// fill puts a stream, and a text if it asks for one, into a template.
func fill(template string, stream int, text string) string {
	if strings.Contains(template, "%[2]s") {
		return fmt.Sprintf(template, stream, text)
	}
	if strings.Contains(template, "%[1]d") {
		return fmt.Sprintf(template, stream)
	}
	return template
}
