package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// tailCmd prints a stream.
type tailCmd struct {
	Stream string        `arg:"" optional:"" help:"Stream: NAME, PROJECT/NAME or a URL."`
	Follow bool          `short:"f" help:"Wait for more, until the stream is closed." env:"-"`
	From   string        `help:"Where to begin: start, now, tail-N (the last N messages), at:TIME (RFC 3339) or an offset." default:"start" env:"-"`
	Number uint64        `short:"n" help:"Begin with the last N messages: --from=tail-N." env:"-"`
	Since  string        `help:"Begin with the first message since a time (RFC 3339) or for a while, such as 10m: --from=at:TIME." env:"-"`
	For    time.Duration `help:"End after this time." env:"-"`
	Live   dsclient.Live `help:"How to follow. sse: line breaks of text become LF. long-poll: every byte as it was written." enum:"sse,long-poll" default:"sse" env:"-"`
	JSON   bool          `name:"json" help:"Print a line of JSON for each run of messages, with the offset after it." env:"-"`
	remoteFlags
}

// Run prints the stream. An interrupt, and the end of --for, are good ends.
func (c *tailCmd) Run(ctx context.Context, s stdio) error {
	from, err := c.offset(time.Now())
	if err != nil {
		return usageError(err)
	}
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.For, errOver)
		defer cancel()
	}
	return c.withStream(s, c.Stream, func(stream *dsclient.Stream) error {
		err := c.print(ctx, stream, from, s.out)
		return untilInterrupted(ctx, err)
	})
}

var errOver = errors.New("the time is over")

// offset returns where to begin, as servers take it.
func (c *tailCmd) offset(now time.Time) (string, error) {
	switch {
	case c.Number > 0 && c.Since != "", (c.Number > 0 || c.Since != "") && c.From != "start":
		return "", errors.New("--from, -n and --since exclude each other")
	case c.Number > 0:
		return fmt.Sprintf("tail-%d", c.Number), nil
	case c.Since != "":
		at, err := time.Parse(time.RFC3339, c.Since)
		if ago, wrong := time.ParseDuration(c.Since); wrong == nil {
			at, err = now.Add(-ago), nil
		}
		if err != nil {
			return "", errors.New("--since: want a time, such as 2030-01-31T12:00:00Z, or how long ago, such as 10m")
		}
		return "at:" + at.UTC().Format(time.RFC3339Nano), nil
	case c.From == "start":
		return "-1", nil
	}
	return c.From, nil
}

// print prints what there is, and what comes if it is to follow.
func (c *tailCmd) print(ctx context.Context, stream *dsclient.Stream, from string, out io.Writer) error {
	p := &printer{out: out, asJSON: c.JSON}
	for {
		chunk, err := stream.Read(ctx, from)
		if err != nil {
			return err
		}
		if err := p.print(chunk); err != nil {
			return err
		}
		from = chunk.NextOffset
		switch {
		case chunk.Closed:
			return nil
		case !chunk.UpToDate:
			continue
		case !c.Follow:
			return nil
		}
		p.contentType = chunk.ContentType
		return stream.Follow(ctx, from, c.Live, nil, p.print)
	}
}

// printer prints chunks of a stream.
type printer struct {
	out         io.Writer
	asJSON      bool
	contentType string // for chunks that have none, because events have their own
}

// print prints a chunk: each JSON message on a line of its own, everything else as it is.
func (p *printer) print(c *dsclient.Chunk) error {
	contentType := p.contentType
	if contentType == "" {
		contentType = c.ContentType
	}
	if p.asJSON {
		return p.printRun(contentType, c)
	}
	if !isJSON(contentType) {
		_, err := p.out.Write(c.Body)
		return err
	}
	messages, err := splitJSON(c.Body)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, m := range messages {
		if err := json.Compact(&b, m); err != nil { // a line each
			return err
		}
		b.WriteByte('\n')
	}
	_, err = p.out.Write(b.Bytes())
	return err
}

// splitJSON returns the messages of a body or an event; both are arrays.
func splitJSON(body []byte) (messages []json.RawMessage, err error) {
	if len(body) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(body, &messages); err != nil {
		return nil, &dsclient.ProtocolError{Why: "messages of JSON come as no array"}
	}
	return messages, nil
}

// printRun prints a chunk as a line of JSON.
func (p *printer) printRun(contentType string, c *dsclient.Chunk) error {
	run := struct {
		NextOffset string            `json:"nextOffset"`
		UpToDate   bool              `json:"upToDate"`
		Closed     bool              `json:"closed,omitempty"`
		Messages   []json.RawMessage `json:"messages,omitempty"`
		Text       string            `json:"text,omitempty"`
		Base64     string            `json:"base64,omitempty"`
	}{NextOffset: c.NextOffset, UpToDate: c.UpToDate, Closed: c.Closed}
	var err error
	switch {
	case isJSON(contentType):
		run.Messages, err = splitJSON(c.Body)
	case strings.HasPrefix(contentType, "text/"):
		run.Text = string(c.Body)
	default:
		run.Base64 = base64.StdEncoding.EncodeToString(c.Body)
	}
	if err != nil {
		return err
	}
	return printJSON(p.out, run)
}
