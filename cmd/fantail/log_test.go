package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// limitedLines returns what a limited logger writes in a bubble, after all windows have ended.
func limitedLines(t *testing.T, level slog.Level, do func(log *slog.Logger)) (out []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log := slog.New(newLimiter(newHandler(&b, level, "text")))
		do(log)
		<-time.After(2 * logWindow)
		synctest.Wait()
		out = strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	})
	return out
}

// A flood of one message becomes a few lines and a count.
func TestLogFloodBecomesAFewLinesAndACount(t *testing.T) {
	got := limitedLines(t, slog.LevelInfo, func(log *slog.Logger) {
		for i := range 2472 {
			log.With("node", "a").Warn("read session failed", "stream", fmt.Sprint("p/s", i%200), "err", "token revoked")
			<-time.After(12 * time.Millisecond)
		}
	})
	suppressed := 0
	for _, l := range got {
		if _, n, ok := strings.Cut(l, "suppressed="); ok {
			var k int
			_, _ = fmt.Sscan(n, &k)
			suppressed += k
		} else {
			suppressed++
		}
		if !strings.Contains(l, "node=a") || !strings.Contains(l, "token revoked") {
			t.Errorf("%s: it does not say what is the matter", l)
		}
	}
	// The last dropped record is on the line with the count, and in the count.
	if len(got) > 4*(maxSameError+1) || suppressed != 2472 {
		t.Errorf("%d lines stand for %d:\n%s", len(got), suppressed, strings.Join(got, "\n"))
	}
}

// Messages that differ only in numbers count as one. Others are counted separately. The table of
// messages does not grow without bound.
func TestLogWindowsAreBounded(t *testing.T) {
	got := limitedLines(t, slog.LevelInfo, func(log *slog.Logger) {
		for i := range 1000 {
			log.Error("discarding packet", "err", fmt.Errorf("from 10.0.%d.%d:%d", i/256, i%256, 1024+i))
			log.Info(fmt.Sprintf("listening on port %d", i)) //nolint:sloglint // as a library does
			log.Debug("asked for by nobody")
		}
		log.Warn("another message")
	})
	if n := maxSameError + 1 + maxLines + 1 + 1; len(got) != n {
		t.Errorf("%d lines, want %d:\n%s", len(got), n, strings.Join(got, "\n"))
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(newHandler(io.Discard, slog.LevelDebug, "json"))
		log := slog.New(l)
		for range 20 * maxLogKeys {
			text := make([]byte, 400)
			for i := range text {
				text[i] = byte('a' + rand.IntN(26))
			}
			log.Warn(string(text), "err", errors.New(string(text[200:]))) //nolint:sloglint // with a client's text
		}
		open := func() int {
			l.windows.mu.Lock()
			defer l.windows.mu.Unlock()
			return len(l.windows.windows)
		}
		if n := open(); n > maxLogKeys+8 {
			t.Errorf("%d windows", n)
		}
		<-time.After(2 * logWindow)
		synctest.Wait()
		if n := open(); n != 0 {
			t.Errorf("%d windows are left", n)
		}
	})
	if n := len(limitedLines(t, slog.LevelDebug, func(log *slog.Logger) {
		for range maxDebugLines / 2 {
			log.Debug("asked for")
		}
	})); n != maxDebugLines/2 {
		t.Errorf("%d lines at debug, want all", n)
	}
}

// blockedWriter is a pipe without a reader, until it is opened.
type blockedWriter struct {
	open chan struct{}
	mu   sync.Mutex
	b    bytes.Buffer
}

func (b *blockedWriter) Write(p []byte) (int, error) {
	<-b.open
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// A log that is not read blocks no caller, and reports afterwards how many lines are missing.
func TestStuckLogReaderDoesNotHoldTheNodeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &blockedWriter{open: make(chan struct{})}
		log := slog.New(newHandler(&lossyWriter{w: w, lossLogger: slog.New(newHandler(w, slog.LevelInfo, "text"))}, slog.LevelInfo, "text"))
		began := time.Now()
		for range 1000 {
			log.Info("line")
		}
		if d := time.Since(began); d > logWriteTimeout {
			t.Errorf("1000 lines took %v", d)
		}
		close(w.open)
		synctest.Wait()
		log.Info("again")
		got := w.b.String()
		if n := strings.Count(got, "msg=line"); n != 1 || !strings.Contains(got, "lines=999") || !strings.HasSuffix(got, "msg=again\n") {
			t.Errorf("%s", got)
		}
	})
}

// A panic in a server's handler and a failing accept are logged at a visible level. Other lines are
// for debugging.
func TestServerLogLevels(t *testing.T) {
	var b bytes.Buffer
	l := newServerLog(slog.New(newHandler(&b, slog.LevelInfo, "json"))).Writer() //nolint:forbidigo // http.Server's
	write := func(format string, a ...any) { fmt.Fprintf(l, format+"\n", a...) }
	write("http: TLS handshake error from %s: EOF", "10.0.0.1:1234")
	write("http: panic serving %s: boom\nstack", "10.0.0.1:1234")
	write("http: Accept error: %v; retrying in 5ms", "too many open files")
	got := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(got) != 2 || !strings.Contains(got[0], `"ERROR"`) || !strings.Contains(got[0], "boom") || !strings.Contains(got[1], `"WARN"`) {
		t.Errorf("%q", got)
	}
}

// The process goes on after the reader of its log has ended.
func TestProcessOutlivesItsLogReader(t *testing.T) {
	t.Parallel()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	at := freePorts(t, 2)
	cmd := exec.Command(path, "serve", "--http="+at[0], "--admin="+at[1], "--log-level=debug",
		"--s2-endpoint=http://"+freePorts(t, 1)[0], "--s2-basin=fantail-process-test")
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if _, err := r.Read(make([]byte, 1)); err != nil { // its first line
		t.Fatal(err)
	}
	_ = r.Close()
	c := newClient(t)
	eventually(t, 20*time.Second, "it serves", func() bool {
		a, err := c.do(t.Context(), "GET", "http://"+at[1]+"/livez", "")
		return err == nil && a.status == 200
	})
	for range 3 { // each leaves a line: S2 does not answer
		if a, err := c.do(t.Context(), "PUT", "http://"+at[0]+"/v1/stream/p/s", "", "Content-Type", "text/plain"); err != nil || a.status != 503 {
			t.Errorf("%v %v, want 503", a, err)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it does not stop")
	}
}

// Signals within sameStopWithin are one stop.
func TestSignalsThatComeTogetherAreOneStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, over := make(chan os.Signal), make(chan struct{})
		stops, more := 0, 0
		go dispatchStops(all, over, func() { stops++ }, func(os.Signal) { more++ })
		for _, wait := range []time.Duration{0, time.Millisecond, sameStopWithin / 2} {
			<-time.After(wait)
			all <- syscall.SIGTERM
		}
		synctest.Wait()
		if stops != 1 || more != 0 {
			t.Errorf("%d stops and %d more", stops, more)
		}
		<-time.After(sameStopWithin)
		all <- syscall.SIGINT
		synctest.Wait()
		if stops != 1 || more != 1 {
			t.Errorf("%d stops and %d more", stops, more)
		}
		close(over)
	})
}
