package main

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// crowd is the readers: each takes what comes, and counts its bytes.
type crowd struct {
	conns []net.Conn
	got   []atomic.Int64 // bytes by reader
	ended atomic.Int64
	first chan []byte // what the first reader gets
	wg    sync.WaitGroup
}

func newCrowd(addr string, n int) (*crowd, error) {
	c := &crowd{conns: make([]net.Conn, n), got: make([]atomic.Int64, n), first: make(chan []byte, 64)}
	for i := range n {
		conn, err := net.Dial("tcp", addr) //nolint:noctx // a command's
		if err != nil {
			return nil, err
		}
		c.conns[i] = conn
		if _, err := fmt.Fprintf(conn, "GET /v1/stream/x?live=sse&offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return nil, err
		}
		c.wg.Go(func() { c.read(i) })
	}
	return c, nil
}

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

// settle waits until everybody has the head, and nothing comes any more.
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

// event waits until every reader has size bytes more, exactly; 0: as many as the first one
// gets. It returns what that one got.
func (c *crowd) event(size int) (frame []byte, err error) {
	late := time.After(30 * time.Second)
	for size == 0 || len(frame) < size {
		select {
		case b := <-c.first:
			if frame = append(frame, b...); size == 0 && strings.HasSuffix(strings.TrimSuffix(string(frame), "\r\n"), "}\n\n") {
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
