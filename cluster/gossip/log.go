package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// memberlistLog receives memberlist's lines, which begin with their level in brackets. Its errors are
// for information, and call for no action: a missed probe is one. One line of each kind passes in
// logWindow, and further ones are counted: each packet of a stranger, or of a node with another
// secret, causes one.
type memberlistLog struct {
	log *slog.Logger

	mu    sync.Mutex
	kinds map[string]*lineKind
}

// lineKind counts the lines of one kind within a window.
type lineKind struct {
	suppressed int
	last       string
}

const (
	logWindow = 10 * time.Second
	// maxLineKinds bounds the kinds that are counted separately; all others count as one.
	maxLineKinds = 64
	otherKind    = "other"
)

func newMemberlistLog(log *slog.Logger) *memberlistLog {
	return &memberlistLog{log: log, kinds: map[string]*lineKind{}}
}

var logLevels = []struct {
	tag   string
	level slog.Level
}{{"[WARN] ", slog.LevelInfo}, {"[ERR] ", slog.LevelWarn}, {"[ERROR] ", slog.LevelWarn}, {"[DEBUG] ", slog.LevelDebug}}

// Write implements io.Writer for a log.Logger, which writes a line at a time.
func (l *memberlistLog) Write(line []byte) (int, error) {
	n := len(line)
	level := slog.LevelDebug
	for _, known := range logLevels {
		if rest, ok := bytes.CutPrefix(line, []byte(known.tag)); ok {
			level, line = known.level, rest
			break
		}
	}
	if !l.log.Enabled(context.Background(), level) {
		return n, nil
	}
	text := strings.TrimPrefix(string(bytes.TrimSpace(line)), "memberlist: ")
	if level == slog.LevelDebug || l.isFirstOfKind(level, text) {
		l.logLine(level, text, 0)
	}
	return n, nil
}

func (l *memberlistLog) logLine(level slog.Level, text string, suppressed int) {
	if suppressed > 0 {
		l.log.Log(context.Background(), level, "gossip", "says", text, "more", suppressed, "over", logWindow)
		return
	}
	l.log.Log(context.Background(), level, "gossip", "says", text)
}

// kindOf returns the common beginning of all lines of a kind: a line up to its first number or
// address.
func kindOf(text string) string {
	if i := strings.IndexAny(text, "0123456789\"[("); i > 0 {
		text = text[:i]
	}
	return text[:min(len(text), 80)]
}

// isFirstOfKind reports whether a line is the first of its kind in a window.
func (l *memberlistLog) isFirstOfKind(level slog.Level, text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	kind := level.String() + kindOf(text)
	k := l.kinds[kind]
	if k == nil && len(l.kinds) >= maxLineKinds {
		kind = level.String() + otherKind
		k = l.kinds[kind]
	}
	if k != nil {
		k.suppressed++
		k.last = text
		return false
	}
	k = &lineKind{}
	l.kinds[kind] = k
	time.AfterFunc(logWindow, func() { l.endWindow(kind, level) })
	return true
}

// endWindow logs how many lines the window suppressed, and begins the next window with that.
func (l *memberlistLog) endWindow(kind string, level slog.Level) {
	l.mu.Lock()
	k := l.kinds[kind]
	more, last := k.suppressed, k.last
	if k.suppressed = 0; more == 0 {
		delete(l.kinds, kind)
	} else {
		time.AfterFunc(logWindow, func() { l.endWindow(kind, level) })
	}
	l.mu.Unlock()
	if more > 0 {
		l.logLine(level, last, more)
	}
}

// logMemberChanges logs which nodes joined or left, and from or until when members own streams.
func logMemberChanges(log *slog.Logger, self string, old, now *placement.View) {
	for _, m := range now.Members() {
		was := old.Member(m.Name)
		switch {
		case m.Name == self:
		case was == nil:
			log.Info("node joined", "peer", m.Name, "addr", m.RelayAddr, "owns_from", formatDate(m.OwnsFrom))
		case was.OwnsFrom != m.OwnsFrom:
			log.Info("node owns streams from a date on", "peer", m.Name, "owns_from", formatDate(m.OwnsFrom))
		case was.OwnsUntil != m.OwnsUntil:
			log.Info("node owns streams until a date", "peer", m.Name, "owns_until", formatDate(m.OwnsUntil))
		}
	}
	for _, m := range old.Members() {
		if m.Name != self && now.Member(m.Name) == nil {
			log.Info("node left", "peer", m.Name)
		}
	}
}

// formatDate returns a Member's date for people.
func formatDate(ms shard.Millis) string {
	switch ms {
	case 0:
		return "its start"
	case placement.Never:
		return "not yet"
	}
	return time.UnixMilli(int64(ms)).UTC().Format(time.RFC3339)
}
