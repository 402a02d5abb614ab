package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// lifetimeFlags says how long a stream lives.
type lifetimeFlags struct {
	TTL       time.Duration `name:"ttl" help:"The stream ends when it has not been used for this time, in whole seconds." env:"-"`
	ExpiresAt string        `name:"expires-at" help:"When the stream ends, such as 2030-01-31T12:00:00Z." env:"-"`
}

func (f *lifetimeFlags) check() error {
	switch {
	case f.TTL < 0 || f.TTL%time.Second != 0:
		return usageError(errors.New("--ttl: want whole seconds"))
	case f.TTL > 0 && f.ExpiresAt != "":
		return usageError(errors.New("--ttl and --expires-at exclude each other"))
	}
	return nil
}

// newCmd creates a stream.
type newCmd struct {
	Stream string `arg:"" help:"Stream: NAME, PROJECT/NAME or a URL."`
	Type   string `help:"Content type of the stream." default:"application/json" env:"-"`
	Closed bool   `help:"The stream is closed from the start: nothing can be appended." env:"-"`
	JSON   bool   `name:"json" help:"Print JSON." env:"-"`
	lifetimeFlags
	remoteFlags
}

// Run creates the stream. It is not an error that the stream exists with this configuration.
func (c *newCmd) Run(ctx context.Context, s stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.withStream(s, c.Stream, func(stream *dsclient.Stream) error {
		return create(ctx, s, stream, dsclient.CreateOptions{ContentType: c.Type, TTL: c.TTL, ExpiresAt: c.ExpiresAt, Closed: c.Closed}, c.JSON)
	})
}

// create creates a stream, and says whether it was there already.
func create(ctx context.Context, s stdio, stream *dsclient.Stream, o dsclient.CreateOptions, asJSON bool) error {
	info, created, err := stream.Create(ctx, o)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(s.out, struct {
			URL     string `json:"url"`
			Created bool   `json:"created"`
			dsclient.Info
		}{stream.Path(), created, info})
	}
	what := "created"
	if !created {
		what = "exists"
	}
	_, err = fmt.Fprintf(s.out, "%s %s\n", what, stream.Path())
	return err
}

// forkCmd creates a stream that begins with the messages of another one.
type forkCmd struct {
	Source    string `arg:"" help:"Stream to begin with: NAME, PROJECT/NAME or a URL."`
	Target    string `arg:"" help:"The new stream, in the same project."`
	Offset    string `help:"Where the fork leaves the source: an offset of the source (default: its end)." env:"-"`
	SubOffset uint64 `name:"sub-offset" help:"How many messages of JSON, or bytes of the next message, more." env:"-"`
	JSON      bool   `name:"json" help:"Print JSON." env:"-"`
	lifetimeFlags
	remoteFlags
}

// Run forks the source.
func (c *forkCmd) Run(ctx context.Context, s stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.withStream(s, c.Target, func(target *dsclient.Stream) error {
		source, err := target.Sibling(c.Source)
		if err != nil {
			return usageError(err)
		}
		return create(ctx, s, target, dsclient.CreateOptions{TTL: c.TTL, ExpiresAt: c.ExpiresAt, Source: source, Offset: c.Offset, SubOffset: c.SubOffset}, c.JSON)
	})
}

// infoCmd describes a stream.
type infoCmd struct {
	Stream string `arg:"" optional:"" help:"Stream: NAME, PROJECT/NAME or a URL."`
	JSON   bool   `name:"json" help:"Print JSON." env:"-"`
	remoteFlags
}

// Run describes the stream.
func (c *infoCmd) Run(ctx context.Context, s stdio) error {
	return c.withStream(s, c.Stream, func(stream *dsclient.Stream) error {
		info, err := stream.Info(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(s.out, struct {
				URL string `json:"url"`
				dsclient.Info
			}{stream.Path(), info})
		}
		return printInfo(s, stream, info)
	})
}

func printInfo(s stdio, stream *dsclient.Stream, info dsclient.Info) error {
	ends := "never"
	switch {
	case info.TTLSeconds > 0:
		ends = fmt.Sprintf("when it has not been used for %v", time.Duration(info.TTLSeconds)*time.Second)
	case info.ExpiresAt != "":
		ends = info.ExpiresAt
	}
	state := "open"
	if info.Closed {
		state = "closed"
	}
	_, err := fmt.Fprintf(s.out, "url          %s\ntype         %s\nstate        %s\nnext offset  %s\nends         %s\n", stream.Path(), info.ContentType, state, info.NextOffset, ends)
	return err
}

// rmCmd deletes streams.
type rmCmd struct {
	Streams []string `arg:"" help:"Streams: NAME, PROJECT/NAME or a URL."`
	Force   bool     `short:"f" help:"It is no error that a stream does not exist." env:"-"`
	remoteFlags
}

// Run deletes the streams.
func (c *rmCmd) Run(ctx context.Context, s stdio) error {
	r, err := c.open(s, false)
	if err != nil {
		return err
	}
	defer r.close()
	for _, name := range c.Streams {
		stream, err := r.stream(name)
		if err == nil {
			err = stream.Delete(ctx)
		}
		var p *dsclient.Problem
		if c.Force && errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusGone) {
			continue
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "deleted %s\n", stream.Path())
	}
	return nil
}
