package main

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// The reserve is a quarter of the limit of open files, between these.
	leastReserve = 64
	mostReserve  = 1024
	// filesAgain is how long the public listener waits before it looks for free descriptors again.
	filesAgain = 50 * time.Millisecond
	// relieveEvery is how often idle connections are closed to make room.
	relieveEvery = time.Second
)

// openFiles watches the process's descriptors for a node, and keeps the reserve back: for the admin
// address, the other nodes and S2, without which it could serve nobody.
//
// While fewer than the reserve are free the node is tight: new readers are refused, each answer is
// the last on its connection, and idle connections are closed. While fewer than a half of it are
// free, the public listener accepts nobody: who comes waits in the kernel's queue.
type openFiles struct {
	limit, reserve int
	count          func() int // descriptors that are open
	log            *slog.Logger
	server         *http.Server // whose idle connections go

	tight atomic.Bool
	waits prometheus.Counter

	mu       sync.Mutex
	relieved time.Time
}

// newOpenFiles reads the limit. Go has raised the soft limit to the hard one before main began; this
// says it again for a program that has not.
func newOpenFiles(log *slog.Logger, reg prometheus.Registerer) *openFiles {
	f := &openFiles{log: log, count: countFiles}
	f.limit = filesLimit()
	f.reserve = filesReserve(f.limit)
	f.waits = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fantail_accept_waits_total", Help: "Connections that waited to be accepted, since nearly all descriptors were in use.",
	})
	gauge := func(name, help string, of func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(of()) })
	}
	reg.MustRegister(f.waits,
		gauge("fantail_open_files", "Descriptors that the process has open.", func() int { return f.count() }),
		gauge("fantail_open_files_limit", "The limit of descriptors (RLIMIT_NOFILE).", func() int { return f.limit }),
		gauge("fantail_open_files_reserve", "Descriptors that are kept for the admin address, other nodes and S2.", func() int { return f.reserve }),
	)
	return f
}

// filesLimit raises the limit of open files as far as may be, and returns it.
func filesLimit() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 1 << 20
	}
	if l.Cur < l.Max {
		raised := syscall.Rlimit{Cur: l.Max, Max: l.Max}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
			l = raised
		}
	}
	return int(min(l.Cur, 1<<30))
}

func filesReserve(limit int) int { return min(max(limit/4, leastReserve), mostReserve) }

// lowerReaders returns how many readers the limit of open files has room for, with a warning if
// those are fewer.
func lowerReaders(readers, limit int, log *slog.Logger) int {
	room := max(limit-filesReserve(limit), 1)
	if readers <= room {
		return readers
	}
	log.Warn("the limit of open files is too low for --max-readers, which is lowered: raise the limit (ulimit -n, LimitNOFILE=, the container's ulimits)",
		"nofile", limit, "reserve", filesReserve(limit), "wanted", readers, "max_readers", room)
	return room
}

// countFiles counts this process's open descriptors.
func countFiles() int {
	const at = "/proc/self/fd"
	if info, err := os.Stat(at); err == nil && info.Size() > 0 { // Linux 6.2 has the number there
		return int(info.Size())
	}
	dir, err := os.Open(at)
	if err != nil {
		return 0
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	return len(names)
}

// free looks how many descriptors are left.
func (f *openFiles) free() int {
	free := f.limit - f.count()
	if tight := free < f.reserve; f.tight.Swap(tight) != tight && tight {
		f.log.Warn("the limit of open files is near: new readers are refused; raise it (ulimit -n, LimitNOFILE=, the container's ulimits)",
			"nofile", f.limit, "free", free, "reserve", f.reserve)
	}
	return free
}

// crowded reports whether the node is tight. It costs nothing while it is not.
func (f *openFiles) crowded() bool { return f.tight.Load() && f.free() < f.reserve }

// relieve closes idle connections.
func (f *openFiles) relieve() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil || time.Since(f.relieved) < relieveEvery {
		return
	}
	f.relieved = time.Now()
	f.server.SetKeepAlivesEnabled(false) // which closes those that are idle
	f.server.SetKeepAlivesEnabled(true)
}

// listener is the public one.
func (f *openFiles) listener(l net.Listener) net.Listener {
	return &choked{Listener: l, files: f, closed: make(chan struct{})}
}

// choked accepts nobody while descriptors are short.
type choked struct {
	net.Listener
	files  *openFiles
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (c *choked) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for waited := false; ; waited = true {
		free := c.files.free()
		if free < c.files.reserve {
			c.files.relieve()
		}
		if free >= c.files.reserve/2 {
			return conn, nil
		}
		if !waited {
			c.files.waits.Inc()
		}
		again := time.NewTimer(filesAgain)
		select {
		case <-again.C:
		case <-c.closed:
			again.Stop()
			_ = conn.Close()
			return nil, net.ErrClosed
		}
	}
}

// Close implements net.Listener.
func (c *choked) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Listener.Close()
}
