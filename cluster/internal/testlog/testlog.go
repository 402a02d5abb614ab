// Package testlog keeps what a test's subject logs.
package testlog

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// Lines keeps what is logged at Warn and above.
type Lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *Lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// Logger returns a logger that writes to l.
func (l *Lines) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// Containing returns the lines that contain a text.
func (l *Lines) Containing(what string) (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, what) {
			all = append(all, line)
		}
	}
	return all
}
