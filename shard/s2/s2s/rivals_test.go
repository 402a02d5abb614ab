package s2s

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"
)

// cutter is a Dial whose connections can be cut.
type cutter struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, nc)
	return nc, err
}

// cut resets all connections.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, nc := range c.conns {
		if tcp, ok := nc.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = nc.Close()
	}
	c.conns = nil
}

func TestAppendSessionUnderRivals(t *testing.T) { testRivals(newEnv(t, Config{})) }

// testRivals pipelines batches while the connection is cut or a rival appends. What S2 holds of the
// session is a prefix of what was submitted, at the expected positions, and as long as AppendEnd
// says.
func testRivals(e *env) {
	var wires cutter
	client := NewClient(Config{Token: "none", Dial: wires.dial})
	defer func() { _ = client.Close() }()
	for round := range 60 {
		name := fmt.Sprint("rivals", round)
		e.create(name)
		a := openAppender(e.ctx, e.T, client, e.target(name), AppendOptions{})
		var disturbed sync.WaitGroup
		disturbed.Go(func() {
			<-time.After(rand.N(4 * time.Millisecond))
			if round%3 == 0 {
				wires.cut()
				return
			}
			_, err := e.basin.Stream(sdk.StreamName(e.prefix+name)).Append(e.ctx, &sdk.AppendInput{Records: []sdk.AppendRecord{{Body: []byte("rival")}}})
			if err != nil {
				e.Error(err)
			}
		})
		submitted := uint64(0)
		var end *AppendEnd
		for end == nil {
			for a.Submit(submitted, appendRecords(fmt.Sprint(submitted))) == nil {
				submitted++
			}
			_, end = a.take(1)
		}
		disturbed.Wait()
		e.checkRivals(name, round%3 != 0, submitted, end)
	}
}

func (e *env) checkRivals(name string, rival bool, submitted uint64, end *AppendEnd) {
	e.Helper()
	refused := 0
	if end.Refused {
		refused = 1
	}
	if sum := end.Acknowledged + refused + end.Unknown + end.Unsent; sum != int(submitted) || rival && !end.Refused {
		e.Fatalf("%s: %d submitted: %+v", name, submitted, end)
	}
	ours := 0
	for i, b := range e.bodies(name) {
		if b == "rival" {
			continue
		}
		if ours++; b != fmt.Sprint(i) || ours != i+1 {
			e.Fatalf("%s: record %d is %q: %+v", name, i, b, end)
		}
	}
	if ours < end.Acknowledged || ours > end.Acknowledged+end.Unknown || end.Refused && ours != end.Acknowledged {
		e.Fatalf("%s: %d of ours: %+v", name, ours, end)
	}
}
