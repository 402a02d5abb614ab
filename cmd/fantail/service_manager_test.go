package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// notifySocket listens as systemd does. next returns the next message with a word.
func notifySocket(t *testing.T) (path string, next func(word string) string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	buf := make([]byte, 4<<10)
	return path, func(word string) string {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("%s: %v", word, err)
			}
			if s := string(buf[:n]); strings.Contains(s, word) {
				return s
			}
		}
	}
}

// systemd hears when a node is ready, that it lives, and that it stops.
func TestSystemdIsTold(t *testing.T) {
	path, next := notifySocket(t)
	ps := startProcesses(t, 0)
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "300000")
	node := ps.spawn(t, 0)
	next("READY=1")
	for range 3 {
		next("WATCHDOG=1")
	}
	if err := node.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	next("STOPPING=1")
	if err := node.waitForEnd(t, 12*time.Second); err != nil {
		t.Error(err)
	}
}

// fakeConn counts the messages to systemd.
type fakeConn struct {
	net.Conn
	mu  sync.Mutex
	all []string
}

// since returns the messages from the n-th on.
func (f *fakeConn) since(n int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all[n:])
}

func (f *fakeConn) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, string(b))
	return len(b), nil
}
func (f *fakeConn) SetWriteDeadline(time.Time) error { return nil }
func (f *fakeConn) Close() error                     { return nil }

// A node that does not answer itself is not called alive, and READY=1 is told once.
func TestWatchdogWantsAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &fakeConn{}
		m := &serviceManager{conn: conn, watchdog: 30 * time.Second, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		stopping := make(chan struct{})
		var hangs, away atomic.Bool
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			m.run(ctx, stopping, func() string {
				if away.Load() {
					return "draining\nslowly"
				}
				return ""
			}, func(ctx context.Context) error {
				if hangs.Load() {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
		}()
		beats := func(during time.Duration) (n int) {
			synctest.Wait()
			before := len(conn.since(0))
			select {
			case <-time.After(during):
			case <-ended:
			}
			synctest.Wait()
			for _, s := range conn.since(before) {
				n += strings.Count(s, "WATCHDOG=1")
			}
			return n
		}
		if n := beats(61 * time.Second); n != 6 {
			t.Errorf("%d beats in a minute, want 6", n)
		}
		hangs.Store(true)
		if n := beats(61 * time.Second); n != 0 {
			t.Errorf("%d beats of a node that hangs", n)
		}
		hangs.Store(false)
		beats(15 * time.Second) // the last question ends
		away.Store(true)
		beats(time.Second)
		away.Store(false)
		beats(time.Second)
		close(stopping)
		hangs.Store(true)
		if n := beats(40 * time.Second); n < 3 {
			t.Errorf("%d beats of a node that stops", n)
		}
		cancel()
		<-ended
		all := strings.Join(conn.since(0), "\n")
		if strings.Count(all, "READY=1") != 1 || !strings.Contains(all, "STATUS=not ready: draining; slowly") || strings.Count(all, "STOPPING=1") != 1 {
			t.Error(all)
		}
	})
}

func TestServiceManagerVariables(t *testing.T) {
	path, _ := notifySocket(t)
	pid := fmt.Sprint(os.Getpid())
	for _, c := range []struct {
		socket, usec, pid string
		watchdog          time.Duration
		fails             bool
	}{
		{"", "1000000", "", 0, false},
		{path, "", "", 0, false},
		{path, "1000000", "", time.Second, false},
		{path, "1000000", pid, time.Second, false},
		{path, "1000000", "1", 0, false},
		{path, "soon", "", 0, false},
		{path, "-1", "", 0, false},
		{path + ".absent", "", "", 0, true},
		{"relative", "", "", 0, true},
	} {
		m, err := openServiceManager(func(name string) string {
			return map[string]string{"NOTIFY_SOCKET": c.socket, "WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid}[name]
		}, slog.New(slog.DiscardHandler))
		switch {
		case (err != nil) != c.fails, (m == nil) != (c.socket == "" || c.fails):
			t.Errorf("%+v: %v %v", c, m, err)
		case m != nil && m.watchdog != c.watchdog:
			t.Errorf("%+v: %v", c, m.watchdog)
		}
		if m != nil {
			_ = m.conn.Close()
		}
	}
	(*serviceManager)(nil).sendState("READY=1")
}

// The health command's status says whether a node lives, is ready, or is not there.
func TestHealthcheck(t *testing.T) {
	f := startFleet(t, 1)
	admin := f.nodes[0].adminListener.Addr().String()
	_, port, _ := net.SplitHostPort(admin)
	ask := func(args ...string) error { return run(append([]string{"healthcheck"}, args...), nil) }
	for _, args := range [][]string{
		{"--admin=" + admin}, {"--admin=:" + port}, {"--admin=0.0.0.0:" + port, "--ready"}, {f.s2URL + "/health"},
	} {
		if err := ask(args...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	t.Setenv("FANTAIL_ADMIN", admin)
	if err := ask("--ready"); err != nil {
		t.Error(err)
	}
	f.nodes[0].startDrain()
	if err := ask("--ready"); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "drain") {
		t.Errorf("a node that drains: %v", err)
	}
	if err := ask(); err != nil {
		t.Errorf("a node that drains lives: %v", err)
	}
	free := freePorts(t, 1)[0]
	if err := ask("--admin=" + free); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("no node: %v", err)
	}
	if err := ask("--admin=nowhere"); err == nil || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("no address: %v", err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := ask("--admin="+silent.Addr().String(), "--timeout=100ms"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a node that hangs: %v", err)
	}
}
