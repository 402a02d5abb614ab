package s2s

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"
)

// Config holds the settings of a Client.
type Config struct {
	// Token is the access token, sent with each session.
	Token string
	// UserAgent names the program.
	UserAgent string
	// Dial makes TCP connections; default: a net.Dialer with 3 s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is the base of the settings for https; nil: the defaults.
	TLS *tls.Config
	// Silence is the time without a frame after which a session counts as lost; default 20 s. S2
	// sends a heartbeat each 15 s at least.
	Silence time.Duration
	// Window bounds the bytes that wait in a read session for its consumer, beside the frame that
	// is arriving; default 64 KiB. It grows up to MaxWindow (4 MiB) where data comes quickly, from
	// WindowBytes (64 MiB), which all sessions share.
	Window, MaxWindow int32
	WindowBytes       int64
	// SendBuffer tells how many bytes the kernel should hold of a connection that are sent and not
	// acknowledged; 0: as it chooses.
	SendBuffer int
	// IdleTimeout is the time for which a connection without sessions is kept; default 90 s.
	IdleTimeout time.Duration
	// MaxConns bounds the connections to one endpoint; default 1,000.
	MaxConns int
}

const (
	dialTimeout      = 3 * time.Second
	handshakeTimeout = 5 * time.Second
)

func (c Config) withDefaults() Config {
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	if c.Silence <= 0 {
		c.Silence = 20 * time.Second
	}
	if c.Window <= 0 {
		c.Window = 64 << 10
	}
	if c.MaxWindow <= 0 {
		c.MaxWindow = 4 << 20
	}
	c.MaxWindow = max(c.MaxWindow, c.Window)
	if c.WindowBytes <= 0 {
		c.WindowBytes = 64 << 20
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 90 * time.Second
	}
	if c.MaxConns <= 0 {
		c.MaxConns = 1000
	}
	return c
}

// Target names a stream of S2.
type Target struct {
	// Base is the URL of the basin's endpoint, such as https://NAME.b.s2.dev/v1.
	Base string
	// Basin is sent as a header; empty where the endpoint's host names the basin.
	Basin string
	// Stream is the stream's name.
	Stream string
}

// Client opens sessions. It is safe for concurrent use.
type Client struct {
	cfg     Config
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	started time.Time
	windows windowBudget

	mu      sync.Mutex
	origins map[string]*origin // by Target.Base; bounded by the endpoints in the caller's settings
	closed  bool

	goroutines sync.WaitGroup
}

// NewClient returns a Client. It makes no connection yet.
func NewClient(cfg Config) *Client {
	c := &Client{cfg: cfg.withDefaults(), started: time.Now(), origins: map[string]*origin{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.windows.most = c.cfg.WindowBytes
	return c
}

// Close closes all connections, which ends all sessions with ErrClosed, and waits for the goroutines.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	origins := c.origins
	c.origins = nil
	c.mu.Unlock()
	c.cancel()
	for _, o := range origins {
		o.close()
	}
	c.goroutines.Wait()
	return nil
}

// start runs a goroutine that Close waits for. It returns false after Close.
func (c *Client) start(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.goroutines.Go(fn)
	return true
}

// now returns the time since the Client was made.
func (c *Client) now() time.Duration { return time.Since(c.started) }

func (c *Client) origin(base string) (*origin, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if o, ok := c.origins[base]; ok {
		return o, nil
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("s2s: endpoint: %w", err)
	}
	o := &origin{client: c, scheme: u.Scheme, host: u.Hostname(), authority: u.Host, path: u.EscapedPath()}
	port := u.Port()
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("s2s: endpoint %q is no http or https URL", base)
	case port == "" && u.Scheme == "http":
		port = "80"
	case port == "":
		port = "443"
	}
	o.addr = net.JoinHostPort(o.host, port)
	c.origins[base] = o
	return o, nil
}

// origin holds the connections to one endpoint.
type origin struct {
	client                              *Client
	scheme, host, addr, authority, path string

	mu      sync.Mutex // before conn.mu
	conns   []*conn
	dialing *dialAttempt
}

// dialAttempt is a connection in the making.
type dialAttempt struct {
	done    chan struct{} // closed when conn or err is set
	conn    *conn
	err     error
	waiters []func(error) // guarded by origin.mu: called when it is done
}

// failure returns why no session can be opened on what the attempt made, or nil.
func (a *dialAttempt) failure() error {
	if a.err == nil && a.conn.streamLimit() == 0 {
		return errNoRoom
	}
	return a.err
}

var errNoRoom = fmt.Errorf("%w: no connection has room for it", ErrNotTaken)

// openStream opens a stream for a session, on a new connection if the others are full.
func (o *origin) openStream(ctx context.Context, s *stream, q request) error {
	for {
		a, err := o.tryOpen(s, q)
		if a == nil {
			return err
		}
		select {
		case <-a.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := a.failure(); err != nil {
			return err
		}
	}
}

// startStream does what openStream does, for a caller that does not wait. false: again will be
// called.
func (o *origin) startStream(s *stream, q request, again func(error)) (bool, error) {
	for {
		a, err := o.tryOpen(s, q)
		if a == nil {
			return err == nil, err
		}
		o.mu.Lock()
		waits := o.dialing == a
		if waits {
			a.waiters = append(a.waiters, again)
		}
		o.mu.Unlock()
		if waits {
			return false, nil
		}
		if err := a.failure(); err != nil { // it is done by now
			return false, err
		}
	}
}

// tryOpen opens a stream on a connection that has room. If none has, it returns the attempt to make
// one more. Both results are nil if the stream is open.
func (o *origin) tryOpen(s *stream, q request) (*dialAttempt, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.conns {
		if c.open(s, q) {
			return nil, nil
		}
	}
	if o.dialing != nil {
		return o.dialing, nil
	}
	if len(o.conns) >= o.client.cfg.MaxConns {
		return nil, errNoRoom
	}
	a := &dialAttempt{done: make(chan struct{})}
	if !o.client.start(func() { o.dial(a) }) {
		return nil, ErrClosed
	}
	o.dialing = a
	return a, nil
}

// dial makes a connection. It outlives the sessions that wait for it: they may give up.
func (o *origin) dial(a *dialAttempt) {
	nc, err := o.connect()
	o.mu.Lock()
	if a.err = err; err == nil {
		a.err = o.addConn(a, nc)
	}
	o.dialing = nil
	close(a.done)
	o.mu.Unlock()
	err = a.failure()
	for _, again := range a.waiters {
		again(err)
	}
}

// addConn begins HTTP/2 on a new connection, under mu.
func (o *origin) addConn(a *dialAttempt, nc net.Conn) error {
	c := newConn(o, nc)
	if !c.start() {
		_ = nc.Close()
		return ErrClosed
	}
	a.conn, o.conns = c, append(o.conns, c)
	return nil
}

// connect returns a connection on which HTTP/2 can begin.
func (o *origin) connect() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(o.client.ctx, dialTimeout+handshakeTimeout)
	defer cancel()
	nc, err := o.client.cfg.Dial(ctx, "tcp", o.addr)
	if err != nil {
		return nil, fmt.Errorf("s2s: %w", err)
	}
	widenSendBuffer(nc, o.client.cfg.SendBuffer)
	if o.scheme == "http" {
		return nc, nil
	}
	cfg := &tls.Config{}
	if o.client.cfg.TLS != nil {
		cfg = o.client.cfg.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = o.host
	}
	cfg.NextProtos = []string{"h2"}
	tc := tls.Client(nc, cfg)
	if err = tc.HandshakeContext(ctx); err == nil && tc.ConnectionState().NegotiatedProtocol != "h2" {
		err = errors.New("the server does not speak HTTP/2")
	}
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("s2s: TLS with %s: %w", o.addr, err)
	}
	return tc, nil
}

// remove forgets a connection that has ended.
func (o *origin) remove(c *conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, have := range o.conns {
		if have == c {
			o.conns = append(o.conns[:i:i], o.conns[i+1:]...)
			return
		}
	}
}

func (o *origin) close() {
	o.mu.Lock()
	conns := o.conns
	o.conns = nil
	o.mu.Unlock()
	for _, c := range conns {
		c.fail(ErrClosed)
	}
}
