// Reader prints the messages of a JSON stream, one a line, as it gets them by SSE,
// until the stream is closed. When its connection breaks it resumes at its offset.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: reader URL")
		os.Exit(2)
	}
	r := reader{url: os.Args[1], offset: "-1", out: os.Stdout}
	if err := r.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		os.Exit(1)
	}
}

type reader struct {
	url    string
	offset string // after the last message printed
	out    io.Writer
}

// run reads until the stream is closed, over as many connections as it takes.
func (r *reader) run(ctx context.Context) error {
	for {
		closed, err := r.connect(ctx)
		if closed || ctx.Err() != nil {
			return ctx.Err()
		}
		var refused refusal
		if errors.As(err, &refused) && refused < 500 {
			return err
		}
		fmt.Fprintf(os.Stderr, "resuming at %s: %v\n", r.offset, err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// refusal is an answer that is no stream.
type refusal int

func (s refusal) Error() string { return http.StatusText(int(s)) }

// connect reads one event stream to its end.
func (r *reader) connect(ctx context.Context) (closed bool, err error) {
	q := url.Values{"live": {"sse"}, "offset": {r.offset}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"?"+q.Encode(), nil)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, refusal(resp.StatusCode)
	}
	return r.events(bufio.NewReader(resp.Body))
}

// events reads events until there are no more.
func (r *reader) events(in *bufio.Reader) (closed bool, err error) {
	var event, data, pending string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return false, err // an event that has no empty line after it does not count
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			event = value
		case "data":
			data += value + "\n"
		case "":
			if line != "\n" { // a comment
				continue
			}
			switch event {
			case "data":
				pending += data
			case "control":
				if closed, err = r.control(pending, data); closed || err != nil {
					return closed, err
				}
				pending = ""
			}
			event, data = "", ""
		}
	}
}

// control prints the messages before a control event, and takes its offset: what
// has no control event yet is read again after a break.
func (r *reader) control(pending, data string) (closed bool, err error) {
	for in := json.NewDecoder(strings.NewReader(pending)); in.More(); {
		var batch []json.RawMessage
		if err := in.Decode(&batch); err != nil {
			return false, err
		}
		for _, m := range batch {
			if _, err := fmt.Fprintf(r.out, "%s\n", m); err != nil {
				return false, err
			}
		}
	}
	var c struct {
		StreamNextOffset string
		StreamClosed     bool
	}
	if err := json.Unmarshal([]byte(data), &c); err != nil {
		return false, err
	}
	r.offset = c.StreamNextOffset
	return c.StreamClosed, nil
}
