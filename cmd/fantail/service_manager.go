package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// serviceManager tells systemd about the node, for a unit of Type=notify. A nil one tells nothing.
type serviceManager struct {
	conn     net.Conn
	watchdog time.Duration // systemd ends a node that is silent for so long; 0: it does not
	log      *slog.Logger
}

// openServiceManager returns the service manager that the variables NOTIFY_SOCKET, WATCHDOG_USEC and
// WATCHDOG_PID name; nil: there is none.
func openServiceManager(getenv func(string) string, log *slog.Logger) (*serviceManager, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil //nolint:nilnil // most nodes have no service manager
	}
	if !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "@") {
		return nil, fmt.Errorf("NOTIFY_SOCKET %q: want a path, or @ and a name", path)
	}
	conn, err := net.Dial("unixgram", path) //nolint:noctx // it does not block
	if err != nil {
		return nil, fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	m := &serviceManager{conn: conn, log: log}
	if pid := getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
			m.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	return m, nil
}

// sendState sends a state, such as READY=1. A failure is logged: the node can do nothing about it.
func (m *serviceManager) sendState(states ...string) {
	if m == nil {
		return
	}
	_ = m.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := m.conn.Write([]byte(strings.Join(states, "\n"))); err != nil {
		m.log.Warn("systemd is not told", "states", states, "err", err)
	}
}

// statusTick is the time between two looks at whether the node is ready.
const statusTick = 500 * time.Millisecond

// run tells systemd when the node is ready for the first time, and why it is not ready otherwise.
// Until ctx ends it tells the watchdog, three times in each of its periods, that the node lives.
// alive asks whether it lives, within the ctx that it gets. While the node stops (stopping is
// closed), the watchdog is not asked: the grace bounds that.
func (m *serviceManager) run(ctx context.Context, stopping <-chan struct{}, notReady func() string, alive func(context.Context) error) {
	if m == nil {
		return
	}
	defer func() { _ = m.conn.Close() }()
	status := time.NewTicker(statusTick)
	defer status.Stop()
	beat := make(<-chan time.Time)
	if m.watchdog > 0 {
		t := time.NewTicker(m.watchdog / 3)
		defer t.Stop()
		beat = t.C
	}
	ready, last := false, ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-stopping:
			m.sendState("STOPPING=1", "STATUS=stopping")
			stopping, last = nil, "stopping"
			status.Stop()
		case <-beat:
			if last == "stopping" || m.lives(ctx, alive) {
				m.sendState("WATCHDOG=1")
			}
		case <-status.C:
			why := notReady()
			switch state := "STATUS=" + strings.ReplaceAll("not ready: "+why, "\n", "; "); {
			case why == "" && !ready:
				ready, last = true, "ready"
				m.sendState("READY=1", "STATUS=ready")
			case why == "" && last != "ready":
				last = "ready"
				m.sendState("STATUS=ready")
			case why != "" && last != state:
				last = state
				m.sendState(state)
			}
		}
	}
}

// lives reports whether the node answers within a third of the watchdog's period.
func (m *serviceManager) lives(ctx context.Context, alive func(context.Context) error) bool {
	within, cancel := context.WithTimeout(ctx, m.watchdog/3)
	defer cancel()
	err := alive(within)
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		m.log.Error("the node does not answer itself, systemd is not told that it lives", "err", err)
	}
	return err == nil
}

// serveUnderManager does what serveUntil does, and tells the service manager meanwhile.
func (n *node) serveUnderManager(ctx context.Context, m *serviceManager, again <-chan os.Signal) error {
	if m == nil {
		return n.serveUntil(ctx, again)
	}
	told, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.run(told, ctx.Done(), func() string { return n.notReadyReason(time.Now()) }, func(ctx context.Context) error {
			at, err := localAddress(n.adminListener.Addr().String())
			if err != nil {
				return err
			}
			return askHealth(ctx, "http://"+at+"/livez")
		})
	}()
	err := n.serveUntil(ctx, again)
	stop()
	<-ended
	return err
}
