package dsclient

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
)

// maxEvent bounds an event: a message of 16 MiB in base64, and room for its lines.
const maxEvent = 64 << 20

// eventReader reads the events of one answer with live=sse.
type eventReader struct {
	in     *bufio.Reader
	base64 bool // data is encoded
	alive  func()
}

// event is one event.
type event struct {
	name string
	data []byte
}

// control is the data of a control event.
type control struct {
	StreamNextOffset string `json:"streamNextOffset"`
	UpToDate         bool   `json:"upToDate"`
	StreamClosed     bool   `json:"streamClosed"`
}

// next returns the next event. It calls alive for each line that comes.
func (r *eventReader) next() (e event, err error) {
	lines := 0
	for {
		line, err := r.line()
		if err != nil {
			return e, err
		}
		r.alive()
		field, value, _ := bytes.Cut(line, []byte(":"))
		switch string(field) {
		case "event":
			e.name = string(bytes.TrimPrefix(value, []byte(" ")))
		case "data":
			if lines++; lines > 1 {
				e.data = append(e.data, '\n')
			}
			if len(e.data)+len(value) > maxEvent {
				return e, &ProtocolError{"an event is too large"}
			}
			e.data = append(e.data, bytes.TrimPrefix(value, []byte(" "))...)
		case "":
			if len(line) == 0 && e.name != "" {
				return e, nil
			}
		}
	}
}

// line returns the next line without its end.
func (r *eventReader) line() ([]byte, error) {
	var whole []byte
	for {
		part, err := r.in.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case err == nil:
			return bytes.TrimRight(whole, "\r\n"), nil
		case err == bufio.ErrBufferFull && len(whole) <= maxEvent: //nolint:errorlint // bufio returns it as it is
			continue
		case err == bufio.ErrBufferFull: //nolint:errorlint // bufio returns it as it is
			return nil, &ProtocolError{"a line is too long"}
		case err == io.EOF && len(whole) > 0: //nolint:errorlint // bufio returns it as it is
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
}

// nextChunk returns the messages of the next data events, with the position after them. Data counts
// once its control event has come, because the position is in that.
func (r *eventReader) nextChunk() (*Chunk, error) {
	c := &Chunk{}
	for {
		e, err := r.next()
		if err != nil {
			return nil, err
		}
		switch e.name {
		case "data":
			b := e.data
			if r.base64 {
				if b, err = base64.StdEncoding.DecodeString(string(bytes.ReplaceAll(b, []byte("\n"), nil))); err != nil {
					return nil, &ProtocolError{"an event is no base64"}
				}
			}
			if c.Body != nil {
				return nil, &ProtocolError{"a data event follows another one without a control event"}
			}
			c.Body = b
		case "control":
			var now control
			if err := json.Unmarshal(e.data, &now); err != nil || now.StreamNextOffset == "" {
				return nil, &ProtocolError{fmt.Sprintf("a control event is %.100q", e.data)}
			}
			c.NextOffset, c.UpToDate, c.Closed = now.StreamNextOffset, now.UpToDate || now.StreamClosed, now.StreamClosed
			return c, nil
		}
	}
}
