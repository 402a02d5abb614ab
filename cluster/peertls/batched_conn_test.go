package peertls

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// countedConn counts writes.
type countedConn struct {
	net.Conn
	writes int
	got    bytes.Buffer
	closed bool
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes++
	return c.got.Write(p)
}

func (c *countedConn) Read([]byte) (int, error) { return 0, io.EOF }

func (c *countedConn) Close() error {
	c.closed = true
	return nil
}

// What TLS writes during its handshake goes out immediately. After it the records of one write go
// out together, and none waits without a bound.
func TestTLSRecordsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	c := &countedConn{}
	b := newBatchedConn(c)
	record := bytes.Repeat([]byte("r"), 16<<10)
	write := func(n int) {
		t.Helper()
		for range n {
			if k, err := b.Write(record); k != len(record) || err != nil {
				t.Fatal(k, err)
			}
		}
	}
	write(2)
	if c.writes != 2 {
		t.Errorf("%d writes in the handshake", c.writes)
	}
	b.startBatching()
	write(4)
	if c.writes != 2 {
		t.Errorf("%d writes before the flush", c.writes)
	}
	if err := b.flush(); err != nil || c.writes != 3 || c.got.Len() != 6*len(record) {
		t.Errorf("%v: %d writes, %d bytes", err, c.writes, c.got.Len())
	}
	write(100)
	if waits := 106*len(record) - c.got.Len(); waits > 2*writeBatchBytes {
		t.Errorf("%d bytes wait", waits)
	}
	if err := b.Close(); err != nil || !c.closed {
		t.Error(err)
	}
}
