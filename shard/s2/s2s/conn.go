package s2s

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// connWindow is the receive window of a connection. It never holds a session up: what arrives
	// is credited immediately, and bounded by the windows of the sessions.
	connWindow = 16 << 20
	// defaultWindow is HTTP/2's for every stream and connection, until SETTINGS say otherwise.
	defaultWindow   = 65535
	defaultMaxFrame = 16 << 10
	// assumedStreams is the number of sessions on a connection whose SETTINGS have not come.
	assumedStreams = 100
	// lastStreamID is the stream after which a connection takes no more sessions.
	lastStreamID = 1 << 30
	readBuffer   = 8 << 10
	headerTable  = 4 << 10
	maxHeaders   = 16 << 10 // of an answer
	// pingTimeout is the time for the answer to a PING, sent when a connection is silent.
	pingTimeout = 10 * time.Second
)

// conn is one HTTP/2 connection. A goroutine reads it; writes are made by a goroutine that exists
// while there is something to write, so that no caller waits for the peer.
type conn struct {
	client *Client
	origin *origin
	nc     net.Conn
	framer *http2.Framer // reads; only the reader uses it

	mu         sync.Mutex
	streams    map[uint32]*stream
	nextID     uint32
	maxStreams uint32 // that the peer allows
	goingAway  bool   // no more sessions
	dead       error  // set when the connection has ended
	idleSince  time.Duration
	heard      time.Duration // when the last frame came
	pinged     time.Duration // when the PING was sent that has no answer; 0: none
	recvWindow int64         // what the peer may still send
	recvOwed   int64         // received and not yet credited
	sweeper    *time.Timer
	writer
}

func newConn(o *origin, nc net.Conn) *conn {
	c := &conn{
		client: o.client, origin: o, nc: nc,
		streams: map[uint32]*stream{}, nextID: 1, maxStreams: assumedStreams,
		recvWindow: connWindow, idleSince: o.client.now(), heard: o.client.now(),
	}
	c.framer = http2.NewFramer(nil, bufio.NewReaderSize(nc, readBuffer))
	c.framer.ReadMetaHeaders = hpack.NewDecoder(headerTable, nil)
	c.framer.MaxHeaderListSize = maxHeaders
	c.framer.SetReuseFrames()
	c.init()
	return c
}

// start sends the preface and starts the reader. It returns false if the Client is closed.
func (c *conn) start() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.WriteString(http2.ClientPreface)
	c.emit(c.frames.WriteSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(c.client.cfg.Window)},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaders},
	))
	c.emit(c.frames.WriteWindowUpdate(0, connWindow-defaultWindow))
	if !c.client.start(c.read) {
		return false
	}
	c.sweeper = time.AfterFunc(c.sweepInterval(), c.sweep)
	c.flush()
	return true
}

func (c *conn) streamLimit() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.maxStreams
}

// open opens a stream. It returns false if the connection has no room.
func (c *conn) open(s *stream, q request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil || c.goingAway || len(c.streams) >= int(c.maxStreams) {
		return false
	}
	id := c.nextID
	c.writeRequest(id, q)
	if c.nextID += 2; c.nextID > lastStreamID {
		c.goingAway = true
	}
	s.conn, s.id, s.sending = c, id, !q.end
	s.heard = c.client.now()
	s.openWindow()
	s.send.window = int64(c.peerWindow)
	c.streams[id] = s
	c.flush()
	return true
}

// read takes frames until the connection ends.
func (c *conn) read() {
	for {
		f, err := c.framer.ReadFrame()
		if broken, ok := errors.AsType[http2.StreamError](err); ok {
			c.mu.Lock()
			c.endStream(c.streams[broken.StreamID], fmt.Errorf("%w: %w", ErrProtocol, err), http2.ErrCodeProtocol)
			c.mu.Unlock()
			continue
		}
		if err == nil {
			err = c.handle(f)
		}
		if err != nil {
			if detail := c.framer.ErrorDetail(); detail != nil {
				err = fmt.Errorf("%w: %w", err, detail)
			}
			c.fail(err)
			return
		}
	}
}

// handle takes one frame. An error ends the connection.
func (c *conn) handle(f http2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return c.dead
	}
	c.heard, c.pinged = c.client.now(), 0
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.handleData(f)
	case *http2.MetaHeadersFrame:
		if s := c.streams[f.StreamID]; s != nil {
			s.takeHeaders(f)
		}
	case *http2.RSTStreamFrame:
		c.handleReset(f)
	case *http2.SettingsFrame:
		return c.handleSettings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.emit(c.frames.WritePing(true, f.Data))
		}
	case *http2.GoAwayFrame:
		c.handleGoAway(f)
	case *http2.WindowUpdateFrame:
		return c.handleWindowUpdate(f)
	case *http2.PushPromiseFrame:
		return fmt.Errorf("%w: a push, which was not allowed", ErrProtocol)
	}
	c.flush()
	if c.out.Len() > maxOut {
		return fmt.Errorf("%w: the peer asks for answers and does not take them", ErrProtocol)
	}
	return nil
}

func (c *conn) handleData(f *http2.DataFrame) error {
	n := int64(f.Length) // the padding counts
	if c.recvWindow -= n; c.recvWindow < 0 {
		return fmt.Errorf("%w: more data than the connection's window", ErrProtocol)
	}
	if c.recvOwed += n; c.recvOwed >= connWindow/4 {
		c.emit(c.frames.WriteWindowUpdate(0, uint32(c.recvOwed)))
		c.recvWindow, c.recvOwed = c.recvWindow+c.recvOwed, 0
	}
	if s := c.streams[f.StreamID]; s != nil {
		s.takeData(f, int32(n))
	} else if f.StreamID >= c.nextID {
		return fmt.Errorf("%w: data of a stream that was not opened", ErrProtocol)
	}
	c.flush()
	return nil
}

func (c *conn) handleReset(f *http2.RSTStreamFrame) {
	s := c.streams[f.StreamID]
	if s == nil {
		return
	}
	err := fmt.Errorf("%w: reset by S2: %s", ErrLost, f.ErrCode)
	if f.ErrCode == http2.ErrCodeRefusedStream {
		err = fmt.Errorf("%w: reset by S2: %s", ErrNotTaken, f.ErrCode)
	}
	s.finish(err)
}

func (c *conn) handleSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrProtocol, s, err)
		}
		switch s.ID {
		case http2.SettingMaxConcurrentStreams:
			c.maxStreams = s.Val
		case http2.SettingMaxFrameSize:
			c.peerMaxFrame = int(s.Val)
		case http2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSizeLimit(s.Val)
		case http2.SettingInitialWindowSize:
			return c.setPeerWindow(int32(s.Val))
		}
		return nil
	})
	c.emit(c.frames.WriteSettingsAck())
	c.flush()
	return err
}

// handleGoAway ends the sessions that S2 has not begun, and the read sessions: they go on elsewhere.
// Append sessions take no more batches, and end with their last acknowledgement.
func (c *conn) handleGoAway(f *http2.GoAwayFrame) {
	c.goingAway = true
	for _, s := range c.streams {
		if s.id > f.LastStreamID {
			s.finish(fmt.Errorf("%w: the connection goes away: %s", ErrNotTaken, f.ErrCode))
		} else if !s.session.drain() {
			c.endStream(s, fmt.Errorf("%w: %s", ErrGoAway, f.ErrCode), http2.ErrCodeCancel)
		}
	}
	c.closeIfDrained()
}

// closeIfDrained closes a connection that has no session and gets no more.
func (c *conn) closeIfDrained() {
	if c.goingAway && len(c.streams) == 0 && c.dead == nil {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // ends the reader, which ends the rest
	}
}

// endStream ends a stream, which may be nil, and tells the peer.
func (c *conn) endStream(s *stream, err error, code http2.ErrCode) {
	if s == nil || s.ended {
		return
	}
	c.emit(c.frames.WriteRSTStream(s.id, code))
	s.finish(err)
	c.flush()
}

// fail ends the connection and all sessions on it.
func (c *conn) fail(err error) {
	if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrLost) {
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	c.mu.Lock()
	if c.dead == nil {
		c.dead = err
		for _, s := range c.streams {
			s.finish(err)
		}
		c.out, c.spare = bytes.Buffer{}, bytes.Buffer{}
		if c.sweeper != nil {
			c.sweeper.Stop()
		}
		_ = c.nc.Close()
	}
	c.mu.Unlock()
	c.origin.remove(c)
}
