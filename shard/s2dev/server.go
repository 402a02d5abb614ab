package s2dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	readHeaderTimeout = 10 * time.Second
	maxHTTP2Streams   = 100 // net/http looks at each of them for every frame that it writes; the SDK opens more connections
)

// Server is an S2, listening.
type Server struct {
	cfg       Config
	faults    *Faults
	meter     *meter
	heartbeat func() time.Duration

	closing context.Context // ends with Close
	shut    context.CancelFunc
	swept   sync.WaitGroup

	storeMu sync.RWMutex // guards store against Restart; requests never overlap one
	store   *store

	mu       sync.Mutex // guards what follows, and Restart and Close against each other
	addr     string
	http     *http.Server
	stopping context.Context // ends with this listener
	stop     context.CancelFunc
	running  sync.WaitGroup // the accept loop and the connections
	closed   bool

	gate     sync.Mutex // orders a request's entry against halt
	halted   bool
	requests sync.WaitGroup
}

// Open starts a server. With Dir it takes the folder's lock; a folder in use is an error.
func Open(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, faults: newFaults(), meter: newMeter(cfg.Now, cfg.Prices),
		heartbeat: randomHeartbeat, addr: cfg.Listen,
	}
	s.cfg.failure = newFailure(cfg.Fatal)
	s.closing, s.shut = context.WithCancel(context.Background())
	back, err := openBacking(s.cfg)
	if err != nil {
		return nil, err
	}
	if s.store, err = openStore(back, cfg.Now); err != nil {
		return nil, errors.Join(err, back.close())
	}
	for _, name := range cfg.Basins {
		if err := s.ensure(name); err != nil {
			return nil, errors.Join(err, back.close())
		}
	}
	if err := s.listen(); err != nil {
		return nil, errors.Join(err, back.close())
	}
	s.swept.Go(s.sweeper)
	return s, nil
}

func (s *Server) ensure(basin string) error {
	if err := checkBasinName(basin); err != nil {
		return err
	}
	_, err := s.store.basin(basin)
	if err == nil {
		return nil
	}
	_, _, err = s.store.provisionBasin(basin, basinConfig{}, "", true)
	return asError(err)
}

// listen starts serving on addr and pins the port it got. The caller holds mu, or is Open.
func (s *Server) listen() error {
	var lc net.ListenConfig
	ln, err := lc.Listen(s.closing, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("s2dev: %w", err)
	}
	s.addr = ln.Addr().String()
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.setHalted(false)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(http.HandlerFunc(s.track)),
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxHTTP2Streams},
		ReadHeaderTimeout: readHeaderTimeout,
		ConnState:         s.connection,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn),
	}
	serving := s.http
	s.running.Go(func() {
		if err := serving.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Logger.Error("serve", "error", err)
		}
	})
	return nil
}

// connection counts connections, so that Close can wait for their goroutines.
func (s *Server) connection(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.running.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.running.Done()
	}
}

func (s *Server) track(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		cut()
	}
	defer s.requests.Done()
	s.serve(w, r)
}

func (s *Server) enter() bool {
	s.gate.Lock()
	defer s.gate.Unlock()
	if !s.halted {
		s.requests.Add(1)
	}
	return !s.halted
}

func (s *Server) setHalted(v bool) {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.halted = v
}

// Addr is host:port.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// URL is http://host:port; the SDK's base URLs are URL()+"/v1".
func (s *Server) URL() string { return "http://" + s.Addr() }

// Faults makes the server fail on purpose.
func (s *Server) Faults() *Faults { return s.faults }

// Usage is what was asked of the server since Open, across Restart.
func (s *Server) Usage() Usage {
	s.storeMu.RLock()
	defer s.storeMu.RUnlock()
	tallies := s.store.tallies()
	tallies[""] = &s.meter.basins
	return s.meter.snapshot(tallies)
}

// halt cuts every connection and waits for what served them. The caller holds mu.
func (s *Server) halt() error {
	s.setHalted(true)
	s.stop()
	err := s.http.Close()
	s.requests.Wait()
	s.running.Wait()
	return err
}

// Restart cuts every connection, opens the store again and listens on the same port. In memory
// the records stay: it is the listener that restarts.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("s2dev: closed")
	}
	err := s.halt()
	if s.cfg.Dir != "" {
		if again := s.reopen(); again != nil {
			return errors.Join(err, again)
		}
	}
	return errors.Join(err, s.listen())
}

func (s *Server) reopen() error {
	s.storeMu.Lock()
	defer s.storeMu.Unlock()
	was, old := s.store, s.store.back
	// If the folder does not open again, an empty memory stands in until Close.
	s.store = &store{back: &memory{}, now: s.cfg.Now, basins: map[string]*basinEntry{}}
	if err := old.close(); err != nil {
		return err
	}
	s.cfg.failure = newFailure(s.cfg.Fatal)
	back, err := openBacking(s.cfg)
	if err != nil {
		return err
	}
	again, err := openStore(back, s.cfg.Now)
	if err != nil {
		return errors.Join(err, back.close())
	}
	again.takeTallies(was)
	s.store = again
	return nil
}

// Close cuts every connection, waits for every goroutine and closes the store. It may be called
// again.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.halt()
	s.shut()
	s.swept.Wait()
	return errors.Join(err, s.store.back.close())
}

func openBacking(cfg Config) (backing, error) {
	if cfg.Dir != "" {
		d, err := openDisk(cfg)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	return &memory{max: cfg.MaxBytes}, nil
}
