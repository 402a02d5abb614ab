package main

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fantail-dev/fantail/cluster"
)

// adminHandler are for operators and orchestrators, never on the public address.
// newAdminServer guards them.
func (n *node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", n.handleReady)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		mux.HandleFunc(method+" /admin/drain", n.handleDrain)
	}
	if n.cfg.pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	if n.cfg.adminToken != nil {
		return n.cfg.adminToken.requireToken(mux)
	}
	return mux
}

// handleReady says whether a balancer should send requests here: S2 has answered this node with its
// own settings, it has joined, and is not stopping. That S2 fails later is no reason: reads go
// on from memory, and another node would fare no better. That it refuses this node is one.
func (n *node) handleReady(w http.ResponseWriter, _ *http.Request) {
	if why := n.notReadyReason(time.Now()); why != "" {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// notReadyReason is why the node is not ready; empty: it is.
func (n *node) notReadyReason(now time.Time) string {
	switch state, final := n.departure.current(); {
	case final:
		return "stopping"
	case state != stateServing:
		return string(state)
	case n.relay == nil:
		return n.manager.Standing().Trouble(now)
	}
	if why := n.relay.NotReadyReason(); why != "" {
		return why
	}
	if n.relay.Ready() {
		return ""
	}
	why := notOwningReason(n.relay.View(), n.relay.Name(), now)
	if tried := n.relay.JoinErrors(); tried != "" {
		why += "\ncannot join: " + tried
	}
	return why
}

// notOwningReason is why a node that serves has no share of the streams, or not all of it.
func notOwningReason(v *cluster.View, self string, now time.Time) string {
	me := v.Member(self)
	if me == nil {
		return "joining"
	}
	switch {
	case me.OwnsFrom == cluster.Never:
		return "joining: still looking for other nodes"
	case uint64(now.UnixMilli()) < me.OwnsFrom:
		return "joining: owns streams from " + time.UnixMilli(int64(me.OwnsFrom)).UTC().Format(time.RFC3339) + " on"
	case v.SupersededBy(self, now) != nil:
		return "another node has started with the same name"
	case me.Flags&cluster.FlagNoStore != 0:
		return "S2 answers other nodes and not this one"
	}
	return "joining: streams in use are on their way here"
}
