package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/alecthomas/kong"
)

func main() {
	if err := run(os.Args[1:], os.Environ(), adoptLog); err != nil {
		fmt.Fprintln(os.Stderr, "fantail:", err)
		os.Exit(exitCode(err))
	}
}

// run parses the arguments and runs the command. It returns when everything that it started has
// ended, or the time for that is over. It calls each of whole with the logger.
func run(args, environ []string, whole ...func(*slog.Logger)) error {
	var c cli
	parser, err := parserFor(&c, args, environ)
	if err != nil {
		return err
	}
	cmd, err := parser.Parse(args)
	if err := errors.Join(checkVariables(parser.Model, environ), err); err != nil {
		return usageError(err)
	}
	level := slog.LevelInfo
	if cmd.Command() == "dev" { // it prints a status line
		level = slog.LevelWarn
	}
	if c.LogLevel != nil {
		level = *c.LogLevel
	}
	log := newLogger(level, c.LogFormat)
	for _, tell := range whole {
		tell(log)
	}
	ctx, again, done := stopOnSignal(context.Background(), cmd.Command() != "serve")
	defer done()
	cmd.BindTo(ctx, (*context.Context)(nil))
	cmd.Bind(processIO, parser)
	return cmd.Run(log, logFormat(c.LogFormat), again)
}

// parserFor returns a parser that knows the file of settings that the arguments or variables name.
func parserFor(c *cli, args, environ []string) (*kong.Kong, error) {
	settings, err := openConfigFile(args, environ)
	if err != nil {
		return nil, usageError(err)
	}
	var options []kong.Option
	if settings != nil {
		options = append(options, kong.Resolvers(settings))
	}
	return newParser(c, options...)
}
