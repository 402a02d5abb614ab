package main

import (
	"context"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// logWindow is the time that the bounds below are for.
	logWindow = 10 * time.Second
	// logLines is how many lines of one message pass in a window; at debug, which somebody asked
	// for, debugLines.
	logLines   = 10
	debugLines = 1000
	// logSame is how many of them may have the same error.
	logSame = 3
	// logKeys bounds the messages, and the errors, that are counted apart. What comes beyond is
	// counted as one message a level.
	logKeys = 256
	// logPatience is how long a line waits for whatever reads the log.
	logPatience = 100 * time.Millisecond
)

// logFormat is text or json.
type logFormat string

// newLogger returns the process's logger. No line of it can flood the log, or hold the process up.
func newLogger(level slog.Level, format string) *slog.Logger {
	out := &outlet{w: os.Stderr, say: slog.New(newHandler(os.Stderr, level, format))}
	return slog.New(newLimiter(newHandler(out, level, format)))
}

func newHandler(w io.Writer, level slog.Level, format string) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// outlet writes lines to w for as long as w takes them. A pipe that nobody empties would stop
// every goroutine that has something to say: a line waits for logPatience, and while that line is
// under way all others are dropped and counted. An error of w is nobody's business: the log is
// lost then, and the node is not.
type outlet struct {
	w   io.Writer
	say *slog.Logger // writes to w how many lines were dropped

	mu   sync.Mutex
	busy bool // a line is under way
	lost int
}

// Write implements io.Writer.
func (o *outlet) Write(line []byte) (int, error) {
	o.mu.Lock()
	if o.busy {
		o.lost++
		o.mu.Unlock()
		return len(line), nil
	}
	o.busy = true
	o.mu.Unlock()
	whole := append([]byte(nil), line...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = o.w.Write(whole)
		for o.lag() {
		}
	}()
	t := time.NewTimer(logPatience)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
	return len(line), nil
}

// lag tells of lines that were dropped while one was under way; false: there are none.
func (o *outlet) lag() bool {
	o.mu.Lock()
	lost := o.lost
	o.lost = 0
	o.busy = lost > 0
	o.mu.Unlock()
	if lost > 0 {
		o.say.Warn("log lines were lost: nobody took them", "lines", lost)
	}
	return lost > 0
}

// limiter passes records on to a handler, of each message no more than logLines in logWindow. Of
// what it drops the last is passed on when the window ends, with the count. It holds at most
// logKeys windows, and two records in each.
type limiter struct {
	slog.Handler
	t *limits
}

// limits is what all handlers that are derived from one limiter count in.
type limits struct {
	mu      sync.Mutex
	windows map[logKey]*window
}

// logKey is a message, or one with one error. Digits count as equal: an address or a number in a
// text makes no other message of it.
type logKey struct {
	level slog.Level
	msg   string
	err   string
}

// window counts lines of one key.
type window struct {
	n       int
	dropped int
	last    slog.Record // that was dropped
	by      slog.Handler
}

func newLimiter(h slog.Handler) *limiter {
	return &limiter{Handler: h, t: &limits{windows: map[logKey]*window{}}}
}

// Handle implements slog.Handler.
func (l *limiter) Handle(ctx context.Context, r slog.Record) error {
	if !l.t.pass(l.Handler, r) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limiter{Handler: l.Handler.WithAttrs(attrs), t: l.t}
}

// WithGroup implements slog.Handler.
func (l *limiter) WithGroup(name string) slog.Handler {
	return &limiter{Handler: l.Handler.WithGroup(name), t: l.t}
}

// pass counts a record, and reports whether it may be written.
func (t *limits) pass(h slog.Handler, r slog.Record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	most := logLines
	if r.Level < slog.LevelInfo {
		most = debugLines
	}
	all := t.window(logKey{level: r.Level, msg: plain(r.Message)})
	if all.n >= most {
		all.drop(h, r)
		return false
	}
	same := all
	if err := errorOf(r); err != "" && r.Level >= slog.LevelInfo {
		same = t.window(logKey{r.Level, plain(r.Message), plain(err)})
	}
	if same != all && same.n >= logSame {
		same.drop(h, r)
		return false
	}
	all.n++
	if same != all {
		same.n++
	}
	return true
}

// window is the key's, or that of all keys of its level for which there is no room. The caller
// holds mu.
func (t *limits) window(k logKey) *window {
	if w := t.windows[k]; w != nil {
		return w
	}
	if len(t.windows) >= logKeys {
		if k = (logKey{level: k.level}); t.windows[k] != nil {
			return t.windows[k]
		}
	}
	w := &window{}
	t.windows[k] = w
	time.AfterFunc(logWindow, func() { t.end(k, w) })
	return w
}

func (w *window) drop(h slog.Handler, r slog.Record) {
	w.dropped++
	w.last, w.by = r.Clone(), h
}

// end tells of what a window has dropped.
func (t *limits) end(k logKey, w *window) {
	t.mu.Lock()
	if t.windows[k] == w {
		delete(t.windows, k)
	}
	dropped, last, by := w.dropped, w.last, w.by
	t.mu.Unlock()
	if dropped == 0 {
		return
	}
	last.Time = time.Now()
	last.AddAttrs(slog.Int("suppressed", dropped), slog.Duration("over", logWindow))
	_ = by.Handle(context.Background(), last)
}

// errorOf is the text of the record's error, if it has one.
func errorOf(r slog.Record) (text string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" || a.Key == "error" {
			text = a.Value.String()
			return false
		}
		return true
	})
	return text
}

// keyLength bounds a text in a key.
const keyLength = 256

// plain is a text with a # for each run of digits, at most keyLength of it.
func plain(s string) string {
	s = s[:min(len(s), keyLength)]
	if !strings.ContainsAny(s, "0123456789") {
		return strings.Clone(s)
	}
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if c := s[i]; c < '0' || c > '9' {
			out = append(out, c)
		} else if len(out) == 0 || out[len(out)-1] != '#' {
			out = append(out, '#')
		}
	}
	return string(out)
}

// serverLog is an http.Server's ErrorLog: what a client did is for debugging, a panic and an
// address that accepts nobody are not.
func serverLog(l *slog.Logger) *log.Logger { //nolint:forbidigo // http.Server wants one
	return slog.NewLogLogger(serverLines{l.Handler()}, slog.LevelInfo)
}

type serverLines struct{ slog.Handler }

// Enabled implements slog.Handler.
func (serverLines) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (s serverLines) Handle(ctx context.Context, r slog.Record) error {
	level := slog.LevelDebug
	switch {
	case strings.HasPrefix(r.Message, "http: panic"):
		level = slog.LevelError
	case strings.HasPrefix(r.Message, "http: Accept error"):
		level = slog.LevelWarn
	}
	if !s.Handler.Enabled(ctx, level) {
		return nil
	}
	line := slog.NewRecord(r.Time, level, "http server", r.PC)
	line.AddAttrs(slog.String("err", strings.TrimSpace(r.Message)))
	return s.Handler.Handle(ctx, line)
}
