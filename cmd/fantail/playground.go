package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/page"
)

// playground serves the page of `fantail dev`: the page of a node, with what kills and starts nodes.
// Its address is loopback, and refuses requests of other web pages, as an admin address does
// (refuseForeignOrigins): no page may kill a node through a developer's browser.
type playground struct {
	fleet    *devFleet
	log      *slog.Logger
	listener net.Listener
	server   *http.Server
	crowd    *crowd
	served   chan error // the end of the server; cap 1, never closed
}

// maxToyBody bounds the body of a request below /dev/.
const maxToyBody = 4 << 10

func openPlayground(ctx context.Context, f *devFleet, addr string, log *slog.Logger) (*playground, error) {
	var origins []string
	for _, p := range f.places {
		origins = append(origins, p.origin())
	}
	p := &playground{fleet: f, log: log, crowd: newCrowd(f.runningOrigins), served: make(chan error, 1)}
	var lc net.ListenConfig
	var err error
	if p.listener, err = lc.Listen(ctx, "tcp", addr); err != nil { // another program has the port; any will do
		if p.listener, err = lc.Listen(ctx, "tcp", loopbackAddr(0)); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	pages := page.NewHandler(page.Config{Playground: true, Connect: origins})
	for _, pattern := range page.Paths() {
		mux.Handle(pattern, pages)
	}
	mux.HandleFunc("GET /dev/nodes", p.handleNodes)
	mux.HandleFunc("POST /dev/nodes/{name}/{verb}", p.handleNode)
	mux.HandleFunc("POST /dev/readers", p.handleReaders)
	for _, path := range []string{"/admin/fleet", "/admin/node", "/admin/streams", "/admin/owner", "/metrics", "/readyz"} {
		mux.HandleFunc("GET "+path, p.forward)
	}
	p.server = newAdminServer(mux, true, log)
	go func() { p.served <- p.server.Serve(p.listener) }()
	return p, nil
}

func (p *playground) url() string { return "http://" + p.listener.Addr().String() + "/" }

// close ends the server once its requests are answered, and the readers.
func (p *playground) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), devStartTimeout)
	defer cancel()
	p.crowd.set("", 0)
	err := errors.Join(p.server.Shutdown(ctx), p.server.Close())
	if e := <-p.served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// forward has a node that runs answer what its admin address answers.
func (p *playground) forward(w http.ResponseWriter, r *http.Request) {
	for _, place := range p.fleet.places {
		if n := place.running(); n != nil {
			n.adminServer.Handler.ServeHTTP(w, r)
			return
		}
	}
	http.Error(w, "no node runs", http.StatusServiceUnavailable)
}

// toyReport is the answer of GET /dev/nodes.
type toyReport struct {
	Nodes   []toyNode   `json:"nodes"`
	Readers crowdReport `json:"readers"`
}

type toyNode struct {
	Name  string   `json:"name"`
	HTTP  string   `json:"http"`
	State devState `json:"state"`
}

func (p *playground) handleNodes(w http.ResponseWriter, _ *http.Request) {
	r := toyReport{Readers: p.crowd.report()}
	for _, place := range p.fleet.places {
		state, _ := place.current()
		r.Nodes = append(r.Nodes, toyNode{place.cfg.name, place.origin(), state})
	}
	writeJSON(w, r)
}

// handleNode kills, stops or starts a node.
func (p *playground) handleNode(w http.ResponseWriter, r *http.Request) {
	place := p.fleet.place(r.PathValue("name"))
	if place == nil {
		http.Error(w, "no such node", http.StatusNotFound)
		return
	}
	var err error
	switch r.PathValue("verb") {
	case "kill":
		err = place.kill()
	case "stop":
		err = place.stop()
	case "start":
		err = place.start(context.WithoutCancel(r.Context()), p.fleet.gossipAddrs())
	default:
		http.Error(w, "want kill, stop or start", http.StatusNotFound)
		return
	}
	switch {
	case errors.Is(err, errBusy):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		p.log.Error("playground", "node", place.cfg.name, "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		p.handleNodes(w, r)
	}
}

// handleReaders sets how many readers a stream has beside those of the page.
func (p *playground) handleReaders(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Stream  string `json:"stream"`
		Readers int    `json:"readers"`
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxToyBody))
	if err == nil {
		err = json.Unmarshal(body, &ask)
	}
	if err != nil || !strings.HasPrefix(ask.Stream, "/v1/stream/") || strings.ContainsAny(ask.Stream, "?#") {
		http.Error(w, `want {"stream": "/v1/stream/NAME", "readers": 100}`, http.StatusBadRequest)
		return
	}
	p.crowd.set(ask.Stream, min(max(ask.Readers, 0), maxCrowd))
	writeJSON(w, p.crowd.report())
}
