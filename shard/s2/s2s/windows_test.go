package s2s

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

// A client sends no more than the windows of stream and connection allow, also when they shrink.
func TestSendWindows(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
		openReader(ctx, t, c, peerTarget, ReadOptions{}) // the settings come first
		p := <-peers
		p.accept()
		synctest.Wait()
		a, beside := openAppender(ctx, t, c, peerTarget, AppendOptions{}), openAppender(ctx, t, c, peerTarget, AppendOptions{})
		id, besideID := p.accept(), p.accept()
		body := strings.Repeat("x", 100_000)
		a.mustSubmit(0, body)
		a.mustSubmit(1, body)
		beside.mustSubmit(0, "small")
		synctest.Wait()
		if n := p.dataOf(id); n != 1000 || p.dataOf(besideID) == 0 {
			t.Fatalf("%d bytes into a window of 1000, %d beside it", n, p.dataOf(besideID))
		}
		p.write(func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 500})
		})
		p.write(func(f *http2.Framer) error { return f.WriteWindowUpdate(id, 600) })
		synctest.Wait()
		if n := p.dataOf(id); n != 1100 {
			t.Fatalf("%d bytes after the window shrank", n)
		}
		p.write(func(f *http2.Framer) error { return f.WriteWindowUpdate(id, 1<<20) })
		synctest.Wait()
		if n := p.dataOf(id) + p.dataOf(besideID); n != defaultWindow {
			t.Fatalf("%d bytes into the connection's window", n)
		}
		p.write(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1<<20) })
		synctest.Wait()
		p.send(id, append(ackFrame(0, 1), ackFrame(1, 2)...))
		if acks, end := a.take(2); len(acks) != 2 || end != nil {
			t.Errorf("%v, %v", acks, end)
		}
	})
}

// Batches of which no byte was sent are known to be unsent.
func TestUnsentBatches(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{})
		a := openAppender(ctx, t, c, peerTarget, AppendOptions{})
		p := <-peers
		id := p.accept()
		for i := range 4 {
			a.mustSubmit(uint64(i), strings.Repeat("x", 20_000))
		}
		synctest.Wait() // 65,535 bytes: one batch, and a part of the second
		p.send(id, ackFrame(0, 1))
		if acks, _ := a.take(1); len(acks) != 1 {
			t.Fatal(acks)
		}
		p.send(id, ackFrame(1, 2)) // of a batch that S2 does not have whole
		if _, end := a.take(1); !errors.Is(end, ErrProtocol) || end.Acknowledged != 1 || end.Unknown != 1 || end.Unsent != 2 || end.Refused {
			t.Errorf("%+v", end)
		}
	})
}

// An acknowledgement must confirm the batch.
func TestForgedAcks(t *testing.T) {
	for name, b := range map[string][]byte{
		"position": ackFrame(1, 2), "number": ackFrame(0, 2), "malformed": frameOf(0, []byte{0xff}), "no batch": append(ackFrame(0, 1), ackFrame(1, 2)...),
	} {
		bubble(t, func(t *testing.T, ctx context.Context) {
			c, peers := newPeerClient(t, Config{})
			a := openAppender(ctx, t, c, peerTarget, AppendOptions{})
			p := <-peers
			id := p.accept()
			a.mustSubmit(0, "x")
			synctest.Wait()
			p.send(id, b)
			acks, end := a.take(2)
			if !errors.Is(end, ErrProtocol) || end.Unknown != 1-len(acks) || end.Refused {
				t.Errorf("%s: %+v", name, end)
			}
		})
	}
}

// A refusal without effect is one of the first batch that is not acknowledged; another error leaves
// all unknown.
func TestAppendEnds(t *testing.T) {
	for _, c := range []struct {
		status  uint16
		body    string
		refused bool
	}{
		{412, `{"seq_num_mismatch":7}`, true},
		{429, `{"code":"rate_limited"}`, true},
		{503, `{"code":"server_draining"}`, true},
		{503, `{"code":"unavailable"}`, false},
		{408, `{"code":"request_timeout"}`, false},
		{500, `{}`, false},
	} {
		bubble(t, func(t *testing.T, ctx context.Context) {
			client, peers := newPeerClient(t, Config{})
			a := openAppender(ctx, t, client, peerTarget, AppendOptions{MaxBatches: 3})
			p := <-peers
			id := p.accept()
			for i := range 3 {
				a.mustSubmit(uint64(i), "x")
			}
			if err := a.Submit(3, appendRecords("x")); !errors.Is(err, ErrFull) {
				t.Errorf("%v", err)
			}
			synctest.Wait()
			p.send(id, append(ackFrame(0, 1), terminal(c.status, c.body)...))
			acks, end := a.take(3)
			unknown := 2
			if c.refused {
				unknown = 1
			}
			if len(acks) != 1 || end.Acknowledged != 1 || end.Refused != c.refused || end.Unknown != unknown || end.Unsent != 0 {
				t.Errorf("%d: %+v", c.status, end)
			}
		})
	}
}

// A peer that sends more than the windows ends the session, or the connection.
func TestReceiveWindows(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{Window: 32 << 10})
		r, other := openReader(ctx, t, c, peerTarget, ReadOptions{}), openReader(ctx, t, c, peerTarget, ReadOptions{})
		p := <-peers
		id, fine := p.accept(), p.accept()
		p.send(id, batchFrame(0, "held"))
		p.send(id, frameOf(0, make([]byte, 40<<10)))
		if err := r.end(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%v", err)
		}
		synctest.Wait()
		if code, _ := p.resetOf(id); code != http2.ErrCodeFlowControl {
			t.Error(code)
		}
		p.send(fine, batchFrame(0, "fine"))
		other.records(1)
	})
}

// 1,000 sessions share a connection. One that is not read holds up no other, and gets all when it is
// read at last.
func TestThousandSessionsOnOneConnection(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{Window: 64 << 10}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2000})
		first := openReader(ctx, t, c, peerTarget, ReadOptions{})
		p := <-peers
		ids := []uint32{p.accept()}
		synctest.Wait()
		readers := []*reader{first}
		for range 999 {
			readers = append(readers, openReader(ctx, t, c, peerTarget, ReadOptions{}))
		}
		for range 999 {
			ids = append(ids, p.accept())
		}
		slow, body := ids[0], strings.Repeat("x", 1000)
		for i := range 60 { // of the slow one's window of 64 KB
			p.send(slow, batchFrame(uint64(i), body))
		}
		for round := range uint64(20) { // 20 MB through the connection's window of 16 MiB
			for i, id := range ids[1:] {
				p.send(id, batchFrame(round, body))
				readers[1+i].records(1)
			}
		}
		if got := first.records(60); len(got) != 60 {
			t.Errorf("%d records", len(got))
		}
		if ok, err := first.TakeBatch(new(Batch)); ok || err != nil {
			t.Errorf("%t, %v", ok, err)
		}
		synctest.Wait()
		p.mu.Lock()
		credit := p.credit[slow]
		p.mu.Unlock()
		if credit < 30<<10 {
			t.Errorf("credit for %d bytes", credit)
		}
		if len(peers) != 0 {
			t.Error("there is a second connection")
		}
	})
}

func TestMoreConnectionsWhenFull(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{MaxConns: 3}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
		for n := range 6 {
			r, err := c.OpenRead(ctx, peerTarget, ReadOptions{}, func() {})
			if err != nil {
				t.Fatal(n, err)
			}
			defer r.Close()
			synctest.Wait() // for the settings
		}
		if _, err := c.OpenRead(ctx, peerTarget, ReadOptions{}, func() {}); !errors.Is(err, ErrNotTaken) || len(peers) != 3 {
			t.Errorf("%d connections, %v", len(peers), err)
		}
	})
}

// A peer that floods with PINGs and takes no answers is cut.
func TestPingFlood(t *testing.T) {
	ours, theirs := net.Pipe()
	c := NewClient(Config{Token: "x", Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
	defer func() { _ = c.Close() }()
	w := newWaiter()
	r, err := c.OpenRead(t.Context(), peerTarget, ReadOptions{}, w.wake)
	if err != nil {
		t.Fatal(err)
	}
	flood := http2.NewFramer(theirs, theirs)
	if err := flood.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for range maxOut {
		if err = flood.WritePing(false, [8]byte{}); err != nil {
			break
		}
	}
	<-w
	if _, taken := r.TakeBatch(&Batch{}); err == nil || !errors.Is(taken, ErrProtocol) {
		t.Errorf("%v, %v", err, taken)
	}
}

// A window that SETTINGS make negative while data waits for its turn is no window.
func TestWindowShrinksBeforeTheWrite(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{})
		a := openAppender(ctx, t, c, peerTarget, AppendOptions{})
		p := <-peers
		id := p.accept()
		synctest.Wait()
		a.conn.mu.Lock()
		a.send.window = 5
		a.conn.send(&a.stream, []byte("waits"))
		err := a.conn.setPeerWindow(10)
		a.conn.frameData()
		window := a.send.window
		a.conn.mu.Unlock()
		synctest.Wait()
		if n := p.dataOf(id); err != nil || window >= 0 || n != 0 {
			t.Errorf("%d bytes into a window of %d: %v", n, window, err)
		}
	})
}
