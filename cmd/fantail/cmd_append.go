package main

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"os"
	"strings"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// appendCmd appends messages to a stream.
type appendCmd struct {
	Stream   string    `arg:"" help:"Stream: NAME, PROJECT/NAME or a URL."`
	Messages []string  `arg:"" optional:"" help:"Messages (default: standard input)."`
	As       inputForm `help:"What the input is. json: JSON values, one after the other, each a message; an array is its elements. lines: each line is a message, with its line break. bytes: everything as it comes (default: what suits the stream's type)." enum:"json,lines,bytes,auto" default:"auto" env:"-"`
	OneByOne bool      `name:"one-by-one" help:"Send one message in each request (default: what is there together goes together; of lines that makes one message)." env:"-"`
	Create   bool      `help:"Create the stream if it does not exist." env:"-"`
	Type     string    `help:"Content type of the stream (default: the server is asked, for which the token needs the right to read; with --create application/json)." env:"-"`
	Close    bool      `help:"Close the stream at the end of the input." env:"-"`
	Producer string    `help:"Producer id (default: a new one). The server stores each message of a producer once." env:"-"`
	Epoch    uint64    `help:"Epoch of --producer: one more than when it wrote last." env:"-"`
	Quiet    bool      `short:"q" help:"Print nothing when all is written." env:"-"`
	JSON     bool      `name:"json" help:"Print JSON." env:"-"`
	remoteFlags
}

// appendResult says what was appended.
type appendResult struct {
	Messages   int    `json:"messages"`
	Bytes      int64  `json:"bytes"`
	Requests   int    `json:"requests"`
	NextOffset string `json:"nextOffset"`
	Closed     bool   `json:"closed"`
}

// Run appends until the input ends.
func (c *appendCmd) Run(ctx context.Context, s stdio) error {
	if len(c.Messages) == 0 && c.readsInput() {
		return usageError(errors.New("standard input cannot be both the messages and the token or URL: name the messages, or a file"))
	}
	return c.withStream(s, c.Stream, func(stream *dsclient.Stream) error {
		contentType, err := c.contentType(ctx, stream)
		if err != nil {
			return err
		}
		in := newInput(c.As.resolve(contentType), c.OneByOne)
		bar := c.progress(s)
		defer bar.finish()
		go in.read(s.in, c.Messages)
		defer in.stop()
		result, err := appendAll(ctx, in, stream.NewProducer(contentType, c.Producer, c.Epoch), c.Close, bar)
		bar.finish()
		if err != nil {
			return result.explain(err)
		}
		return c.report(s, result)
	})
}

// contentType returns the stream's type. It creates the stream if it is to.
func (c *appendCmd) contentType(ctx context.Context, stream *dsclient.Stream) (string, error) {
	switch {
	case c.Create:
		if c.Type == "" {
			c.Type = jsonType
		}
		info, _, err := stream.Create(ctx, dsclient.CreateOptions{ContentType: c.Type})
		return info.ContentType, err
	case c.Type != "":
		return c.Type, nil
	}
	info, err := stream.Info(ctx)
	return info.ContentType, err
}

// progress returns the bar of an input whose size is known.
func (c *appendCmd) progress(s stdio) *progress {
	if f, ok := s.in.(*os.File); ok && len(c.Messages) == 0 {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			return newProgress(s.err, "append", info.Size(), bytesUnit)
		}
	}
	return nil
}

// explain says of an append that failed what is written.
func (r *appendResult) explain(err error) error {
	switch {
	case exitCode(err) == exitUsage:
		return fmt.Errorf("%d messages are written; then %w", r.Messages, err)
	case dsclient.IsTemporary(err):
		return fmt.Errorf("%d messages are written; what came then may be written or not: %w", r.Messages, err)
	case r.Messages > 0:
		return fmt.Errorf("%d messages are written, and nothing after them: %w", r.Messages, err)
	}
	return fmt.Errorf("nothing is written: %w", err)
}

func (c *appendCmd) report(s stdio, r appendResult) error {
	switch {
	case c.Quiet:
		return nil
	case c.JSON:
		return printJSON(s.out, r)
	}
	closed := ""
	if r.Closed {
		closed = ", closed"
	}
	_, err := fmt.Fprintf(s.out, "appended %s, %s%s; next offset %s\n", countOf(r.Messages, "message"), countOf(r.Bytes, "byte"), closed, r.NextOffset)
	return err
}

// appendAll appends what the input has, in order, each message once.
func appendAll(ctx context.Context, in *input, p *dsclient.Producer, closes bool, bar *progress) (r appendResult, err error) {
	for {
		b, err := in.next(ctx)
		if err != nil {
			return r, err
		}
		if r.Closed = b.last && closes; len(b.body) == 0 && !r.Closed {
			return r, nil
		}
		if r.NextOffset, err = p.Append(ctx, b.body, r.Closed); err != nil {
			return r, err
		}
		r.Messages += b.messages
		r.Bytes += b.size
		r.Requests++
		bar.add(b.size)
		if b.last {
			return r, nil
		}
	}
}

const jsonType = "application/json"

// inputForm says what the messages of an input are. Closed set.
type inputForm string

const (
	formAuto  inputForm = "auto"
	formJSON  inputForm = "json"
	formLines inputForm = "lines"
	formBytes inputForm = "bytes"
)

// resolve returns the form for a stream's type.
func (f inputForm) resolve(contentType string) inputForm {
	if f != formAuto && f != "" {
		return f
	}
	switch {
	case isJSON(contentType):
		return formJSON
	case strings.HasPrefix(contentType, "text/"):
		return formLines
	}
	return formBytes
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == jsonType
}
