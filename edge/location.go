package edge

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/fantail-dev/fantail/edge/byteclass"
)

// location returns the URL by which the client knows the stream. Proxies describe it in
// X-Forwarded-Proto, -Host, -Port and -Prefix, each of which counts only if it is valid.
func location(r *http.Request) string {
	scheme := "http"
	switch proto := strings.ToLower(lenientValue(r.Header, "X-Forwarded-Proto")); {
	case proto == "https", proto == "http":
		scheme = proto
	case r.TLS != nil:
		scheme = "https"
	}
	host := r.Host
	if h := lenientValue(r.Header, "X-Forwarded-Host"); isHost(h) {
		host = h
		port := lenientValue(r.Header, "X-Forwarded-Port")
		if _, _, err := net.SplitHostPort(h); err != nil && isPort(port) && port != map[string]string{"http": "80", "https": "443"}[scheme] {
			host = h + ":" + port
		}
	}
	prefix := strings.TrimRight(lenientValue(r.Header, "X-Forwarded-Prefix"), "/")
	if !strings.HasPrefix(prefix, "/") || strings.HasPrefix(prefix, "//") || !byteclass.All(prefix, byteclass.Target) || strings.ContainsAny(prefix, "?#\\") {
		prefix = ""
	}
	return scheme + "://" + host + prefix + r.URL.EscapedPath()
}

// isHost reports whether s is a host, with or without a port.
func isHost(s string) bool {
	return s != "" && byteclass.All(s, byteclass.Target) && !strings.ContainsAny(s, "/?#@\\,\"<>^`{|}%")
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && byteclass.All(s, byteclass.Digits)
}
