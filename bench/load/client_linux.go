package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/hist"
)

// client holds the readers of one process: one goroutine and one epoll descriptor, so that they
// cost the machine little beside the server that is measured.
type client struct {
	servers []unix.SockaddrInet4
	hosts   []string
	dialect dialect
	streams int
	own     int // this process's number
	clients int
	arrive  int // readers a second, of all clients

	ep      int
	readers []*reader // by index, which is what epoll tells
	waiting []int     // readers that connect again, by index
	buf     []byte
	ask     chan func()
	sum     tally
}

// tally counts what a client has seen since it was last asked to forget. Events that came twice
// or out of turn, and messages that never came, are told of the whole life.
type tally struct {
	Readers, Up      int // that there are; that have their head
	Tip              int // that were told that they are up to date
	Messages, Events int
	Bytes            int64
	Lost, Doubled    int
	Ended, Refused   int
	Peak             int // most that came up within a second
	Why              string
	Latency          hist.Hist
	LastUp           time.Time // when the last came up
	LastTip          time.Time

	second   int64
	inSecond int
}

func (t *tally) merge(o *tally) {
	t.Readers += o.Readers
	t.Up += o.Up
	t.Tip += o.Tip
	t.Messages += o.Messages
	t.Events += o.Events
	t.Bytes += o.Bytes
	t.Lost += o.Lost
	t.Doubled += o.Doubled
	t.Ended += o.Ended
	t.Refused += o.Refused
	t.Peak += o.Peak
	t.Latency.Merge(&o.Latency)
	if t.Why == "" {
		t.Why = o.Why
	}
	if o.LastUp.After(t.LastUp) {
		t.LastUp = o.LastUp
	}
	if o.LastTip.After(t.LastTip) {
		t.LastTip = o.LastTip
	}
}

// reader is an SSE client, which comes back with the offset that it was told last.
type reader struct {
	fd      int
	stream  int
	server  int
	phase   phase
	next    int64     // number of the message that is due
	offset  []byte    // "": from the start
	id      []byte    // of the event that comes, if its server says any
	line    []byte    // of the event stream, not whole yet
	head    []byte    // the same of the head, or of a chunk's size
	chunk   int       // bytes left of it; chunkLine: its size is due
	due     time.Time // when it connects
	chunked bool
	data    bool // the event that comes is one of data
	tip     bool
}

type phase uint8

const (
	phaseAway phase = iota + 1 // waits for its turn to connect
	phaseDials
	phaseHead
	phaseBody
)

const (
	chunkLine = -1
	tickEvery = 10 * time.Millisecond
)

// serveClient runs a client's process.
func serveClient(o *options, own int) error {
	c := &client{dialect: dialects[o.server].of(o.path), streams: o.streams, own: own, clients: o.clients, arrive: o.arrive, buf: make([]byte, 256<<10), ask: make(chan func())}
	for _, u := range o.urls {
		addr, err := net.ResolveTCPAddr("tcp4", strings.TrimPrefix(u, "http://"))
		if err != nil {
			return err
		}
		c.servers = append(c.servers, unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())})
		c.hosts = append(c.hosts, addr.String())
	}
	var err error
	if c.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	go c.run()
	child.Serve(func(line string) (answer string, err error) {
		done := make(chan struct{})
		c.ask <- func() {
			defer close(done)
			answer, err = c.answer(line)
		}
		<-done
		return answer, err
	})
	return nil
}

func (c *client) answer(line string) (string, error) {
	what, arg, _ := strings.Cut(line, " ")
	n, _ := strconv.Atoi(arg)
	switch what {
	case "open": // so many more
		for i := range n {
			at := len(c.readers)
			c.readers = append(c.readers, &reader{
				fd: -1, stream: (at + c.own*n) % c.streams, server: at % len(c.servers), phase: phaseAway,
				due: time.Now().Add(time.Duration(i*c.clients) * time.Second / time.Duration(c.arrive)),
			})
			c.waiting = append(c.waiting, at)
		}
		return "", nil
	case "cut":
		for i, r := range c.readers {
			if r.phase == phaseBody {
				c.drop(i, time.Duration(rand.Int64N(int64(time.Second))))
			}
		}
		return "", nil
	case "forget":
		lost, doubled := c.sum.Lost, c.sum.Doubled
		c.sum = tally{Lost: lost, Doubled: doubled}
		return "", nil
	case "behind": // readers that have not seen all messages of their streams
		var want []int64
		if err := json.Unmarshal([]byte(arg), &want); err != nil {
			return "", err
		}
		behind := 0
		for _, r := range c.readers {
			if r.next < want[r.stream] {
				behind++
			}
		}
		return strconv.Itoa(behind), nil
	case "tally":
		c.sum.Readers, c.sum.Up, c.sum.Tip = len(c.readers), 0, 0
		for _, r := range c.readers {
			if r.phase == phaseBody {
				c.sum.Up++
			}
			if r.tip {
				c.sum.Tip++
			}
		}
		b, err := json.Marshal(&c.sum)
		return string(b), err
	}
	return "", fmt.Errorf("%q", line)
}

func (c *client) run() {
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(c.ep, events, int(tickEvery.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			fmt.Fprintln(os.Stderr, "epoll:", err)
			os.Exit(1)
		}
		for i := range max(n, 0) {
			c.event(int(events[i].Fd), events[i].Events)
		}
		now := time.Now()
		later := c.waiting[:0]
		for _, i := range c.waiting {
			if r := c.readers[i]; now.Before(r.due) {
				later = append(later, i)
			} else if err := c.dial(i, r); err != nil {
				c.refused(err.Error())
				r.due = now.Add(time.Second)
				later = append(later, i)
			}
		}
		c.waiting = later
		select {
		case fn := <-c.ask:
			fn()
		default:
		}
	}
}

func (c *client) refused(why string) {
	c.sum.Refused++
	if c.sum.Why == "" {
		c.sum.Why = why
	}
}

func (c *client) dial(i int, r *reader) (err error) {
	r.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	r.phase = phaseDials
	if c.servers[r.server].Addr[0] == 127 {
		c.bind(r.fd)
	}
	if err := unix.Connect(r.fd, &c.servers[r.server]); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(r.fd)
		r.server = (r.server + 1) % len(c.servers)
		return err
	}
	return unix.EpollCtl(c.ep, unix.EPOLL_CTL_ADD, r.fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(i)})
}

// bind gives a connection on this machine an address of this client's: with many thousands
// from one address to one server the kernel would look for a free port for most of the time.
func (c *client) bind(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	_ = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 2, byte(c.own + 1)}})
}

// drop ends a connection; the reader comes back at another server.
func (c *client) drop(i int, wait time.Duration) {
	r := c.readers[i]
	_ = unix.Close(r.fd)
	r.fd, r.phase, r.line, r.head, r.chunked, r.tip = -1, phaseAway, r.line[:0], nil, false, false
	r.due = time.Now().Add(wait)
	if len(c.servers) > 1 {
		r.server = (r.server + 1 + rand.IntN(len(c.servers)-1)) % len(c.servers)
	}
	c.waiting = append(c.waiting, i)
}

func (c *client) event(i int, what uint32) {
	r := c.readers[i]
	if r.phase == phaseDials {
		if what&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			c.refused("connection refused")
			c.drop(i, 100*time.Millisecond)
			return
		}
		offset := "-1"
		if len(r.offset) > 0 {
			offset = string(r.offset)
		}
		if _, err := unix.Write(r.fd, c.dialect.request(r.stream, offset, c.hosts[r.server])); err != nil {
			c.refused(err.Error())
			c.drop(i, 100*time.Millisecond)
			return
		}
		r.phase = phaseHead
		_ = unix.EpollCtl(c.ep, unix.EPOLL_CTL_MOD, r.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
		return
	}
	for r.phase == phaseHead || r.phase == phaseBody {
		n, err := unix.Read(r.fd, c.buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			c.sum.Ended++
			c.drop(i, time.Duration(rand.Int64N(int64(time.Second))))
			return
		}
		c.sum.Bytes += int64(n)
		if !c.feed(i, r, c.buf[:n]) {
			return
		}
		if n < len(c.buf) {
			return
		}
	}
}

// feed takes what came; false: the connection is over.
func (c *client) feed(i int, r *reader, b []byte) bool {
	now := time.Now()
	if len(r.head) > 0 {
		b, r.head = append(r.head, b...), nil
	}
	for len(b) > 0 {
		if r.phase == phaseBody && r.chunked && r.chunk != chunkLine {
			part := b[:min(r.chunk, len(b))]
			b = b[len(part):]
			if r.chunk -= len(part); r.chunk == 0 {
				r.chunk = chunkLine
			}
			c.lines(r, part, now)
			continue
		}
		if r.phase == phaseBody && !r.chunked {
			c.lines(r, b, now)
			return true
		}
		// A line of the head, or the size of a chunk.
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			r.head = append([]byte(nil), b...)
			return true
		}
		line := strings.TrimSpace(string(b[:end]))
		b = b[end+1:]
		if r.phase == phaseBody {
			if line == "" {
				continue
			}
			size, err := strconv.ParseInt(line, 16, 32)
			if err != nil || size == 0 {
				c.sum.Ended++
				c.drop(i, time.Duration(rand.Int64N(int64(time.Second))))
				return false
			}
			r.chunk = int(size)
			continue
		}
		switch {
		case strings.HasPrefix(line, "HTTP/"):
			if !strings.Contains(line, " 200") {
				c.refused(line)
				c.drop(i, time.Second/2+time.Duration(rand.Int64N(int64(time.Second))))
				return false
			}
		case strings.EqualFold(line, "transfer-encoding: chunked"):
			r.chunked, r.chunk = true, chunkLine
		case line == "":
			c.up(r, now)
		}
	}
	return true
}

// up counts a reader that has the whole response header.
func (c *client) up(r *reader, now time.Time) {
	r.phase = phaseBody
	c.sum.LastUp = now
	if c.dialect.plain {
		r.tip, c.sum.LastTip = true, now
	}
	if s := now.Unix(); s != c.sum.second {
		c.sum.second, c.sum.inSecond = s, 0
	}
	c.sum.inSecond++
	c.sum.Peak = max(c.sum.Peak, c.sum.inSecond)
}

// lines takes a piece of the event stream.
func (c *client) lines(r *reader, b []byte, now time.Time) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			r.line = append(r.line, b...)
			return
		}
		line := b[:end]
		if len(r.line) > 0 {
			r.line = append(r.line, line...)
			line = r.line
		}
		c.line(r, bytes.TrimSuffix(line, []byte("\r")), now)
		if cap(r.line) > 4096 {
			r.line = nil
		}
		r.line = r.line[:0]
		b = b[end+1:]
	}
}

func (c *client) line(r *reader, line []byte, now time.Time) {
	if len(line) == 0 && len(r.id) > 0 { // the event is complete, wherever its id stood
		r.offset, r.id = append(r.offset[:0], r.id...), r.id[:0]
		return
	}
	if rest, ok := bytes.CutPrefix(line, []byte("event:")); ok {
		r.data = bytes.Contains(rest, []byte("data"))
		return
	}
	if id, ok := bytes.CutPrefix(line, []byte("id:")); ok {
		r.id = append(r.id[:0], bytes.TrimSpace(id)...)
		return
	}
	rest, ok := bytes.CutPrefix(line, []byte("data:"))
	switch {
	case !ok:
	case r.data, c.dialect.plain:
		c.sum.Events++
		c.messages(r, rest, now)
	default:
		if _, at, ok := bytes.Cut(rest, []byte(`"streamNextOffset":"`)); ok {
			if end := bytes.IndexByte(at, '"'); end > 0 {
				r.offset = append(r.offset[:0], at[:end]...)
			}
		}
		if !r.tip && bytes.Contains(rest, []byte(`"upToDate":true`)) {
			r.tip, c.sum.LastTip = true, now
		}
	}
}

// messages checks those of a data event: each is the next of its stream.
func (c *client) messages(r *reader, b []byte, now time.Time) {
	for {
		_, after, ok := bytes.Cut(b, []byte(`{"n":`))
		if !ok {
			return
		}
		n, after := digits(after)
		sent, after := digits(after[len(`,"t":`):])
		b = after
		switch {
		case n < r.next:
			c.sum.Doubled++
			continue
		case n > r.next:
			c.sum.Lost += int(n - r.next)
		}
		r.next = n + 1
		c.sum.Messages++
		c.sum.Latency.Add(now.Sub(time.UnixMicro(sent)))
	}
}

func digits(b []byte) (n int64, rest []byte) {
	for len(b) > 0 && b[0] >= '0' && b[0] <= '9' {
		n = 10*n + int64(b[0]-'0')
		b = b[1:]
	}
	return n, b
}

// message returns a message that client.messages can split, of about size bytes.
func message(n int64, size int) []byte {
	b := fmt.Appendf(nil, `{"n":%d,"t":%d,"p":"`, n, time.Now().UnixMicro())
	b = append(b, bytes.Repeat([]byte("x"), max(size-len(b)-2, 0))...)
	return append(b, `"}`...)
}
