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
	// logWindow is the time for which the following bounds hold.
	logWindow = 10 * time.Second
	// maxLines bounds the lines of one message in a window. maxDebugLines does so at level debug,
	// which an operator has asked for.
	maxLines      = 10
	maxDebugLines = 1000
	// maxSameError bounds those of them with the same error.
	maxSameError = 3
	// maxLogKeys bounds the messages and errors that are counted separately. Beyond it, all further
	// messages of a level count as one.
	maxLogKeys = 256
	// logWriteTimeout bounds the wait of a line for the reader of the log.
	logWriteTimeout = 100 * time.Millisecond
)

// logFormat is text or json.
type logFormat string

// newLogger returns the process's logger. It never floods the log, and never blocks its caller for
// longer than logWriteTimeout.
func newLogger(level slog.Level, format string) *slog.Logger {
	out := &lossyWriter{w: os.Stderr, lossLogger: slog.New(newHandler(os.Stderr, level, format))}
	return slog.New(newLimiter(newHandler(out, level, format)))
}

func newHandler(w io.Writer, level slog.Level, format string) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// lossyWriter writes lines to w for as long as w takes them. A pipe without a reader would block
// every goroutine that logs. A line therefore waits for logWriteTimeout, and while that line is
// still being written, all others are dropped and counted. Errors of w are ignored: the log is lost
// then, but the node goes on.
type lossyWriter struct {
	w          io.Writer
	lossLogger *slog.Logger // reports to w how many lines were dropped

	mu      sync.Mutex
	writing bool // a line is being written
	dropped int
}

// Write implements io.Writer.
func (o *lossyWriter) Write(line []byte) (int, error) {
	o.mu.Lock()
	if o.writing {
		o.dropped++
		o.mu.Unlock()
		return len(line), nil
	}
	o.writing = true
	o.mu.Unlock()
	whole := append([]byte(nil), line...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = o.w.Write(whole)
		for o.reportDropped() {
		}
	}()
	t := time.NewTimer(logWriteTimeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
	return len(line), nil
}

// reportDropped logs how many lines were dropped while one was being written. It returns false if
// there were none.
func (o *lossyWriter) reportDropped() bool {
	o.mu.Lock()
	lost := o.dropped
	o.dropped = 0
	o.writing = lost > 0
	o.mu.Unlock()
	if lost > 0 {
		o.lossLogger.Warn("log lines were lost: they were not read in time", "lines", lost)
	}
	return lost > 0
}

// logLimiter passes records on to a handler: of each message at most maxLines in a logWindow. When
// the window ends, it passes on the last dropped record, with the number of dropped ones. It holds
// at most maxLogKeys windows, and two records in each.
type logLimiter struct {
	slog.Handler
	windows *logWindows
}

// logWindows holds the counts of all handlers that are derived from one logLimiter.
type logWindows struct {
	mu      sync.Mutex
	windows map[logKey]*window
}

// logKey identifies a message, or a message with one error. All digits count as equal: another
// address or number in a text does not make another message.
type logKey struct {
	level slog.Level
	msg   string
	err   string
}

// window counts the lines of one key.
type window struct {
	passed  int
	dropped int
	last    slog.Record // the last dropped one
	handler slog.Handler
}

func newLimiter(h slog.Handler) *logLimiter {
	return &logLimiter{Handler: h, windows: &logWindows{windows: map[logKey]*window{}}}
}

// Handle implements slog.Handler.
func (l *logLimiter) Handle(ctx context.Context, r slog.Record) error {
	if !l.windows.allow(l.Handler, r) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *logLimiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logLimiter{Handler: l.Handler.WithAttrs(attrs), windows: l.windows}
}

// WithGroup implements slog.Handler.
func (l *logLimiter) WithGroup(name string) slog.Handler {
	return &logLimiter{Handler: l.Handler.WithGroup(name), windows: l.windows}
}

// allow counts a record, and reports whether it may be written.
func (t *logWindows) allow(h slog.Handler, r slog.Record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	most := maxLines
	if r.Level < slog.LevelInfo {
		most = maxDebugLines
	}
	all := t.windowOf(logKey{level: r.Level, msg: withoutDigits(r.Message)})
	if all.passed >= most {
		all.noteDropped(h, r)
		return false
	}
	same := all
	if err := errorText(r); err != "" && r.Level >= slog.LevelInfo {
		same = t.windowOf(logKey{r.Level, withoutDigits(r.Message), withoutDigits(err)})
	}
	if same != all && same.passed >= maxSameError {
		same.noteDropped(h, r)
		return false
	}
	all.passed++
	if same != all {
		same.passed++
	}
	return true
}

// windowOf returns the key's window, or if there is no room for it, the common window of its level.
// The caller holds mu.
func (t *logWindows) windowOf(k logKey) *window {
	if w := t.windows[k]; w != nil {
		return w
	}
	if len(t.windows) >= maxLogKeys {
		if k = (logKey{level: k.level}); t.windows[k] != nil {
			return t.windows[k]
		}
	}
	w := &window{}
	t.windows[k] = w
	time.AfterFunc(logWindow, func() { t.endWindow(k, w) })
	return w
}

func (w *window) noteDropped(h slog.Handler, r slog.Record) {
	w.dropped++
	w.last, w.handler = r.Clone(), h
}

// endWindow removes a window, and logs its last dropped record with the number of dropped ones.
func (t *logWindows) endWindow(k logKey, w *window) {
	t.mu.Lock()
	if t.windows[k] == w {
		delete(t.windows, k)
	}
	dropped, last, by := w.dropped, w.last, w.handler
	t.mu.Unlock()
	if dropped == 0 {
		return
	}
	last.Time = time.Now()
	last.AddAttrs(slog.Int("suppressed", dropped), slog.Duration("over", logWindow))
	_ = by.Handle(context.Background(), last)
}

// errorText returns the text of the record's error, or "".
func errorText(r slog.Record) (text string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" || a.Key == "error" {
			text = a.Value.String()
			return false
		}
		return true
	})
	return text
}

// maxKeyText bounds a text in a key.
const maxKeyText = 256

// withoutDigits returns a text with # for each run of digits, and at most maxKeyText of it.
func withoutDigits(s string) string {
	s = s[:min(len(s), maxKeyText)]
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

// newServerLog returns the ErrorLog of an http.Server. What a client did is logged at level debug,
// a panic as an error, and a failing accept as a warning.
func newServerLog(l *slog.Logger) *log.Logger { //nolint:forbidigo // http.Server requires it
	return slog.NewLogLogger(serverLogHandler{l.Handler()}, slog.LevelInfo)
}

type serverLogHandler struct{ slog.Handler }

// Enabled implements slog.Handler.
func (serverLogHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (s serverLogHandler) Handle(ctx context.Context, r slog.Record) error {
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
