package edge

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// After a write that failed nothing is written, though the connection would take it: closing
// a tls.Conn would, and wait for the client.
func TestWireBroken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String()) //nolint:noctx // at once
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := Listen(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, deadline := range []time.Time{time.Unix(1, 0), {}} {
		if err := c.SetWriteDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d written, %v", n, err)
		}
	}
}
