package main

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fantail-dev/fantail/cluster"
)

// adminRoutes are for operators and orchestrators, never on the public address.
// newAdminServer guards them.
func (n *node) adminRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", n.ready)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		mux.HandleFunc(method+" /admin/drain", n.drainRoute)
	}
	if n.cfg.pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	if n.cfg.token != nil {
		return n.cfg.token.protect(mux)
	}
	return mux
}

// ready says whether a balancer should send requests here: joined, and not
// stopping. A failing S2 is no reason: reads go on from memory, and another node
// would fare no better.
func (n *node) ready(w http.ResponseWriter, _ *http.Request) {
	switch state, final := n.leaving.get(); {
	case final:
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case state != stateServing:
		http.Error(w, string(state), http.StatusServiceUnavailable)
	case n.relay != nil && !n.relay.Ready():
		why := unready(n.relay.View(), n.relay.Self(), time.Now())
		if tried := n.relay.JoinErrors(); tried != "" {
			why += "\ncannot join: " + tried
		}
		http.Error(w, why, http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}

// unready is why a node that serves has no share of the streams, or not all of it.
func unready(v *cluster.View, self string, now time.Time) string {
	me := v.Member(self)
	if me == nil {
		return "joining"
	}
	switch {
	case me.StartAt == cluster.Never:
		return "joining: still looking for other nodes"
	case uint64(now.UnixMilli()) < me.StartAt:
		return "joining: owns streams from " + time.UnixMilli(int64(me.StartAt)).UTC().Format(time.RFC3339) + " on"
	case v.HiddenBy(self, now) != nil:
		return "another node has started with the same name"
	case me.Flags&cluster.FlagNoStore != 0:
		return "S2 answers other nodes and not this one"
	}
	return "joining: streams in use are on their way here"
}
