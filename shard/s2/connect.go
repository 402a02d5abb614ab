package s2

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// managedEndpoint is the account's endpoint of the managed S2. managedBasinSuffix ends the host
// name of each of its basins.
const (
	managedEndpoint    = "https://a.s2.dev"
	managedBasinSuffix = ".b.s2.dev"
)

// maxIdleConns bounds the idle connections to S2 that are kept. With the SDK's own limit of two, most
// calls of a busy node would make a new connection.
const maxIdleConns = 1024

// connect sets the transport to S2. base returns the URL that the SDK calls for a basin; nil: the
// SDK's own choice.
func (l *Log) connect() (base func(basin string) string, err error) {
	cfg := &l.cfg
	at := cfg.Endpoint
	if at == "" {
		at = managedEndpoint
	}
	u, err := url.Parse(at)
	if err != nil {
		return nil, fmt.Errorf("s2: endpoint: %w", err)
	}
	proxy, err := cfg.proxy(u)
	if err != nil {
		return nil, fmt.Errorf("s2: the proxy for %s: %w", u.Host, err)
	}
	dialer := &net.Dialer{Timeout: 3 * time.Second}
	switch {
	case proxy != nil:
		t := cfg.newTransport(dialer)
		t.Proxy = func(r *http.Request) (*url.URL, error) { return cfg.proxy(r.URL) }
		if l.bridge, err = newBridge(t, cfg); err != nil {
			return nil, err
		}
		l.transport = l.bridge
		cfg.Logger.Info("S2 is reached through a proxy", "s2", at, "proxy", proxy.Redacted())
		return l.bridge.baseURL, nil
	case u.Scheme == "http":
		l.transport = &http1Transport{dial: dialer.DialContext, maxIdle: maxIdleConns}
	default:
		l.transport = cfg.newTransport(dialer)
	}
	if cfg.Endpoint == "" {
		return nil, nil
	}
	return func(string) string { return cfg.Endpoint + "/v1" }, nil
}

func (c *Config) newTransport(dialer *net.Dialer) *http.Transport {
	return &http.Transport{
		DialContext:         dialer.DialContext,
		MaxIdleConns:        4 * maxIdleConns,
		MaxIdleConnsPerHost: maxIdleConns,
		IdleConnTimeout:     maxIdleTime,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 5 * time.Second,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// bridge sends calls to S2 through a proxy. The SDK opens read sessions with an HTTP client of its
// own, which supports no proxies. For it, the bridge runs a server on loopback that forwards the
// requests with our token. Unary calls use the bridge as their transport, without that server.
type bridge struct {
	transport *http.Transport
	cfg       *Config
	listener  net.Listener
	server    *http.Server
	serving   sync.WaitGroup
}

func newBridge(out *http.Transport, cfg *Config) (*bridge, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("s2: bridge to the proxy: %w", err)
	}
	b := &bridge{transport: out, cfg: cfg, listener: ln}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	pass := &httputil.ReverseProxy{
		Transport: b, FlushInterval: -1, Rewrite: func(*httputil.ProxyRequest) {},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			cfg.Logger.Debug("bridge to the proxy", "err", err)
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	token := []byte("Bearer " + cfg.Token)
	b.server = &http.Server{
		Protocols: &p, ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), token) != 1 {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			pass.ServeHTTP(w, r)
		}),
	}
	b.serving.Go(func() {
		if err := b.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			cfg.Logger.Error("bridge to the proxy", "err", err)
		}
	})
	return b, nil
}

// baseURL returns the URL that the SDK calls for a basin; "" stands for the account.
func (b *bridge) baseURL(string) string { return "http://" + b.listener.Addr().String() + "/v1" }

// RoundTrip implements http.RoundTripper: it sends a request for the bridge to the host of its
// basin.
func (b *bridge) RoundTrip(req *http.Request) (*http.Response, error) {
	r := req.Clone(req.Context())
	at := b.cfg.Endpoint
	if at == "" {
		at = managedEndpoint
		if basin := r.Header.Get("S2-Basin"); basin != "" {
			at = "https://" + basin + managedBasinSuffix
			r.Header.Del("S2-Basin")
		}
	}
	u, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	r.URL.Scheme, r.URL.Host, r.Host, r.RequestURI = u.Scheme, u.Host, u.Host, ""
	if u.Path != "" {
		r.URL.RawPath = u.Path + r.URL.EscapedPath()
		r.URL.Path = u.Path + r.URL.Path
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded-") {
			r.Header.Del(name)
		}
	}
	return b.transport.RoundTrip(r)
}

// CloseIdleConnections implements transport.
func (b *bridge) CloseIdleConnections() { b.transport.CloseIdleConnections() }

func (b *bridge) close() error {
	err := b.server.Close()
	b.serving.Wait()
	return err
}
