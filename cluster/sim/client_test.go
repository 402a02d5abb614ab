package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// silenceTimeout is the time without a byte after which a reader takes its connection for dead, as
// transport.SilenceTimeout is for a peer. A heartbeat comes sooner.
const silenceTimeout = 2 * heartbeat

// minRetry is the least pause that a reader may be told to make before it comes back.
const minRetry = 500 * time.Millisecond

// stream is one stream of the run.
type stream struct {
	name string // project/name
	json bool
	ttl  int // seconds; 0: none
}

// Streams in use have a TTL that would end within the run if uses were lost. Resting streams have
// one that ends after the run, unless a clock that is off ends them.
const (
	ttlWhileUsed   = 60
	restingStreams = 4
	restingTTL     = 900
)

func (st *stream) contentType() string {
	if st.json {
		return "application/json"
	}
	return "text/plain"
}

// client holds what readers and writers have in common: a machine of their own.
type client struct {
	s    *sim
	name string
	st   *stream
	port *port
	http *http.Client
	rnd  *rand.Rand // owned by the client's goroutine
}

func (s *sim) client(name string, st *stream, keep bool) client {
	s.mu.Lock()
	s.clients++
	ip := fmt.Sprintf("10.1.%d.%d", s.clients/200, 1+s.clients%200)
	s.mu.Unlock()
	p := s.net.machine(ip).boot()
	return client{s: s, name: name, st: st, port: p, rnd: s.newRand(), http: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				return p.Dial(ctx, addr)
			},
			DisableKeepAlives: !keep, DisableCompression: true, IdleConnTimeout: 30 * time.Second,
		},
	}}
}

// pickReady returns a process that the balancer holds for ready.
func (c *client) pickReady() *process {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if len(c.s.ready) == 0 {
		return nil
	}
	return c.s.ready[c.rnd.IntN(len(c.s.ready))]
}

// sleepUnlessDone waits; false: the client is to end.
func sleepUnlessDone(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *client) request(ctx context.Context, p *process, method, query string, body []byte) *http.Request {
	url := "http://" + net.JoinHostPort(p.n.ip, portHTTP) + "/v1/stream/" + c.st.name + query
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		panic(err)
	}
	return req
}

// problemOf returns a short text of a refusal.
func problemOf(resp *http.Response) string {
	b, _ := io.ReadAll(resp.Body)
	var doc struct{ Type, Detail string }
	_ = json.Unmarshal(b, &doc)
	return fmt.Sprintf("%d %s %s", resp.StatusCode, doc.Type[strings.LastIndexByte(doc.Type, '/')+1:], doc.Detail)
}

// token is one message as a client knows it: its name, and its whole length.
type token struct {
	key  string
	size int
}

// parseTokens returns the messages in what a reader got. Each is a name, perhaps with filling after
// a colon, and a semicolon; in JSON they are strings of an array.
func parseTokens(data string) (all []token, err error) {
	for {
		data = strings.TrimLeft(data, "[]\", \n\r")
		if data == "" {
			return all, nil
		}
		one, rest, ok := strings.Cut(data, ";")
		if !ok {
			return all, fmt.Errorf("a piece of a message: %.60q", data)
		}
		key, fill, _ := strings.Cut(one, ":")
		if strings.Trim(fill, "x") != "" || key == "" {
			return all, fmt.Errorf("not a message: %.60q", one)
		}
		all = append(all, token{key, len(one)})
		data = rest
	}
}

// delivery is a run of messages that arrived together.
type delivery struct {
	token
	receivedAt time.Time
	opened     time.Time // when the connection that brought it was opened
	process    *process
	after      string // the offset behind it; empty: not known
}

// reader reads one stream, again and again from its last offset.
type reader struct {
	client
	from string // the first offset
	poll bool   // by long-poll

	mu          sync.Mutex
	offset      string // offset
	firstOffset string // the first offset that the server named
	got         []delivery
	process     *process // connected to
	opens       int
}

func (r *reader) run(ctx context.Context) {
	retry := time.Second
	r.offset = r.from
	for ctx.Err() == nil {
		p := r.pickReady()
		if p == nil {
			sleepUnlessDone(ctx, 200*time.Millisecond)
			continue
		}
		var err error
		if r.poll {
			err = r.longPoll(ctx, p)
		} else {
			err = r.sse(ctx, p, &retry)
		}
		if r.poll && err == nil {
			continue
		}
		sleepUnlessDone(ctx, retry/2+time.Duration(r.rnd.Int64N(int64(retry))))
	}
}

// sse makes one connection of an EventSource.
func (r *reader) sse(ctx context.Context, p *process, retry *time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silenceTimeout, func() { cancel(errSilence) })
	defer quiet.Stop()
	req := r.request(ctx, p, "GET", "?live=sse&offset="+r.from, nil)
	req.Header.Set("Accept", "text/event-stream")
	if r.offset != r.from {
		req.Header.Set("Last-Event-ID", r.offset)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r.s.failf("%s%s: an EventSource gets %s from %s at %s", checkNotEarly(resp), r.name, problemOf(resp), p.n.name, r.offset)
		return errRefused
	}
	r.mu.Lock()
	r.process = p
	r.opens++
	r.mu.Unlock()
	err = r.events(resp.Body, p, quiet, retry)
	r.mu.Lock()
	r.process = nil
	r.mu.Unlock()
	if ctx.Err() == nil || errors.Is(context.Cause(ctx), errSilence) {
		r.s.noteClosed(r, p, errors.Join(err, context.Cause(ctx)))
	}
	return err
}

var (
	errSilence = errors.New("silence")
	errRefused = errors.New("refused")
)

// events reads an event stream to its end.
func (r *reader) events(body io.Reader, p *process, quiet *time.Timer, retry *time.Duration) error {
	opened := time.Now()
	in := bufio.NewReaderSize(body, 4<<10)
	var id, name string
	var data []byte
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err // an event that is cut short does not count
		}
		quiet.Reset(silenceTimeout)
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = append(append(data, value...), '\n')
		case "retry":
			if ms, err := strconv.Atoi(value); err == nil {
				*retry = time.Duration(ms) * time.Millisecond
				if *retry < minRetry {
					r.s.failf("I4: %s is to come back to the fleet in %v", r.name, *retry)
					*retry = minRetry
				}
			}
		}
		if line == "\n" && (id != "" || data != nil) {
			r.event(id, name, string(data), p, opened)
			id, name, data = "", "", nil
		}
	}
}

func (r *reader) event(id, name, data string, p *process, opened time.Time) {
	var all []token
	if name == "data" {
		var err error
		if all, err = parseTokens(data); err != nil {
			r.s.failf("I1: %s: %v", r.name, err)
		}
	}
	r.noteMessages(id, all, p, opened)
}

// noteMessages records messages, and the offset after them.
func (r *reader) noteMessages(after string, all []token, p *process, opened time.Time) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.firstOffset == "" {
		r.firstOffset = after
		if len(all) > 0 {
			r.firstOffset = r.from
		}
	}
	if after != "" {
		if after < r.offset && r.offset != r.from {
			r.s.failf("I1: %s: offset %s after %s", r.name, after, r.offset)
		}
		r.offset = after
	}
	for i, k := range all {
		d := delivery{token: k, receivedAt: now, opened: opened, process: p}
		if i == len(all)-1 {
			d.after = after
		}
		r.got = append(r.got, d)
	}
	r.s.progress(len(all))
}

// longPoll makes one request of a reader by long-poll.
func (r *reader) longPoll(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	opened := time.Now()
	resp, err := r.http.Do(r.request(ctx, p, "GET", "?live=long-poll&offset="+r.offset, nil))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return errRefused
	default:
		r.s.failf("%s: a long-poll gets %s from %s at %s", r.name, problemOf(resp), p.n.name, r.offset)
		return errRefused
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	all, err := parseTokens(string(body))
	if err != nil {
		r.s.failf("I1: %s: %v", r.name, err)
	}
	r.noteMessages(resp.Header.Get("Stream-Next-Offset"), all, p, opened)
	return nil
}

// outcome holds what a writer knows of a message.
type outcome uint8

const (
	unknown outcome = iota
	acked
	refused
)

// sent is one message of a writer.
type sent struct {
	token
	seq     uint64
	first   time.Time // first sent
	done    time.Time // answered
	offset  string    // the answer's
	outcome outcome
}

// lostAnswerEvery makes a producer send one message in so many again although it was acknowledged:
// its answer is lost on the last hop, which no fault of the fleet's own network makes happen often
// enough.
const lostAnswerEvery = 20

// writer writes to one stream, one message after the other.
type writer struct {
	client
	producer bool
	pace     time.Duration
	large    bool // some messages are

	mu  sync.Mutex
	all []sent
}

func (w *writer) run(ctx context.Context) {
	for i := 0; sleepUnlessDone(ctx, w.pace/2+time.Duration(w.rnd.Int64N(int64(w.pace)))); i++ {
		m := sent{token: token{key: fmt.Sprintf("%s-%d", w.name, i)}, seq: uint64(i), first: time.Now()}
		text := m.key
		if n := w.messageSize(); n > 0 {
			text += ":" + strings.Repeat("x", n)
		}
		m.size = len(text)
		body := text + ";"
		if w.st.json {
			body = `"` + body + `"`
		}
		for try := 0; ; try++ {
			m.outcome, m.offset = w.post(ctx, []byte(body), m.seq)
			if w.producer && m.outcome == acked && try == 0 && m.seq%lostAnswerEvery == lostAnswerEvery-1 {
				m.outcome = unknown
			}
			if !w.producer || m.outcome == acked || ctx.Err() != nil {
				break
			}
			if !sleepUnlessDone(ctx, time.Duration(w.rnd.Int64N(int64(300*time.Millisecond)))) {
				break
			}
		}
		if w.producer && m.outcome == refused {
			m.outcome = unknown // some attempt may have been carried out
		}
		m.done = time.Now()
		w.mu.Lock()
		w.all = append(w.all, m)
		w.mu.Unlock()
	}
}

// messageSize makes some messages larger than a frame, and a few larger than a record.
func (w *writer) messageSize() int {
	switch p := w.rnd.Float64(); {
	case !w.large:
		return 0
	case p < 0.002:
		return 1200 << 10
	case p < 0.03:
		return w.rnd.IntN(150 << 10)
	default:
		return w.rnd.IntN(200)
	}
}

// post tries once, at a node that the balancer holds for ready.
func (w *writer) post(ctx context.Context, body []byte, seq uint64) (outcome, string) {
	p := w.pickReady()
	if p == nil {
		return refused, ""
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req := w.request(ctx, p, "POST", "", body)
	req.Header.Set("Content-Type", w.st.contentType())
	if w.producer {
		req.Header.Set("Producer-Id", w.name)
		req.Header.Set("Producer-Epoch", "0")
		req.Header.Set("Producer-Seq", strconv.FormatUint(seq, 10))
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return unknown, ""
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return acked, resp.Header.Get("Stream-Next-Offset")
	}
	why := problemOf(resp)
	switch {
	case resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests:
		w.s.failf("%s%s: a write gets %s from %s", checkNotEarly(resp), w.name, why, p.n.name)
		return unknown, ""
	case strings.Contains(why, "outcome-unknown"), strings.Contains(why, "timeout"):
		return unknown, ""
	}
	return refused, ""
}

// create creates the stream.
func (c *client) create(ctx context.Context) {
	for ctx.Err() == nil {
		if p := c.pickReady(); p != nil {
			req := c.request(ctx, p, "PUT", "", nil)
			req.Header.Set("Content-Type", c.st.contentType())
			if c.st.ttl > 0 {
				req.Header.Set("Stream-TTL", strconv.Itoa(c.st.ttl))
			}
			resp, err := c.http.Do(req)
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode < 300 {
					return
				}
			}
		}
		sleepUnlessDone(ctx, 100*time.Millisecond)
	}
}

// checkNotEarly returns the invariant that an answer breaks which says that there is no such
// stream.
func checkNotEarly(resp *http.Response) string {
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone {
		return "E1: "
	}
	return ""
}

// visitRestingStream creates the stream, and asks for it now and then, which is no use of it, and
// not often enough for a session.
func (c *client) visitRestingStream(ctx context.Context) {
	c.create(ctx)
	for sleepUnlessDone(ctx, 8*time.Second+time.Duration(c.rnd.Int64N(int64(8*time.Second)))) {
		p := c.pickReady()
		if p == nil {
			continue
		}
		resp, err := c.http.Do(c.request(ctx, p, "HEAD", "", nil))
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if what := checkNotEarly(resp); what != "" {
			c.s.failf("%s%s: %d from %s long before its time", what, c.st.name, resp.StatusCode, p.n.name)
			return
		}
	}
}

// readHistory reads the whole stream in chunks, from any nodes.
func (c *client) readHistory(ctx context.Context) (all []token, err error) {
	at := "-1"
	for ctx.Err() == nil {
		p := c.pickReady()
		resp, err := c.http.Do(c.request(ctx, p, "GET", "?offset="+at, nil))
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%d from %s: %w", resp.StatusCode, p.n.name, err)
		}
		some, err := parseTokens(string(body))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		at = resp.Header.Get("Stream-Next-Offset")
		if resp.Header.Get("Stream-Up-To-Date") == "true" {
			return all, nil
		}
	}
	return nil, context.Cause(ctx)
}
