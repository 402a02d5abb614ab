package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
)

// checkCmd checks a file of rights.
type checkCmd struct {
	Auth    string `arg:"" help:"File of rights."`
	Offline bool   `help:"Do not fetch the issuers' keys." env:"-"`
	Strict  bool   `help:"Exit with code 5 if there are warnings." env:"-"`
}

// Run checks the file.
func (c *checkCmd) Run(ctx context.Context, log *slog.Logger) error {
	return c.run(ctx, processIO, log)
}

func (c *checkCmd) run(ctx context.Context, s stdio, log *slog.Logger) error {
	r, err := access.Check(ctx, c.Auth, !c.Offline, access.Config{Logger: log})
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, fact := range r.Facts {
		fmt.Fprintf(&b, "%s\n", fact)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	fmt.Fprintf(&b, "%s: the file is good, %d warnings\n", c.Auth, len(r.Warnings))
	if _, err := fmt.Fprint(s.out, b.String()); err != nil {
		return err
	}
	if c.Strict && len(r.Warnings) > 0 {
		return &exitError{exitWarnings, errors.New("there are warnings")}
	}
	return nil
}

// signCmd signs the URL of a stream.
type signCmd struct {
	Stream string        `arg:"" help:"Stream, as PROJECT/NAME, decoded: acme/chat/room 1."`
	Key    string        `help:"File with the secret that the project's sign names; - for standard input." required:"" env:"-"`
	KID    string        `name:"kid" help:"The secret's kid." required:"" env:"-"`
	TTL    time.Duration `name:"ttl" help:"How long the URL is good: 24h at most." default:"1h" env:"-"`
	URL    string        `name:"url" help:"Root of the streams, such as https://streams.example/v1/stream: print the whole URL (default: the query alone)." env:"-"`
}

// Run prints the signed URL.
func (c *signCmd) Run() error { return c.run(processIO, time.Now()) }

func (c *signCmd) run(s stdio, now time.Time) error {
	project, name, _ := strings.Cut(c.Stream, "/")
	if project == "" || name == "" {
		return errors.New("the stream has the form PROJECT/NAME; the project of a path without one is default")
	}
	if c.TTL < time.Second || c.TTL > access.MaxSignedTTL {
		return fmt.Errorf("--ttl: want 1s to %v", access.MaxSignedTTL)
	}
	secret, err := s.readInput(c.Key)
	if err != nil {
		return fmt.Errorf("--key: %w", err)
	}
	key, err := access.NewSigningKey(c.KID, []byte(strings.TrimRight(string(secret), "\r\n")))
	if err != nil {
		return err
	}
	exp := now.Add(c.TTL).Unix()
	query := fmt.Sprintf("x-exp=%d&x-kid=%s&x-sig=%s", exp, url.QueryEscape(c.KID), key.Sign(c.Stream, exp))
	if c.URL != "" {
		root, err := url.Parse(c.URL)
		if err != nil || root.Host == "" || root.RawQuery != "" {
			return errors.New("--url: want a URL with a host and without a query")
		}
		segments := strings.Split(c.Stream, "/")
		for i := range segments {
			segments[i] = url.PathEscape(segments[i])
		}
		query = strings.TrimSuffix(c.URL, "/") + "/" + strings.Join(segments, "/") + "?" + query
	}
	_, err = fmt.Fprintln(s.out, query)
	return err
}
