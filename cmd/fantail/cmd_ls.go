package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// lsCmd lists streams.
type lsCmd struct {
	Prefix string `arg:"" optional:"" help:"Which streams: PROJECT/ and what their names begin with. Without a slash it is a prefix in the project default (default: all of that project)."`
	Long   bool   `short:"l" help:"Print type, state, end and creation as well, and leave deleted streams out. Each stream costs a read of S2 or two." env:"-"`
	After  string `help:"Begin after this name, as it is printed." env:"-"`
	Limit  int    `help:"Print so many at most." env:"-"`
	JSON   bool   `name:"json" help:"Print a line of JSON for each stream." env:"-"`
	remoteFlags
}

var errEnough = errors.New("enough")

// Run lists the streams. Without --long they are names that have been used.
func (c *lsCmd) Run(ctx context.Context, s stdio) error {
	r, err := c.open(s, false)
	if err != nil {
		return err
	}
	defer r.close()
	project, prefix, ok := strings.Cut(c.Prefix, "/")
	if !ok {
		project, prefix = "default", c.Prefix
	}
	after := strings.TrimPrefix(c.After, project+"/")
	bar := newProgress(s.err, "streams", 0, countUnit)
	if isTerminal(s.out) { // the names show it
		bar = nil
	}
	defer bar.finish()
	left := c.Limit
	err = r.List(ctx, project, prefix, after, c.Long, func(page []dsclient.Listed) error {
		if c.Limit > 0 {
			page = page[:min(left, len(page))]
			left -= len(page)
		}
		if err := c.print(s, project, page); err != nil {
			return err
		}
		bar.add(int64(len(page)))
		if c.Limit > 0 && left == 0 {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func (c *lsCmd) print(s stdio, project string, page []dsclient.Listed) error {
	var b bytes.Buffer
	table := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, l := range page {
		l.Name = project + "/" + l.Name
		switch {
		case c.JSON:
			if err := printJSON(&b, l); err != nil {
				return err
			}
		case c.Long:
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", printable(l.Name), l.ContentType, stateOf(l), l.NextOffset, l.Created)
		default:
			fmt.Fprintln(&b, printable(l.Name))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := s.out.Write(b.Bytes())
	return err
}

func stateOf(l dsclient.Listed) string {
	switch {
	case l.Closed == nil:
		return "?"
	case *l.Closed:
		return "closed"
	}
	return "open"
}

// printable returns a name as it is, or quoted if it would move the cursor of a terminal.
func printable(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}
