package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// crowd is the readers: each takes what comes, and counts its bytes.
type crowd struct {
	conns []io.ReadCloser
	got   []atomic.Int64 // bytes by reader
	ended atomic.Int64
	first chan []byte // what the first reader gets
	wg    sync.WaitGroup
}

// newCrowd has n readers come, spread evenly over a while.
func newCrowd(n int, while time.Duration, dial func() (io.ReadCloser, error)) (*crowd, error) {
	began := time.Now()
	c := &crowd{conns: make([]io.ReadCloser, n), got: make([]atomic.Int64, n), first: make(chan []byte, 64)}
	for i := range n {
		<-time.After(while*time.Duration(i)/time.Duration(n) - time.Since(began))
		conn, err := dial()
		if err != nil {
			return nil, err
		}
		c.conns[i] = conn
		c.wg.Go(func() { c.read(i) })
	}
	return c, nil
}

const target = "/v1/stream/x?live=sse&offset=-1"

// asked asks for the stream on a connection, in HTTP/1.1.
func asked(conn net.Conn, err error) (io.ReadCloser, error) {
	if err == nil {
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target)
	}
	return conn, err
}

// perConnection is the number of event streams that a server accepts on one HTTP/2 connection.
const perConnection = 80

// dialer connects readers to a server of a kind. The one of HTTP/2 shares connections.
func dialer(serve, addr string) func() (io.ReadCloser, error) {
	switch serve {
	case "tls", "tls-handlers":
		return func() (io.ReadCloser, error) {
			conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:noctx,gosec // a measurement's
			return asked(conn, err)
		}
	case "long-poll":
		return func() (io.ReadCloser, error) {
			conn, err := net.Dial("tcp", addr) //nolint:noctx // a measurement's
			if err != nil {
				return nil, err
			}
			p := &poller{Conn: conn, in: bufio.NewReaderSize(conn, 1024)}
			return p, p.ask("?offset=-1")
		}
	case "h2c":
		var only http.Protocols
		only.SetUnencryptedHTTP2(true)
		var mu sync.Mutex
		var client *http.Client
		dialled := 0
		next := func() *http.Client {
			mu.Lock()
			defer mu.Unlock()
			if dialled%perConnection == 0 {
				client = &http.Client{Transport: &http.Transport{Protocols: &only}}
			}
			dialled++
			return client
		}
		return func() (io.ReadCloser, error) {
			client := next()
			resp, err := client.Get("http://" + addr + target) //nolint:noctx // a measurement's
			if err != nil {
				return nil, err
			}
			return resp.Body, nil
		}
	}
	return func() (io.ReadCloser, error) { return asked(net.Dial("tcp", addr)) } //nolint:noctx // a command's
}

// poller is a reader by long-polls: what it reads is the bodies of the answers, and it
// asks again before it returns one.
type poller struct {
	net.Conn
	in   *bufio.Reader
	body []byte
}

func (p *poller) ask(query string) error {
	_, err := fmt.Fprintf(p.Conn, "GET /v1/stream/x%s HTTP/1.1\r\nHost: x\r\n\r\n", query)
	return err
}

func (p *poller) Read(b []byte) (int, error) {
	for len(p.body) == 0 {
		resp, err := http.ReadResponse(p.in, nil)
		if err != nil {
			return 0, err
		}
		p.body, err = io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close(), p.ask("?live=long-poll&offset="+resp.Header.Get("Stream-Next-Offset"))); err != nil {
			return 0, err
		}
		if resp.StatusCode == http.StatusOK { // the first may be empty, and says that the reader is there
			p.body = append(p.body, eventEnd...)
		}
	}
	n := copy(b, p.body)
	p.body = p.body[n:]
	return n, nil
}

// eventEnd ends what Fantail sends with each message.
const eventEnd = "}\n\n"

func (c *crowd) read(i int) {
	buf := make([]byte, 2048)
	for {
		n, err := c.conns[i].Read(buf)
		c.got[i].Add(int64(n))
		if i == 0 && n > 0 {
			c.first <- append([]byte(nil), buf[:n]...)
		}
		if err != nil {
			c.ended.Add(1)
			return
		}
	}
}

func (c *crowd) close() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	for done := make(chan struct{}); ; {
		go func() { c.wg.Wait(); close(done) }()
		for {
			select {
			case <-c.first:
				continue
			case <-done:
			}
			return
		}
	}
}

// settle waits until every reader has the response header, and nothing comes any more.
func (c *crowd) settle() error {
	last, quiet := int64(-1), 0
	for tick := time.Tick(200 * time.Millisecond); quiet < 10; <-tick {
		sum := int64(0)
		heard := 0
		for i := range c.got {
			n := c.got[i].Load()
			sum += n
			if n > 0 {
				heard++
			}
		}
		if quiet++; sum != last || heard < len(c.got) {
			quiet = 0
		}
		if last = sum; c.ended.Load() > 0 {
			return fmt.Errorf("%d readers were cut", c.ended.Load())
		}
	}
	for {
		select {
		case <-c.first:
		default:
			for i := range c.got {
				c.got[i].Store(0)
			}
			return nil
		}
	}
}

// event waits until every reader has size bytes more, exactly; 0: as many as the first one gets.
// It returns what that reader got.
func (c *crowd) event(size int) (frame []byte, err error) {
	late := time.After(30 * time.Second)
	for size == 0 || len(frame) < size {
		select {
		case b := <-c.first:
			if frame = append(frame, b...); size == 0 && strings.HasSuffix(strings.TrimSuffix(string(frame), "\r\n"), eventEnd) {
				size = len(frame)
			}
		case <-late:
			return nil, fmt.Errorf("%d bytes of an event after 30 s", len(frame))
		}
	}
	for i := range c.got {
		for c.got[i].Load() < int64(size) {
			select {
			case <-late:
				return nil, fmt.Errorf("reader %d has %d bytes of %d", i, c.got[i].Load(), size)
			default:
				runtime.Gosched()
			}
		}
		if n := c.got[i].Add(-int64(size)); n != 0 {
			return nil, fmt.Errorf("reader %d got %d bytes too many", i, n)
		}
	}
	return frame, nil
}
