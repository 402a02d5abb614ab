package edge

import (
	"net"
	"net/http"
	"strconv"
	"strings"
)

// location is the URL under which the client knows what it asked for: what stands between says
// so in X-Forwarded-Proto, -Host, -Port and -Prefix, each of which counts if it can be one.
func location(r *http.Request) string {
	scheme := "http"
	switch proto := strings.ToLower(soft(r.Header, "X-Forwarded-Proto")); {
	case proto == "https", proto == "http":
		scheme = proto
	case r.TLS != nil:
		scheme = "https"
	}
	host := r.Host
	if h := soft(r.Header, "X-Forwarded-Host"); isHost(h) {
		host = h
		port := soft(r.Header, "X-Forwarded-Port")
		if _, _, err := net.SplitHostPort(h); err != nil && isPort(port) && port != map[string]string{"http": "80", "https": "443"}[scheme] {
			host = h + ":" + port
		}
	}
	prefix := strings.TrimRight(soft(r.Header, "X-Forwarded-Prefix"), "/")
	if !strings.HasPrefix(prefix, "/") || strings.HasPrefix(prefix, "//") || !all(prefix, inTarget) || strings.ContainsAny(prefix, "?#\\") {
		prefix = ""
	}
	return scheme + "://" + host + prefix + r.URL.EscapedPath()
}

// isHost reports whether s is a host, with or without a port.
func isHost(s string) bool {
	return s != "" && all(s, inTarget) && !strings.ContainsAny(s, "/?#@\\,\"<>^`{|}%")
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && all(s, inDigits)
}
