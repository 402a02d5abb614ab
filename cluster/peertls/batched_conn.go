package peertls

import (
	"bufio"
	"net"
	"sync"
)

// batchedConn is a connection below TLS that writes and reads in larger pieces. TLS writes each of
// its records, of 16 KiB, separately, and reads little more than one. gRPC's buffers are four times
// as large, and so are the pieces that batchedConn writes, when flush is called, and reads.
type batchedConn struct {
	net.Conn
	reader *bufio.Reader // owned by the reading goroutine

	mu       sync.Mutex
	pending  []byte // not written yet
	batching bool   // false during the handshake: writes go out immediately
}

// BufferBytes is the size in bytes of gRPC's buffers on each connection of the relay.
const BufferBytes = 64 << 10

// writeBatchBytes is about how many bytes are written in one piece: gRPC's buffer, and what TLS
// adds.
const writeBatchBytes = BufferBytes + 1<<10

func newBatchedConn(conn net.Conn) *batchedConn {
	return &batchedConn{Conn: conn, reader: bufio.NewReaderSize(conn, BufferBytes)}
}

// Read implements net.Conn.
func (b *batchedConn) Read(p []byte) (int, error) { return b.reader.Read(p) }

// Write implements net.Conn.
func (b *batchedConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.batching {
		return b.Conn.Write(p)
	}
	if b.pending = append(b.pending, p...); len(b.pending) >= 2*writeBatchBytes {
		return len(p), b.flushLocked()
	}
	return len(p), nil
}

// startBatching makes writes wait for flush from now on.
func (b *batchedConn) startBatching() {
	b.mu.Lock()
	b.batching, b.pending = true, make([]byte, 0, writeBatchBytes)
	b.mu.Unlock()
}

func (b *batchedConn) flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flushLocked()
}

func (b *batchedConn) flushLocked() error {
	if len(b.pending) == 0 {
		return nil
	}
	_, err := b.Conn.Write(b.pending) // Close interrupts it, and what is unwritten is lost
	b.pending = b.pending[:0]
	return err
}
