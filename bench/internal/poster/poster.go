// Package poster sends JSON messages over connections of its own, and does as little for it
// as an HTTP client can: so that two cores measure the server.
package poster

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
)

// Poster is one connection that sends the same requests again and again.
type Poster struct {
	conn     net.Conn
	in       *bufio.Reader
	requests [][]byte // sent in turn
	turn     int
}

// New returns a Poster that sends whole requests as they are.
func New(addr string, requests ...[]byte) (*Poster, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Poster{conn: conn, in: bufio.NewReader(conn), requests: requests}, nil
}

// Crowd returns n Posters, which share the streams; path returns a stream's. Fields are more lines of the
// requests' heads, each "Name: value".
func Crowd(n int, addr string, streams int, path func(stream int) string, body []byte, fields ...string) ([]*Poster, error) {
	more := ""
	for _, f := range fields {
		more += f + "\r\n"
	}
	all := make([]*Poster, 0, n)
	for i := range n {
		p, err := New(addr)
		if err != nil {
			return all, err
		}
		for k := i % streams; k < streams; k += n {
			head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n", path(k), addr, more, len(body))
			p.requests = append(p.requests, append([]byte(head), body...))
		}
		all = append(all, p)
	}
	return all, nil
}

// Close ends the connection.
func (p *Poster) Close() { _ = p.conn.Close() }

// Post sends the next request and reads its answer, which is 200 or 204.
func (p *Poster) Post() error {
	status, err := p.Ask()
	if err == nil && status != 200 && status != 204 {
		err = fmt.Errorf("answer %d", status)
	}
	return err
}

// Ask sends the next request and reads its answer.
func (p *Poster) Ask() (status int, err error) {
	p.turn = (p.turn + 1) % len(p.requests)
	if _, err := p.conn.Write(p.requests[p.turn]); err != nil {
		return 0, err
	}
	first, err := p.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(first) < len("HTTP/1.1 200") {
		return 0, fmt.Errorf("answer %q", first)
	}
	if status, err = strconv.Atoi(string(first[len("HTTP/1.1 "):len("HTTP/1.1 200")])); err != nil {
		return 0, fmt.Errorf("answer %q", first)
	}
	size := 0
	for {
		line, err := p.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) == 2 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("content-length")) {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	_, err = io.CopyN(io.Discard, p.in, int64(size))
	return status, err
}
