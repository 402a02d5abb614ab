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

// Crowd is n posters, which share the streams; path is a stream's.
func Crowd(n int, addr string, streams int, path func(stream int) string, body []byte) ([]*Poster, error) {
	all := make([]*Poster, 0, n)
	for i := range n {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return all, err
		}
		p := &Poster{conn: conn, in: bufio.NewReader(conn)}
		for k := i % streams; k < streams; k += n {
			head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path(k), addr, len(body))
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
	p.turn = (p.turn + 1) % len(p.requests)
	if _, err := p.conn.Write(p.requests[p.turn]); err != nil {
		return err
	}
	status, err := p.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 20")) {
		return fmt.Errorf("answer %q", status)
	}
	size := 0
	for {
		line, err := p.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("content-length")) {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	_, err = io.CopyN(io.Discard, p.in, int64(size))
	return err
}
