package main

import (
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminRoutes are for operators and orchestrators, never on the public address.
func (n *node) adminRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", n.ready)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		mux.HandleFunc(method+" /admin/drain", n.drainRoute)
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// ready says whether a balancer should send requests here: joined, and not
// stopping. A failing S2 is no reason: reads go on from memory, and another node
// would fare no better.
func (n *node) ready(w http.ResponseWriter, _ *http.Request) {
	switch {
	case n.leaving.get() != stateServing:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case n.relay != nil && !n.relay.Ready():
		http.Error(w, "joining", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}
