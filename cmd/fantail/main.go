package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker for releases.
var version = "dev"

func main() {
	if err := run(os.Args[1:], os.Environ()); err != nil {
		fmt.Fprintln(os.Stderr, "fantail:", err)
		os.Exit(1)
	}
}

// stopSignals end a command.
var stopSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM}

// run parses the arguments, carries the command out and returns once everything
// that it started has ended, or has had its time.
func run(args, environ []string) error {
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		return err
	}
	cmd, err := parser.Parse(args)
	if err := errors.Join(unknownVariables(parser.Model, environ), err); err != nil {
		return err
	}
	// The first signal stops in order; a second one, or the grace running out, ends
	// the process at once: see node.halt.
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals...)
	defer stop()
	context.AfterFunc(ctx, stop)
	cmd.BindTo(ctx, (*context.Context)(nil))
	level := slog.LevelInfo
	if cmd.Command() == "dev" { // it shows a live line
		level = slog.LevelWarn
	}
	if c.LogLevel != nil {
		level = *c.LogLevel
	}
	return cmd.Run(logger(level, c.LogFormat))
}

func logger(level slog.Level, format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
