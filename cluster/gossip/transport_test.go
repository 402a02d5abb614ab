package gossip

import (
	"io"
	"log"
	"net"
	"strconv"
	"testing"
	"time"
)

// Strangers that connect to gossip and send nothing hold a bounded number of connections, and keep
// no newcomer out.
func TestGossipConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	tr, err := newTransport("127.0.0.1", 0, log.New(io.Discard, "", 0)) //nolint:forbidigo // what memberlist takes
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan net.Conn, 2*maxConns)
	ended := make(chan struct{})
	go func() { // as memberlist does, which waits for data that never arrives
		for {
			select {
			case c := <-tr.StreamCh():
				taken <- c
			case <-ended:
				return
			}
		}
	}()
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(tr.GetAutoBindPort()))
	var conns []net.Conn
	for range 2 * maxConns {
		c, err := net.Dial("tcp", addr) //nolint:noctx // loopback
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		<-taken
		if n := tr.slots.Count(); n > maxConns {
			t.Fatalf("%d connections", n)
		}
	}
	for i, c := range conns[:maxConns] { // those were evicted
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("connection %d is still there", i)
		} else if n, ok := err.(net.Error); ok && n.Timeout() { //nolint:errorlint // as it comes
			t.Fatalf("connection %d is still there", i)
		}
	}
	last, err := net.Dial("tcp", addr) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	got := <-taken
	if _, err := last.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(got, b); err != nil || b[0] != 7 {
		t.Errorf("%v, %v", b, err)
	}
	if err := got.Close(); err != nil || tr.slots.Count() != maxConns-1 {
		t.Errorf("%v, %d places are taken", err, tr.slots.Count())
	}
	if err := tr.Shutdown(); err != nil {
		t.Error(err)
	}
	close(ended)
}
