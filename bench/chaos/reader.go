package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"sync"
	"time"
)

// comeBack is the wait of a reader before it reconnects, unless a server named another.
// Browsers wait three to five seconds; less shows more of the nodes and less of them.
const comeBack = time.Second

// reader is an EventSource on a plain connection, as cheap as thousands of them in
// one process have to be.
type reader struct {
	crowd  *crowd
	stream int
	pace   time.Duration // that it takes over every 4 KiB; 0: none
	hold   chan struct{} // while set: it takes nothing at all

	mu     sync.Mutex
	conn   net.Conn
	at     string    // the node that it is connected to; "": none
	upAt   time.Time // when its connection was accepted
	lastID string
	sight  sight
	window window
}

// window records what happened to a reader since a fault began.
type window struct {
	got   int
	worst time.Duration // of messages sent and received while it was connected
	away  time.Duration // of messages sent while it was not
}

// reason says why a connection ended. The order is that of reasons.
type reason int

const (
	ended   reason = iota // by the node, after a complete event
	broken                // in the middle, or with an error
	cut                   // by the balancer
	dialled               // it never began: no answer
	asked                 // it never began: an empty event stream said when to come back
	refusal               // an answer that an EventSource takes for the end, for good
	reasons
)

var reasonNames = [reasons]string{"ended", "broken", "cut", "no answer", "asked to wait", "refused for good"}

// run reads until the end of the test.
func (r *reader) run() {
	for {
		wait, why := r.connect()
		r.mu.Lock()
		wasCut := r.conn != nil && r.at == ""
		r.conn, r.at = nil, ""
		r.mu.Unlock()
		if wasCut {
			why = cut
		}
		r.crowd.ended[why].Add(1)
		pause(wait)
	}
}

func pause(d time.Duration) { <-time.After(d) }

// connect reads until the connection ends; wait is how long to be away.
func (r *reader) connect() (wait time.Duration, why reason) {
	conn, at := r.crowd.dial()
	if conn == nil {
		return comeBack, dialled
	}
	defer conn.Close()
	r.mu.Lock()
	r.conn, r.at = conn, at
	request := fmt.Sprintf("GET /v1/stream/%s?live=sse&offset=-1 HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n",
		r.crowd.name(r.stream), at)
	if r.lastID != "" {
		request += "Last-Event-ID: " + r.lastID + "\r\n"
	}
	r.mu.Unlock()
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return comeBack, broken
	}
	in := bufio.NewReaderSize(r.throttle(conn), 2048)
	status, chunked, err := responseHead(in)
	if err != nil {
		return comeBack, broken
	}
	if status != http.StatusOK {
		r.crowd.refuse(fmt.Sprintf("%d from %s for stream %d after %q", status, at, r.stream, r.lastID))
		return comeBack, refusal
	}
	r.mu.Lock()
	r.upAt = time.Now()
	r.mu.Unlock()
	r.crowd.arrive()
	defer r.crowd.up.Add(-1)
	if chunked {
		in = bufio.NewReaderSize(httputil.NewChunkedReader(in), 1024)
	}
	return r.events(in)
}

// throttle slows a slow reader down.
func (r *reader) throttle(conn net.Conn) io.Reader {
	if r.pace == 0 && r.hold == nil {
		return conn
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetReadBuffer(16 << 10)
	}
	return slow{r, conn}
}

type slow struct {
	r    *reader
	conn net.Conn
}

func (s slow) Read(b []byte) (int, error) {
	if s.r.hold != nil {
		<-s.r.hold
	}
	n, err := s.conn.Read(b[:min(len(b), 4<<10)])
	pause(s.r.pace * time.Duration(n) / (4 << 10))
	return n, err
}

func responseHead(in *bufio.Reader) (status int, chunked bool, err error) {
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case first && len(line) >= 12:
			status, _ = strconv.Atoi(string(line[9:12]))
		case len(line) == 0:
			return status, chunked, nil
		case bytes.EqualFold(line, []byte("Transfer-Encoding: chunked")):
			chunked = true
		}
	}
}

// events takes events until the stream ends. An event that is not whole is none, and
// an event's id counts with it.
func (r *reader) events(in *bufio.Reader) (wait time.Duration, why reason) {
	wait, why = comeBack, ended
	var id, long, data []byte
	isData, events := false, 0
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, line...)
			continue
		}
		if err != nil {
			if events == 0 && why == ended && wait != comeBack {
				return wait, asked
			}
			if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				why = broken
			}
			return wait, why
		}
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case len(line) == 0:
			if id != nil {
				r.event(string(id), data, isData)
				events++
			}
			id, isData, data = nil, false, data[:0]
		case bytes.HasPrefix(line, []byte("id: ")):
			id = append([]byte(nil), line[len("id: "):]...)
		case bytes.Equal(line, []byte("event: data")):
			isData = true
		case isData && bytes.HasPrefix(line, []byte("data:")):
			data = append(data, line[len("data:"):]...)
		case bytes.HasPrefix(line, []byte("retry: ")):
			ms, _ := strconv.Atoi(string(line[len("retry: "):]))
			wait = time.Duration(ms) * time.Millisecond
		}
		long = long[:0]
	}
}

func (r *reader) event(id string, data []byte, isData bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if id < r.lastID {
		r.sight.bad.note(&r.sight.bad.Reordered, "stream %d: offset %s came after %s", r.stream, id, r.lastID)
	}
	r.lastID = id
	if !isData {
		return
	}
	each(data, func(raw []byte) {
		sent, timely := r.sight.noteMessage(r.stream, raw)
		r.window.got++
		if !timely {
			return
		}
		took := now.Sub(sent)
		if sent.Before(r.upAt) {
			r.window.away = max(r.window.away, took)
		} else if took > r.window.worst {
			r.window.worst = took
			r.crowd.isLate(late{took, r.stream, sent, r.at})
		}
		r.crowd.took(took)
	})
}

// drop closes a connection as a balancer does.
func (r *reader) drop(at string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil || r.at != at {
		return false
	}
	r.at = ""
	r.conn.Close()
	return true
}

// dial connects to a node that is ready, or to the next if there is no answer.
func (c *crowd) dial() (net.Conn, string) {
	nodes := *c.ready.Load()
	if len(nodes) == 0 {
		return nil, ""
	}
	first := rand.IntN(len(nodes))
	for i := range nodes {
		at := nodes[(first+i)%len(nodes)]
		if conn, err := net.DialTimeout("tcp", at, 3*time.Second); err == nil {
			return conn, at
		}
	}
	return nil, ""
}
