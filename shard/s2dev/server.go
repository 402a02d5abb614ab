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
	// http2Window bounds what a client may send ahead: an append session that is far away fills it.
	http2Window     = 16 << 20
	maxHTTP2Streams = 100 // net/http looks at each of them for every frame that it writes; the SDK opens more connections
)

// Server is an S2 that listens on one address.
type Server struct {
	cfg       Config // set at construction; Restart replaces its failure while no request runs
	faults    *Faults
	meter     *meter
	heartbeat func() time.Duration

	closing       context.Context // ends with Close
	cancelClosing context.CancelFunc
	sweeping      sync.WaitGroup

	catalogueMu sync.RWMutex // guards catalogue; requests need it not, because no request overlaps a Restart
	catalogue   *catalogue

	mu         sync.Mutex // guards the fields below, and Restart, Close and Backup against each other
	addr       string
	httpServer *http.Server
	stopping   context.Context // ends with this listener; set before it serves, so requests read it without mu
	stop       context.CancelFunc
	serving    sync.WaitGroup // the accept loop and the connections
	closed     bool

	gateMu   sync.Mutex // orders the entry of requests against stopServing
	halted   bool
	requests sync.WaitGroup
}

// Open starts a server. With Dir it locks the folder; it fails if another process has locked it.
func Open(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, faults: newFaults(), meter: newMeter(cfg.Now),
		heartbeat: randomHeartbeat, addr: cfg.Listen,
	}
	s.cfg.failure = newStorageFailure(cfg.Fatal)
	s.closing, s.cancelClosing = context.WithCancel(context.Background())
	back, err := openStorage(s.cfg)
	if err != nil {
		return nil, err
	}
	if s.catalogue, err = openCatalogue(back, cfg.Now); err != nil {
		return nil, errors.Join(err, back.close())
	}
	for _, name := range cfg.Basins {
		if err := s.ensureBasin(name); err != nil {
			return nil, errors.Join(err, back.close())
		}
	}
	if err := s.listen(); err != nil {
		return nil, errors.Join(err, back.close())
	}
	s.sweeping.Go(s.runSweeper)
	return s, nil
}

func (s *Server) ensureBasin(basin string) error {
	if err := checkBasinName(basin); err != nil {
		return err
	}
	_, err := s.catalogue.findBasin(basin)
	if err == nil {
		return nil
	}
	_, _, err = s.catalogue.provisionBasin(basin, basinConfig{}, "", true)
	return asError(err)
}

// listen starts to serve on addr and keeps the port that it got. The caller holds mu, or is Open.
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
	s.httpServer = &http.Server{
		Handler:   http.NewCrossOriginProtection().Handler(http.HandlerFunc(s.serveTracked)),
		Protocols: &protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxHTTP2Streams,
			MaxReceiveBufferPerConnection: http2Window,
			MaxReceiveBufferPerStream:     http2Window,
		},
		ReadHeaderTimeout: readHeaderTimeout,
		ConnState:         s.countConn,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn),
	}
	serving := s.httpServer
	s.serving.Go(func() {
		if err := serving.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Logger.Error("serve", "error", err)
		}
	})
	return nil
}

// countConn counts connections, so that Close can wait for their goroutines.
func (s *Server) countConn(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.serving.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.serving.Done()
	}
}

func (s *Server) serveTracked(w http.ResponseWriter, r *http.Request) {
	if !s.enterRequest() {
		abortConnection()
	}
	defer s.requests.Done()
	s.handle(w, r)
}

func (s *Server) enterRequest() bool {
	s.gateMu.Lock()
	defer s.gateMu.Unlock()
	if !s.halted {
		s.requests.Add(1)
	}
	return !s.halted
}

func (s *Server) setHalted(v bool) {
	s.gateMu.Lock()
	defer s.gateMu.Unlock()
	s.halted = v
}

// Addr returns host:port.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// URL returns http://host:port. The SDK's base URLs are URL()+"/v1".
func (s *Server) URL() string { return "http://" + s.Addr() }

// Faults returns the faults of the server.
func (s *Server) Faults() *Faults { return s.faults }

// Usage returns all that was asked of the server since Open, across Restart.
func (s *Server) Usage() Usage {
	s.catalogueMu.RLock()
	defer s.catalogueMu.RUnlock()
	usages := s.catalogue.usages()
	usages[""] = &s.meter.basinCalls
	return s.meter.snapshot(usages)
}

// stopServing aborts every connection and waits for their goroutines. The caller holds mu.
func (s *Server) stopServing() error {
	s.setHalted(true)
	s.stop()
	err := s.httpServer.Close()
	s.requests.Wait()
	s.serving.Wait()
	return err
}

// Restart aborts every connection, opens the storage again and listens on the same port. In memory
// the records stay: only the listener restarts.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("s2dev: closed")
	}
	err := s.stopServing()
	if s.cfg.Dir != "" {
		if again := s.reopenStorage(); again != nil {
			return errors.Join(err, again)
		}
	}
	return errors.Join(err, s.listen())
}

func (s *Server) reopenStorage() error {
	s.catalogueMu.Lock()
	defer s.catalogueMu.Unlock()
	was, old := s.catalogue, s.catalogue.storage
	// If the folder does not open again, an empty memory takes its place until Close.
	s.catalogue = &catalogue{storage: &memoryStorage{}, now: s.cfg.Now, basins: map[string]*basinEntry{}}
	if err := old.close(); err != nil {
		return err
	}
	s.cfg.failure = newStorageFailure(s.cfg.Fatal)
	back, err := openStorage(s.cfg)
	if err != nil {
		return err
	}
	again, err := openCatalogue(back, s.cfg.Now)
	if err != nil {
		return errors.Join(err, back.close())
	}
	again.keepUsages(was)
	s.catalogue = again
	return nil
}

// Close aborts every connection, waits for every goroutine and closes the storage. It may be called
// again.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.stopServing()
	s.cancelClosing()
	s.sweeping.Wait()
	return errors.Join(err, s.catalogue.storage.close())
}

func openStorage(cfg Config) (storage, error) {
	if cfg.Dir != "" {
		d, err := openDisk(cfg)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	return &memoryStorage{maxBytes: cfg.MaxBytes}, nil
}
