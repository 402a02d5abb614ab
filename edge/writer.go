package edge

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// writer is a connection of HTTPAddr/1.1 without TLS that has brought several appends. Its requests
// go to the http.Server's Handler, as before, but not through net/http, which for each of them
// starts a goroutine that listens for the client's hanging up, stops it, and moves three
// deadlines: where the append itself is in memory, that costs more than the append. Here an append
// that has come is carried out whatever its client does, and sweep bounds for how long.
//
// A request that is not ordinary (see parse), or whose body does not come, goes back to net/http,
// with the connection and as it came. So that alone judges what is malformed, large, slow or
// rare, and who speaks in a way that parse does not know is served all the same. Of the
// http.Server's settings those that HTTPServer makes are kept, and no others.
type writer struct {
	x       *writers
	wire    *wire
	server  *http.Server
	handler http.Handler
	ctx     context.Context
	cancel  context.CancelFunc
	as      *http.Request // what each request has in common

	in    []byte        // has come; never more than fits
	next  *http.Request // is at the head of in; nil: not known yet
	size  int           // of next, with its body
	until time.Time     // how long the connection is read from
	begun bool          // in begins with next, and no more with empty lines
	timed bool          // until is for the rest of next

	asked atomic.Uint32 // is odd while the handler has next
	// Of that, by sweep: what it has seen, and for how many rounds.
	seen   uint32
	rounds int

	header http.Header // of the answer
	status int         // 0: nothing is said yet
	body   []byte
	date   date
	out    bytes.Buffer
}

const (
	// enoughAppends make a writer. Each time something else comes after all, it takes twice as many.
	enoughAppends = 4
	// writerRoom is the most that a request may have, head and body, and what waits for the next
	// one. It is what net/http gives a connection.
	writerRoom = 4 << 10
	// least is what net/http waits for before it looks at a request.
	least = 4
	// sweepEvery is how often sweep looks for requests that take too long.
	sweepEvery = time.Second
)

// preface begins HTTPAddr/2, for which it is too late here; net/http, to which the connection would
// be a new one, would speak it.
var preface = []byte("PRI * HTTP/2.0")

// writers are a Server's.
type writers struct {
	logger *slog.Logger
	enough int             // as many appends make a writer
	rounds int             // for so many of sweep a request may take
	ctx    context.Context // ends, under mu, when no more are taken
	stop   context.CancelFunc
	mu     sync.Mutex
	open   map[*writer]struct{}
	sweeps bool
	wg     sync.WaitGroup
}

func (x *writers) init(logger *slog.Logger) {
	x.logger, x.enough, x.open = logger, enoughAppends, map[*writer]struct{}{}
	x.rounds = int(wholeFor / sweepEvery)
	x.ctx, x.stop = context.WithCancel(context.Background())
}

func (x *writers) leaving() bool { return x.ctx.Err() != nil }

// take makes the connection a writer's if it has brought enough appends. The one that r is has
// been answered, and read to its end. Its Host is what others have to name as well.
func (x *writers) take(w http.ResponseWriter, r *http.Request) {
	wire := wireOf(r)
	if wire == nil || r.TLS != nil || r.Proto != "HTTP/1.1" || r.Host == "" || r.URL.Host != "" ||
		r.ContentLength <= 0 || r.ContentLength >= writerRoom || r.Header.Get("Expect") != "" ||
		r.Close || w.Header().Get("Connection") != "" || x.leaving() {
		return
	}
	if wire.appends++; wire.appends < max(wire.enough, x.enough) {
		return
	}
	server, _ := wire.base.Value(http.ServerContextKey).(*http.Server)
	if server == nil {
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack() // which sends the answer
	if err != nil {
		return
	}
	t := &writer{
		x: x, wire: wire, server: server, handler: server.Handler, header: http.Header{},
		in: make([]byte, rw.Reader.Buffered(), writerRoom),
		as: &http.Request{
			Method: http.MethodPost, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1, Host: r.Host, RemoteAddr: r.RemoteAddr,
		},
	}
	_, _ = io.ReadFull(rw.Reader, t.in) // it is there
	if t.handler == nil {
		t.handler = http.DefaultServeMux
	}
	t.ctx, t.cancel = context.WithCancel(context.WithValue(wire.base, http.LocalAddrContextKey, c.LocalAddr()))
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.leaving() {
		t.cancel()
		_ = c.Close()
		return
	}
	x.open[t] = struct{}{}
	x.wg.Go(t.run)
	if !x.sweeps {
		x.sweeps = true
		x.wg.Go(x.sweep)
	}
}

// sweep ends the contexts of requests that take too long (see whole), while there are writers.
func (x *writers) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for x.look() {
		select {
		case <-tick.C:
		case <-x.ctx.Done():
			return
		}
	}
}

// look is one round of sweep; more: there is somebody to look at.
func (x *writers) look() (more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for w := range x.open {
		asked := w.asked.Load()
		if asked%2 == 0 || asked != w.seen {
			w.seen, w.rounds = asked, 0
			continue
		}
		if w.rounds++; w.rounds >= x.rounds {
			w.cancel()
		}
	}
	x.sweeps = len(x.open) > 0
	return x.sweeps
}

// leave ends every writer, each once it has answered what it has been asked.
func (x *writers) leave() {
	x.end(func(w *writer) { _ = w.wire.SetReadDeadline(time.Unix(1, 0)) })
}

// end takes no more writers, and does something to all there are.
func (x *writers) end(do func(*writer)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stop()
	for w := range x.open {
		do(w)
	}
}

// close ends every writer at once and waits.
func (x *writers) close() {
	x.end(func(w *writer) {
		w.cancel()
		_ = w.wire.Close()
	})
	x.wg.Wait()
}

// shutdown is leave, and waits until they are gone.
func (x *writers) shutdown(ctx context.Context) error {
	x.leave()
	gone := make(chan struct{})
	go func() {
		x.wg.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *writer) run() {
	defer func() {
		w.cancel()
		w.x.mu.Lock()
		delete(w.x.open, w)
		w.x.mu.Unlock()
	}()
	for {
		err := w.await()
		switch {
		case err == nil:
			if w.answer() {
				continue
			}
		case w.x.leaving(), len(w.in) < least, bytes.HasPrefix(w.in, preface),
			errors.Is(err, os.ErrDeadlineExceeded) && w.next == nil: // net/http would not wait for it again
		default:
			w.giveBack()
			return
		}
		_ = w.wire.Close()
		return
	}
}

// await waits until next has come.
func (w *writer) await() error {
	for {
		if w.next == nil {
			if err := w.parse(); err != nil {
				return err
			}
		}
		if w.next != nil && len(w.in) >= w.size {
			if n := w.next.ContentLength; n > 0 {
				body := new(body)
				body.Reset(w.in[w.size-int(n) : w.size])
				w.next.Body = body
			}
			return nil
		}
		if err := w.fill(); err != nil {
			return err
		}
	}
}

// fill reads what comes, for as long as net/http would: from one request to the next, and from
// when something of it has come. The former is as exact as it need be to be seldom set.
func (w *writer) fill() error {
	now, set := time.Now(), false
	switch idle := cmp.Or(w.server.IdleTimeout, w.server.ReadTimeout, time.Hour); {
	case len(w.in) == 0 && !w.begun:
		if set = w.until.Before(now.Add(idle)); set {
			w.until = now.Add(idle + idle/4)
		}
	case !w.timed:
		w.timed, set = true, true
		w.until = now.Add(cmp.Or(w.server.ReadHeaderTimeout, w.server.ReadTimeout, time.Hour))
	}
	if set {
		if err := w.wire.SetReadDeadline(w.until); err != nil {
			return err
		}
	}
	if w.x.leaving() { // asked after the deadline was set, which leave sets after it says so
		return http.ErrServerClosed
	}
	n, err := w.wire.Read(w.in[len(w.in):cap(w.in)])
	w.in = w.in[:len(w.in)+n]
	return err
}

// answer has next answered. more: the connection goes on.
func (w *writer) answer() (more bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // as net/http does
			w.x.logger.Error("panic", "err", p, "stack", string(debug.Stack()))
		}
	}()
	clear(w.header)
	w.status, w.body = 0, w.body[:0]
	w.asked.Add(1)
	w.handler.ServeHTTP(w, w.next)
	w.asked.Add(1)
	w.in = w.in[:copy(w.in, w.in[w.size:])]
	w.next, w.begun, w.timed = nil, false, false
	return w.reply() == nil && !strings.EqualFold(w.header.Get("Connection"), "close")
}

// reply sends the answer.
func (w *writer) reply() error {
	w.WriteHeader(http.StatusOK)
	if w.status == http.StatusNoContent {
		w.header.Del("Content-Length")
	} else {
		w.header.Set("Content-Length", strconv.Itoa(len(w.body)))
	}
	w.header.Del("Date")
	if w.x.leaving() || w.ctx.Err() != nil { // which is the connection's
		w.header.Set("Connection", "close")
	}
	b := &w.out
	b.Reset()
	b.WriteString("HTTP/1.1 ")
	b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(w.status), 10))
	b.WriteByte(' ')
	b.WriteString(http.StatusText(w.status))
	b.WriteString("\r\nDate: ")
	b.Write(w.date.at(time.Now()))
	b.WriteString("\r\n")
	for name, values := range w.header {
		for _, v := range values {
			if strings.IndexByte(v, '\r') >= 0 || strings.IndexByte(v, '\n') >= 0 {
				v = oneLine.Replace(v)
			}
			b.WriteString(name)
			b.WriteString(": ")
			b.WriteString(v)
			b.WriteString("\r\n")
		}
	}
	b.WriteString("\r\n")
	b.Write(w.body)
	_, err := w.wire.Write(b.Bytes())
	return err
}

// Header implements http.ResponseWriter.
func (w *writer) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *writer) Write(b []byte) (int, error) {
	if w.WriteHeader(http.StatusOK); w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	w.body = append(w.body, b...)
	return len(b), nil
}

// oneLine is what net/http does to a value that would end its line.
var oneLine = strings.NewReplacer("\n", " ", "\r", " ")

// date is the value of the field of that name, which changes each second.
type date struct {
	second int64
	text   []byte
}

func (d *date) at(t time.Time) []byte {
	if s := t.Unix(); s != d.second {
		d.second, d.text = s, t.UTC().AppendFormat(d.text[:0], http.TimeFormat)
	}
	return d.text
}

// body is that of a request.
type body struct{ bytes.Reader }

// Close implements io.Closer.
func (*body) Close() error { return nil }

// SetReadDeadline is what http.ResponseController looks for. The body has come.
func (w *writer) SetReadDeadline(time.Time) error { return nil }

// giveBack has net/http serve the connection again, from what has come of the next request.
func (w *writer) giveBack() {
	_ = w.wire.SetReadDeadline(time.Time{})
	w.wire.ahead, w.wire.appends, w.wire.enough = w.in, 0, 2*max(w.wire.enough, w.x.enough)
	l := &returned{addr: w.wire.LocalAddr()}
	l.wire.Store(w.wire)
	_ = w.server.Serve(l) // returns at once
}

// returned is a listener with one connection, which is closed if the server takes no more.
type returned struct {
	wire atomic.Pointer[wire]
	addr net.Addr
}

// Accept implements net.Listener.
func (l *returned) Accept() (net.Conn, error) {
	if w := l.wire.Swap(nil); w != nil {
		return w, nil
	}
	return nil, io.EOF
}

// Close implements net.Listener.
func (l *returned) Close() error {
	if w := l.wire.Swap(nil); w != nil {
		return w.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (l *returned) Addr() net.Addr { return l.addr }
