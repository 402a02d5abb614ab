package s2s

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// peer is a server that does what a test tells it, on one connection.
type peer struct {
	t      *testing.T
	nc     net.Conn
	writes sync.Mutex
	frames *http2.Framer
	opened chan *http2.MetaHeadersFrame
	gone   chan struct{} // closed when the client has closed the connection

	mu     sync.Mutex
	data   map[uint32]int // bytes by stream
	resets map[uint32]http2.ErrCode
	credit map[uint32]int // WINDOW_UPDATEs by stream
	mute   bool           // PINGs are not answered
}

// newPeerClient returns a Client whose connections lead to peers, in the order of the channel.
func newPeerClient(t *testing.T, cfg Config, settings ...http2.Setting) (*Client, <-chan *peer) {
	t.Helper()
	peers := make(chan *peer, 10)
	cfg.Token = "secret"
	var serving sync.WaitGroup
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		p := &peer{
			t: t, nc: theirs, opened: make(chan *http2.MetaHeadersFrame, 2000), gone: make(chan struct{}),
			data: map[uint32]int{}, resets: map[uint32]http2.ErrCode{}, credit: map[uint32]int{},
		}
		p.frames = http2.NewFramer(theirs, theirs)
		p.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		serving.Go(func() { p.serve(settings) })
		peers <- p
		return ours, nil
	}
	c := NewClient(cfg)
	t.Cleanup(func() {
		_ = c.Close()
		serving.Wait()
	})
	return c, peers
}

func (p *peer) serve(settings []http2.Setting) {
	defer close(p.gone)
	if _, err := io.ReadFull(p.nc, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	go p.write(func(f *http2.Framer) error { return f.WriteSettings(settings...) })
	for {
		f, err := p.frames.ReadFrame()
		if err != nil {
			return
		}
		p.note(f)
	}
}

func (p *peer) note(f http2.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		p.opened <- f
	case *http2.DataFrame:
		p.data[f.StreamID] += len(f.Data())
	case *http2.RSTStreamFrame:
		p.resets[f.StreamID] = f.ErrCode
	case *http2.WindowUpdateFrame:
		p.credit[f.StreamID] += int(f.Increment)
	case *http2.PingFrame:
		if data := f.Data; !f.IsAck() && !p.mute {
			go p.write(func(f *http2.Framer) error { return f.WritePing(true, data) })
		}
	}
}

func (p *peer) write(fn func(*http2.Framer) error) {
	p.writes.Lock()
	defer p.writes.Unlock()
	_ = fn(p.frames)
}

// accept waits for a session, and answers 200.
func (p *peer) accept() uint32 {
	p.t.Helper()
	id := (<-p.opened).StreamID
	p.answer(id, "200", false)
	return id
}

func (p *peer) answer(id uint32, status string, end bool) {
	var b bytes.Buffer
	_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":status", Value: status})
	p.write(func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: end})
	})
}

// send sends bytes as data, in frames of HTTP/2.
func (p *peer) send(id uint32, b []byte) {
	for len(b) > 0 {
		part := b[:min(len(b), 16<<10)]
		b = b[len(part):]
		p.write(func(f *http2.Framer) error { return f.WriteData(id, false, part) })
	}
}

func (p *peer) end(id uint32) {
	p.write(func(f *http2.Framer) error { return f.WriteData(id, true, nil) })
}

func frameOf(flag byte, payload []byte) []byte {
	return append(appendFrameHead(nil, flag, len(payload)), payload...)
}

func messageFrame(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return frameOf(0, b)
}

func heartbeat(tail uint64) []byte {
	return messageFrame(&pb.ReadBatch{Tail: &pb.StreamPosition{SeqNum: tail, Timestamp: 1}})
}

func batchFrame(from uint64, bodies ...string) []byte {
	m := &pb.ReadBatch{}
	for i, b := range bodies {
		m.Records = append(m.Records, &pb.SequencedRecord{SeqNum: from + uint64(i), Body: []byte(b)})
	}
	return messageFrame(m)
}

func ackFrame(start, end uint64) []byte {
	return messageFrame(&pb.AppendAck{Start: &pb.StreamPosition{SeqNum: start}, End: &pb.StreamPosition{SeqNum: end}, Tail: &pb.StreamPosition{SeqNum: end}})
}

func terminal(status uint16, body string) []byte {
	return frameOf(flagTerminal, append(binary.BigEndian.AppendUint16(nil, status), body...))
}

func (p *peer) dataOf(id uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.data[id]
}

func (p *peer) resetOf(id uint32) (http2.ErrCode, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	code, ok := p.resets[id]
	return code, ok
}

var peerTarget = Target{Base: "http://peer/root/v1", Basin: "the-basin", Stream: "a/b é%2F"}
