package s2s

import (
	"bytes"
	"fmt"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// maxOut bounds the bytes that wait to be written beside the sessions' own data.
	maxOut = 1 << 20
	// writeChunk bounds the data that is taken from sessions for one write.
	writeChunk = 128 << 10
	// keepBuffer is the size of a write buffer that is kept.
	keepBuffer   = 16 << 10
	writeTimeout = 10 * time.Second
)

// writer is the sending half of a conn, guarded by conn.mu.
type writer struct {
	out, spare   bytes.Buffer // what is to be written; what is being written
	frames       *http2.Framer
	encoder      *hpack.Encoder
	block        bytes.Buffer // of headers
	writing      bool         // a goroutine writes
	peerMaxFrame int
	peerWindow   int32 // of a new stream
	sendWindow   int64
	ready        []*stream // have data, and window for it
}

func (w *writer) init() {
	w.frames = http2.NewFramer(&w.out, nil)
	w.encoder = hpack.NewEncoder(&w.block)
	w.peerMaxFrame, w.peerWindow, w.sendWindow = defaultMaxFrame, defaultWindow, defaultWindow
}

// emit takes the error of a Framer that writes to memory.
func (w *writer) emit(err error) {
	if err != nil {
		panic("s2s: frame: " + err.Error())
	}
}

// request holds what differs between the headers of sessions.
type request struct {
	method, path, basin string
	end                 bool // no body follows
}

// writeRequest writes the headers of a session.
func (c *conn) writeRequest(id uint32, q request) {
	c.block.Reset()
	field := func(name, value string, sensitive bool) {
		c.emit(c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: sensitive}))
	}
	field(":method", q.method, false)
	field(":scheme", c.origin.scheme, false)
	field(":authority", c.origin.authority, false)
	field(":path", q.path, true) // not worth a place in the table
	field("authorization", "Bearer "+c.client.cfg.Token, false)
	field("accept", "application/protobuf", false)
	field("accept-encoding", "identity", false) // else a proxy may ask for compression
	field("content-type", "s2s/proto", false)
	if q.basin != "" {
		field("s2-basin", q.basin, false)
	}
	if c.client.cfg.UserAgent != "" {
		field("user-agent", c.client.cfg.UserAgent, false)
	}
	block := c.block.Bytes()
	first := block[:min(len(block), c.peerMaxFrame)]
	rest := block[len(first):]
	c.emit(c.frames.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: first, EndStream: q.end, EndHeaders: len(rest) == 0,
	}))
	for len(rest) > 0 {
		part := rest[:min(len(rest), c.peerMaxFrame)]
		rest = rest[len(part):]
		c.emit(c.frames.WriteContinuation(id, len(rest) == 0, part))
	}
}

// flush starts the goroutine that writes, if there is something to write and none is at it.
func (c *conn) flush() {
	if c.writing || c.dead != nil || c.out.Len() == 0 && (len(c.ready) == 0 || c.sendWindow <= 0) {
		return
	}
	c.writing = true
	c.client.goroutines.Go(c.write) // Close still waits for the reader, which ends the connection first
}

// write writes until nothing is left.
func (c *conn) write() {
	for {
		c.mu.Lock()
		c.frameData()
		if c.dead != nil || c.out.Len() == 0 {
			c.writing = false
			if c.out.Cap() > keepBuffer || c.spare.Cap() > keepBuffer {
				c.out, c.spare = bytes.Buffer{}, bytes.Buffer{}
			}
			c.mu.Unlock()
			return
		}
		c.spare.Reset()
		c.out, c.spare = c.spare, c.out
		b := c.spare.Bytes()
		c.mu.Unlock()
		_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := c.nc.Write(b); err != nil {
			c.fail(fmt.Errorf("write: %w", err))
			return
		}
	}
}

// sendQueue holds what a session has to send.
type sendQueue struct {
	window int64    // what the peer takes of this stream
	queue  [][]byte // the first may have been sent in part
	ready  bool     // the stream is in writer.ready
}

// send queues bytes of a stream. They are kept until they are written.
func (c *conn) send(s *stream, b []byte) {
	s.send.queue = append(s.send.queue, b)
	c.makeReady(s)
	c.flush()
}

func (c *conn) makeReady(s *stream) {
	if !s.send.ready && s.send.window > 0 && len(s.send.queue) > 0 {
		s.send.ready = true
		c.ready = append(c.ready, s)
	}
}

// frameData moves data of the sessions to out, a frame of each in turn, as the windows allow.
func (c *conn) frameData() {
	for len(c.ready) > 0 && c.sendWindow > 0 && c.out.Len() < writeChunk {
		s := c.ready[0]
		c.ready[0], c.ready = nil, c.ready[1:]
		s.send.ready = false
		if s.ended || len(s.send.queue) == 0 || s.send.window <= 0 { // SETTINGS may have shrunk it meanwhile
			continue
		}
		b := s.send.queue[0]
		n := min(len(b), c.peerMaxFrame, int(min(s.send.window, c.sendWindow, 1<<20)))
		c.emit(c.frames.WriteData(s.id, false, b[:n]))
		s.send.window -= int64(n)
		c.sendWindow -= int64(n)
		if s.send.queue[0] = b[n:]; n == len(b) {
			s.send.queue[0] = nil
			s.send.queue = s.send.queue[1:]
		}
		s.session.sent(n == len(b))
		c.makeReady(s)
	}
	if len(c.ready) == 0 {
		c.ready = nil
	}
}

func (c *conn) handleWindowUpdate(f *http2.WindowUpdateFrame) error {
	const most = 1<<31 - 1
	if f.StreamID == 0 {
		if c.sendWindow += int64(f.Increment); c.sendWindow > most {
			return fmt.Errorf("%w: a connection's window above 2^31-1", ErrProtocol)
		}
	} else if s := c.streams[f.StreamID]; s != nil {
		if s.send.window += int64(f.Increment); s.send.window > most {
			c.endStream(s, fmt.Errorf("%w: a window above 2^31-1", ErrProtocol), http2.ErrCodeFlowControl)
			return nil
		}
		c.makeReady(s)
	}
	c.flush()
	return nil
}

// setPeerWindow changes the windows of all streams as the peer's SETTINGS say. They may fall below
// zero.
func (c *conn) setPeerWindow(to int32) error {
	change := int64(to) - int64(c.peerWindow)
	c.peerWindow = to
	for _, s := range c.streams {
		if s.send.window += change; s.send.window > 1<<31-1 {
			return fmt.Errorf("%w: a window above 2^31-1", ErrProtocol)
		}
		c.makeReady(s)
	}
	return nil
}
