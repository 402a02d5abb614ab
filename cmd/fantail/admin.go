package main

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cmd/fantail/internal/page"
	"github.com/fantail-dev/fantail/shard"
)

// adminHandler returns the handler for operators and orchestrators. It is never served on the
// public address. newAdminServer protects it.
func (n *node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", n.handleReady)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		mux.HandleFunc(method+" /admin/drain", n.handleDrain)
	}
	pages := page.NewHandler(page.Config{})
	for _, pattern := range page.Paths() {
		mux.Handle(pattern, pages)
	}
	mux.HandleFunc("GET /admin/node", n.handleNode)
	mux.HandleFunc("GET /admin/fleet", n.handleFleet)
	mux.HandleFunc("GET /admin/streams", n.handleStreams)
	mux.HandleFunc("GET /admin/owner", n.handleOwner)
	if n.cfg.pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	mux.HandleFunc("GET "+loginPath, n.handleLoginForm)
	mux.HandleFunc("POST "+loginPath, n.handleLogin)
	mux.HandleFunc("POST "+logoutPath, n.handleLogout)
	mux.HandleFunc("POST /admin/revoke", n.handleRevoke)
	mux.HandleFunc("GET /admin/revocations", n.handleRevocations)
	return n.requireAdmin(mux)
}

// requireAdmin refuses requests without an operator's token, where there are such tokens: that of
// --admin-token-file, and those of the file of rights. Health is open: kubelet has no token. So are
// the page, which has nothing to hide and asks for the token, and the login.
func (n *node) requireAdmin(next http.Handler) http.Handler {
	file := n.cfg.adminToken
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		judged := n.judge != nil && n.judge.NeedsAdminToken()
		switch {
		case isHealth(r.URL.Path), page.IsPath(r.URL.Path), r.URL.Path == loginPath, file == nil && !judged, file != nil && file.isAllowed(r):
			next.ServeHTTP(w, r)
			return
		case !judged:
			w.Header().Set("WWW-Authenticate", `Bearer realm="fantail admin"`)
			http.Error(w, "want Authorization: Bearer and the token of --admin-token-file", http.StatusUnauthorized)
			return
		}
		name, denial := n.judge.Admin(r, n.adminCookieKey[:])
		if denial != nil {
			w.Header().Set("WWW-Authenticate", denial.Challenge)
			http.Error(w, denial.Detail, denial.Status)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			n.cfg.log.Info("operator", "token", name, "method", r.Method, "path", r.URL.Path)
		}
		next.ServeHTTP(w, r)
	})
}

// isAdminOpen reports whether other machines reach the admin address and need no token for it.
func (n *node) isAdminOpen() bool {
	return n.cfg.adminToken == nil && (n.judge == nil || !n.judge.NeedsAdminToken()) && !isLoopback(n.adminListener.Addr())
}

// handleReady answers whether a balancer should send requests here: S2 has answered this node with
// its own settings, the node has joined, and it is not stopping. A later failure of S2 is no reason
// for "not ready": reads are served from memory, and another node could do no better. A refusal of
// this node by S2 is a reason.
func (n *node) handleReady(w http.ResponseWriter, _ *http.Request) {
	if why := n.notReadyReason(time.Now()); why != "" {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// notReadyReason returns why the node is not ready; empty: it is ready.
func (n *node) notReadyReason(now time.Time) string {
	auth := n.authNotReady()
	switch state, final := n.departure.current(); {
	case final:
		return "stopping"
	case state != stateServing:
		return string(state)
	case auth != "":
		return auth
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

// notOwningReason returns why a serving node owns none of its share of the streams, or only a part.
func notOwningReason(v *placement.View, self string, now time.Time) string {
	me := v.Member(self)
	if me == nil {
		return "joining"
	}
	switch {
	case me.OwnsFrom == placement.Never:
		return "joining: still looking for other nodes"
	case shard.Millis(now.UnixMilli()) < me.OwnsFrom:
		return "joining: owns streams from " + time.UnixMilli(int64(me.OwnsFrom)).UTC().Format(time.RFC3339) + " on"
	case v.SupersededBy(self, now) != nil:
		return "another node has started with the same name"
	case me.Flags&placement.FlagStoreDown != 0:
		return "S2 answers other nodes and not this one"
	}
	return "joining: streams in use are on their way here"
}
