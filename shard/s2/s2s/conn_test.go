package s2s

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/net/http2"
)

// bubble runs a test in which time passes only when all wait.
func bubble(t *testing.T, fn func(t *testing.T, ctx context.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		fn(t, ctx)
	})
}

func TestRequestHeaders(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{UserAgent: "test"})
		openReader(ctx, t, c, peerTarget, ReadOptions{SeqNum: ptr(5), Count: ptr(7), Wait: ptr(0)})
		openAppender(ctx, t, c, peerTarget, AppendOptions{})
		p := <-peers
		for _, method := range []string{"GET", "POST"} {
			f, got := <-p.opened, map[string]string{}
			for _, h := range f.Fields {
				got[h.Name] = h.Value
			}
			want := map[string]string{
				":method": method, ":scheme": "http", ":authority": "peer", ":path": "/root/v1/streams/a%2Fb%20%C3%A9%252F/records",
				"authorization": "Bearer secret", "accept": "application/protobuf", "accept-encoding": "identity", "content-type": "s2s/proto", "s2-basin": "the-basin", "user-agent": "test",
			}
			if method == "GET" {
				want[":path"] += "?seq_num=5&count=7&wait=0"
			}
			if fmt.Sprint(got) != fmt.Sprint(want) || f.StreamEnded() != (method == "GET") {
				t.Errorf("%v\nwant %v", got, want)
			}
		}
	})
}

// After a GOAWAY, read sessions and those that S2 did not begin end. An append session gets its
// acknowledgement. New sessions use another connection.
func TestGoAway(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{})
		r := openReader(ctx, t, c, peerTarget, ReadOptions{})
		a := openAppender(ctx, t, c, peerTarget, AppendOptions{})
		late := openAppender(ctx, t, c, peerTarget, AppendOptions{})
		p := <-peers
		p.accept()
		id := p.accept()
		a.mustSubmit(0, "x")
		late.mustSubmit(0, "y")
		synctest.Wait()
		p.write(func(f *http2.Framer) error { return f.WriteGoAway(id, http2.ErrCodeNo, nil) })
		if err := r.end(); !errors.Is(err, ErrGoAway) {
			t.Errorf("%v", err)
		}
		if _, end := late.take(1); !errors.Is(end, ErrNotTaken) || end.Unsent != 1 || end.Unknown != 0 {
			t.Errorf("%+v", end)
		}
		if err := a.Submit(1, appendRecords("z")); !errors.Is(err, ErrGoAway) {
			t.Errorf("%v", err)
		}
		p.send(id, ackFrame(0, 1))
		acks, end := a.take(2)
		if len(acks) != 1 || !errors.Is(end, ErrGoAway) || end.Acknowledged != 1 || end.Unknown+end.Unsent != 0 {
			t.Errorf("%v, %+v", acks, end)
		}
		<-p.gone
		r = openReader(ctx, t, c, peerTarget, ReadOptions{})
		p = <-peers
		p.send(p.accept(), heartbeat(3))
		if b, err := r.take(); err != nil || b.Tail.SeqNum != 3 {
			t.Errorf("%+v, %v", b, err)
		}
	})
}

func TestResets(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{})
		r, refused := openReader(ctx, t, c, peerTarget, ReadOptions{}), openReader(ctx, t, c, peerTarget, ReadOptions{})
		a := openAppender(ctx, t, c, peerTarget, AppendOptions{})
		p := <-peers
		id := p.accept()
		p.send(id, batchFrame(0, "before the reset"))
		p.write(func(f *http2.Framer) error { return f.WriteRSTStream(id, http2.ErrCodeInternal) })
		r.records(1)
		if err := r.end(); !errors.Is(err, ErrLost) || errors.Is(err, ErrNotTaken) {
			t.Errorf("%v", err)
		}
		id = (<-p.opened).StreamID
		p.write(func(f *http2.Framer) error { return f.WriteRSTStream(id, http2.ErrCodeRefusedStream) })
		if err := refused.end(); !errors.Is(err, ErrNotTaken) {
			t.Errorf("%v", err)
		}
		id = p.accept()
		a.mustSubmit(0, "x")
		synctest.Wait()
		_ = p.nc.Close()
		if _, end := a.take(1); !errors.Is(end, ErrLost) || end.Unknown != 1 || end.Unsent != 0 {
			t.Errorf("%+v", end)
		}
	})
}

// What is not S2's protocol ends its session, and no other on the connection.
func TestForgedFrames(t *testing.T) {
	unordered := append(batchFrame(7, "a"), batchFrame(7, "again")...)
	for name, b := range map[string][]byte{
		"no flag":            {0, 0, 0},
		"too long":           {0xff, 0xff, 0xff, 0},
		"a web page":         []byte("<html><body>please sign in</body></html>"),
		"compressed badly":   frameOf(flagZstd, []byte("x")),
		"gzip badly":         frameOf(flagGzip, []byte("x")),
		"unknown flags":      frameOf(flagCompress, []byte("x")),
		"gzip bomb":          frameOf(flagGzip, gzipped(make([]byte, maxFrameBytes+1))),
		"zstd bomb":          frameOf(flagZstd, zstandard(make([]byte, 64<<20))),
		"no protobuf":        frameOf(0, []byte{0xff}),
		"record malformed":   frameOf(0, []byte{0x0a, 1, 0xff}),
		"terminal too short": frameOf(flagTerminal, []byte{1}),
		"twice":              unordered,
		"below the start":    batchFrame(4, "a"),
		"at the end of all":  batchFrame(1<<64-1, "a"),
		"hole in a frame":    frameOf(0, append(batchFrame(7, "a")[4:], batchFrame(9, "b")[4:]...)),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, ctx context.Context) {
				c, peers := newPeerClient(t, Config{})
				forged := openReader(ctx, t, c, peerTarget, ReadOptions{SeqNum: ptr(5)})
				other := openReader(ctx, t, c, peerTarget, ReadOptions{})
				p := <-peers
				id, fine := p.accept(), p.accept()
				p.send(id, b)
				if err := forged.end(); !errors.Is(err, ErrProtocol) {
					t.Errorf("%v", err)
				}
				p.send(fine, batchFrame(1, "fine"))
				other.records(1)
				synctest.Wait()
				if _, ok := p.resetOf(id); !ok {
					t.Error("the session is not reset")
				}
			})
		})
	}
}

func TestAnswers(t *testing.T) {
	long := strings.Repeat("x", maxErrorBytes+1)
	for _, c := range []struct {
		status, body string
		want         string
		protocol     bool
	}{
		{"404", `{"code":"stream_not_found","message":"no"}`, "S2 answers 404 stream_not_found: no", false},
		{"416", `{"tail":{"seq_num":18446744073709551615,"timestamp":1}}`, "the tail is 18446744073709551615", false},
		{"412", `{"seq_num_mismatch":9007199254740993}`, "the tail is 9007199254740993", false},
		{"502", `<html>bad gateway`, "S2 answers 502 : <html>bad gateway", false},
		{"503", "", "S2 answers 503", false},
		{"503", long, "", true},
		{"204", "", "204", true},
		{"302", "elsewhere", "302", true},
	} {
		bubble(t, func(t *testing.T, ctx context.Context) {
			client, peers := newPeerClient(t, Config{})
			r := openReader(ctx, t, client, peerTarget, ReadOptions{})
			p := <-peers
			id := (<-p.opened).StreamID
			p.answer(id, "103", false) // says nothing yet
			p.answer(id, c.status, false)
			p.send(id, []byte(c.body))
			p.end(id)
			err := r.end()
			if !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrProtocol) != c.protocol {
				t.Errorf("%s: %v", c.status, err)
			}
		})
	}
}

// A session that ends within a frame was cut. Terminal frames are errors, or a clean end.
func TestEnds(t *testing.T) {
	half := batchFrame(0, "whole")
	for name, c := range map[string]struct {
		b    []byte
		want func(error) bool
	}{
		"clean":    {nil, func(err error) bool { return errors.Is(err, io.EOF) }},
		"cut":      {half[:len(half)-1], func(err error) bool { return errors.Is(err, ErrLost) && !errors.Is(err, io.EOF) }},
		"terminal": {terminal(503, `{"code":"unavailable","message":"m"}`), func(err error) bool { e, ok := errors.AsType[*Error](err); return ok && e.Code == "unavailable" }},
		"ok":       {terminal(200, ""), func(err error) bool { return errors.Is(err, io.EOF) }},
	} {
		bubble(t, func(t *testing.T, ctx context.Context) {
			client, peers := newPeerClient(t, Config{})
			r := openReader(ctx, t, client, peerTarget, ReadOptions{})
			p := <-peers
			id := p.accept()
			p.send(id, c.b)
			p.end(id)
			if err := r.end(); !c.want(err) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// A session without a frame ends after Silence, also if bytes trickle in, and one beside it lives
// on its heartbeats. One that is not read does not count as silent.
func TestSilence(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{})
		unanswered, trickling := openReader(ctx, t, c, peerTarget, ReadOptions{}), openReader(ctx, t, c, peerTarget, ReadOptions{})
		alive, unread := openReader(ctx, t, c, peerTarget, ReadOptions{}), openReader(ctx, t, c, peerTarget, ReadOptions{})
		p := <-peers
		<-p.opened
		ids := []uint32{p.accept(), p.accept(), p.accept()}
		p.send(ids[2], batchFrame(0, "not read"))
		began := time.Now()
		trickle := batchFrame(0, "longer than a minute")
		for i := range 12 {
			p.send(ids[0], trickle[i:i+1])
			p.send(ids[1], heartbeat(1))
			<-time.After(5 * time.Second)
			if i == 6 {
				if err := errors.Join(unanswered.end(), trickling.end()); !errors.Is(err, ErrSilent) || time.Since(began) > 40*time.Second {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
			}
		}
		if b, err := alive.take(); err != nil || !b.HasTail {
			t.Errorf("%+v, %v", b, err)
		}
		unread.records(1)
		if err := unread.end(); !errors.Is(err, ErrSilent) {
			t.Errorf("%v", err)
		}
	})
}

func TestDeadConnection(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{Silence: 10 * time.Minute})
		r := openReader(ctx, t, c, peerTarget, ReadOptions{})
		p := <-peers
		p.accept()
		<-time.After(20 * time.Minute / 2) // PINGs keep it
		p.mu.Lock()
		p.mute = true
		p.mu.Unlock()
		if err := r.end(); !errors.Is(err, ErrLost) {
			t.Errorf("%v", err)
		}
	})
}

func TestIdleConnectionIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{})
		r := openReader(ctx, t, c, peerTarget, ReadOptions{})
		p := <-peers
		p.accept()
		r.Close()
		began := time.Now()
		<-p.gone
		if d := time.Since(began); d < 90*time.Second || d > 100*time.Second {
			t.Errorf("closed after %s", d)
		}
	})
}

// A server that speaks something else is named as such.
func TestOtherProtocols(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := NewClient(Config{Token: "x", Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			go func() {
				_, _ = io.WriteString(theirs, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
				_ = theirs.Close()
			}()
			return ours, nil
		}})
		defer func() { _ = c.Close() }()
		if err := openReader(ctx, t, c, peerTarget, ReadOptions{}).end(); !errors.Is(err, ErrLost) {
			t.Errorf("%v", err)
		} else {
			t.Log(err)
		}
		refused := &net.OpError{Op: "dial", Err: errors.New("refused")}
		c2 := NewClient(Config{Token: "x", Dial: func(context.Context, string, string) (net.Conn, error) { return nil, refused }})
		defer func() { _ = c2.Close() }()
		if _, err := c2.OpenRead(ctx, peerTarget, ReadOptions{}, func() {}); !errors.Is(err, refused) {
			t.Errorf("%v", err)
		}
		for _, base := range []string{"ftp://x", "http://", "://"} {
			if _, err := c2.OpenRead(ctx, Target{Base: base}, ReadOptions{}, func() {}); err == nil {
				t.Errorf("%s is accepted", base)
			}
		}
	})
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func zstandard(b []byte) []byte {
	w, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	return w.EncodeAll(b, nil)
}

// A frame that is compressed though this package did not ask for it is read all the same.
func TestCompressedFrames(t *testing.T) {
	for name, b := range map[string][]byte{
		"gzip": frameOf(flagGzip, gzipped(batchFrame(0, "a", "b")[4:])),
		"zstd": frameOf(flagZstd, zstandard(batchFrame(0, "a", "b")[4:])),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, ctx context.Context) {
				c, peers := newPeerClient(t, Config{})
				r := openReader(ctx, t, c, peerTarget, ReadOptions{SeqNum: ptr(0)})
				p := <-peers
				id := p.accept()
				p.send(id, b)
				if got := r.records(2); string(got[0].Body) != "a" || string(got[1].Body) != "b" {
					t.Errorf("%+v", got)
				}
				p.send(id, frameOf(flagTerminal|flagGzip, gzipped([]byte("\x01\x94{\"code\":\"gone\"}"))))
				var refused *Error
				if err := r.end(); !errors.As(err, &refused) || refused.Status != 404 || refused.Code != "gone" {
					t.Errorf("%v", err)
				}
			})
		})
	}
}
