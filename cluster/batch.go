package cluster

import (
	"bufio"
	"net"
	"sync"
)

// batched is a connection below TLS. TLS writes each of its records, of 16 KiB, by itself, and
// reads little more than one: gRPC's buffers are four times as large, and so are the pieces in
// which this one writes, when flush is called, and reads.
type batched struct {
	net.Conn
	r *bufio.Reader // owned by who reads

	mu    sync.Mutex
	w     []byte // not written yet
	batch bool   // false, during the handshake: what is written goes out immediately
}

// batchBytes is how much is written in one piece, about: gRPC's buffer, and what TLS adds.
const batchBytes = frameBytes + 1<<10

func newBatched(conn net.Conn) *batched {
	return &batched{Conn: conn, r: bufio.NewReaderSize(conn, frameBytes)}
}

// Read implements net.Conn.
func (b *batched) Read(p []byte) (int, error) { return b.r.Read(p) }

// Write implements net.Conn.
func (b *batched) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.batch {
		return b.Conn.Write(p)
	}
	if b.w = append(b.w, p...); len(b.w) >= 2*batchBytes {
		return len(p), b.flushLocked()
	}
	return len(p), nil
}

// start has writes wait for flush from now on.
func (b *batched) start() {
	b.mu.Lock()
	b.batch, b.w = true, make([]byte, 0, batchBytes)
	b.mu.Unlock()
}

func (b *batched) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flushLocked()
}

func (b *batched) flushLocked() error {
	if len(b.w) == 0 {
		return nil
	}
	_, err := b.Conn.Write(b.w) // a Close ends it, and what is not written by then is lost
	b.w = b.w[:0]
	return err
}
