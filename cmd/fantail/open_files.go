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
	// The reserve is a quarter of the limit of open files, but at least minReserve and at most
	// maxReserve.
	minReserve = 64
	maxReserve = 1024
	// acceptRetry is the time after which the public listener looks for free descriptors again.
	acceptRetry = 50 * time.Millisecond
	// closeIdleEvery is the shortest time between two rounds of closing idle connections.
	closeIdleEvery = time.Second
)

// openFiles watches the process's file descriptors, and keeps a reserve for the admin address, the
// other nodes and S2: without those the node could not serve any client.
//
// While fewer descriptors than the reserve are free, the node is near the limit: new readers are
// refused, each answer is the last on its connection, and idle connections are closed. While less
// than half of the reserve is free, the public listener accepts no connection: new connections wait
// in the kernel's queue.
type openFiles struct {
	limit, reserve int
	count          func() int // returns the number of open descriptors
	log            *slog.Logger
	server         *http.Server // its idle connections are closed

	nearLimit   atomic.Bool
	acceptWaits prometheus.Counter

	mu         sync.Mutex
	idleClosed time.Time
}

// newOpenFiles returns an openFiles with the current limit.
func newOpenFiles(log *slog.Logger, reg prometheus.Registerer) *openFiles {
	f := &openFiles{log: log, count: countOpenFiles}
	f.limit = raiseFilesLimit()
	f.reserve = filesReserve(f.limit)
	f.acceptWaits = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fantail_accept_waits_total", Help: "Connections that waited to be accepted, since nearly all descriptors were in use.",
	})
	gauge := func(name, help string, of func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(of()) })
	}
	reg.MustRegister(f.acceptWaits,
		gauge("fantail_open_files", "Descriptors that the process has open.", func() int { return f.count() }),
		gauge("fantail_open_files_limit", "The limit of descriptors (RLIMIT_NOFILE).", func() int { return f.limit }),
		gauge("fantail_open_files_reserve", "Descriptors that are kept for the admin address, other nodes and S2.", func() int { return f.reserve }),
	)
	return f
}

// raiseFilesLimit raises the limit of open files as far as possible, and returns it. Go has done so
// before main, unless the program was built otherwise.
func raiseFilesLimit() int {
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

func filesReserve(limit int) int { return min(max(limit/4, minReserve), maxReserve) }

// limitReaders returns the number of readers for which the limit of open files has room, and at
// most readers. It logs a warning if that is less.
func limitReaders(readers, limit int, log *slog.Logger) int {
	room := max(limit-filesReserve(limit), 1)
	if readers <= room {
		return readers
	}
	log.Warn("the limit of open files is too low for --max-readers, which is lowered: raise the limit (ulimit -n, LimitNOFILE=, the container's ulimits)",
		"nofile", limit, "reserve", filesReserve(limit), "wanted", readers, "max_readers", room)
	return room
}

// countOpenFiles returns the number of this process's open descriptors.
func countOpenFiles() int {
	const at = "/proc/self/fd"
	if info, err := os.Stat(at); err == nil && info.Size() > 0 { // Linux 6.2 and later report the number there
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

// checkFree returns how many descriptors are free, and notes whether the node is near the limit.
func (f *openFiles) checkFree() int {
	free := f.limit - f.count()
	if tight := free < f.reserve; f.nearLimit.Swap(tight) != tight && tight {
		f.log.Warn("the limit of open files is near: new readers are refused; raise it (ulimit -n, LimitNOFILE=, the container's ulimits)",
			"nofile", f.limit, "free", free, "reserve", f.reserve)
	}
	return free
}

// isNearLimit reports whether the node is near the limit. It costs nothing while it is not.
func (f *openFiles) isNearLimit() bool { return f.nearLimit.Load() && f.checkFree() < f.reserve }

// closeIdle closes idle connections, at most once each closeIdleEvery.
func (f *openFiles) closeIdle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil || time.Since(f.idleClosed) < closeIdleEvery {
		return
	}
	f.idleClosed = time.Now()
	f.server.SetKeepAlivesEnabled(false) // this closes idle connections
	f.server.SetKeepAlivesEnabled(true)
}

// wrapListener limits the public listener.
func (f *openFiles) wrapListener(l net.Listener) net.Listener {
	return &limitedListener{Listener: l, files: f, closed: make(chan struct{})}
}

// limitedListener accepts no connection while descriptors are short.
type limitedListener struct {
	net.Listener
	files  *openFiles
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (c *limitedListener) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for waited := false; ; waited = true {
		free := c.files.checkFree()
		if free < c.files.reserve {
			c.files.closeIdle()
		}
		if free >= c.files.reserve/2 {
			return conn, nil
		}
		if !waited {
			c.files.acceptWaits.Inc()
		}
		again := time.NewTimer(acceptRetry)
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
func (c *limitedListener) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Listener.Close()
}
