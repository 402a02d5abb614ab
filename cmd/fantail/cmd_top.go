package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// topCmd shows the nodes of a fleet, and its streams by readers or bytes.
type topCmd struct {
	Sort   string        `help:"Sort by readers or bytes." enum:"readers,bytes" default:"readers" env:"-"`
	Limit  int           `short:"n" help:"Show so many streams, 1 to 200." default:"20" env:"-"`
	Prefix string        `help:"Show streams whose name, with the project, begins so." env:"-"`
	Every  time.Duration `help:"Time between two looks." default:"2s" env:"-"`
	Once   bool          `help:"Look once (default: where the output is no terminal)." env:"-"`
	JSON   bool          `name:"json" help:"Print a line of JSON for each look: the answers of the admin address." env:"-"`
	adminFlags
}

// fleetAnswer holds what the commands use of GET /admin/fleet.
type fleetAnswer struct {
	Cluster string        `json:"cluster"`
	Asked   string        `json:"asked"`
	Members []fleetMember `json:"members"`
	Totals  struct {
		Readers         int `json:"readers"`
		Streams         int `json:"streams"`
		FollowedStreams int `json:"followed_streams"`
		Sessions        int `json:"s2_read_sessions"`
	} `json:"totals"`
	Meter struct {
		Dollars struct {
			ThinAdapter float64 `json:"thin_adapter"`
			Fantail     float64 `json:"fantail"`
		} `json:"dollars_a_month"`
		Usage *usageReport `json:"s2_usage"`
	} `json:"meter"`
}

// fleetMember holds what the commands use of a member.
type fleetMember struct {
	Name         string `json:"name"`
	Answered     bool   `json:"answered"`
	Link         string `json:"link"`
	HTTP         string `json:"http"`
	Owner        bool   `json:"owner"`
	Leaving      bool   `json:"leaving"`
	StoreDown    bool   `json:"store_down"`
	ClockAheadMS int64  `json:"clock_ahead_ms"`
	Node         *struct {
		Version        string         `json:"version"`
		Revision       string         `json:"revision"`
		Started        string         `json:"started"`
		Ready          bool           `json:"ready"`
		NotReadyReason string         `json:"not_ready_reason"`
		Readers        map[string]int `json:"readers"`
		OwnedStreams   int            `json:"owned_streams"`
		Sessions       int            `json:"s2_read_sessions"`
	} `json:"node"`
}

// streamsAnswer holds what the commands use of GET /admin/streams.
type streamsAnswer struct {
	Streams []struct {
		Stream   string `json:"stream"`
		Owner    string `json:"owner"`
		Readers  int    `json:"readers"`
		Messages uint64 `json:"messages_total"`
		Bytes    uint64 `json:"bytes_total"`
		Closed   bool   `json:"closed"`
	} `json:"streams"`
	Silent  []string `json:"silent"`
	HasMore bool     `json:"more"`
}

// Run looks again and again, until an interrupt.
func (c *topCmd) Run(ctx context.Context, s stdio) error {
	if c.Limit < 1 || c.Limit > 200 || c.Every < 100*time.Millisecond {
		return usageError(fmt.Errorf("want --limit of 1 to 200, and --every of 100ms or more"))
	}
	admin, err := c.open(s)
	if err != nil {
		return err
	}
	screen := isTerminal(s.out) && !c.JSON
	once := c.Once || !isTerminal(s.out) && !c.JSON
	var before streamsAnswer
	var last time.Time
	for {
		fleet, streams, err := c.fetchAnswers(ctx, admin)
		if err != nil {
			return untilInterrupted(ctx, err)
		}
		var b bytes.Buffer
		if c.JSON {
			if err := printJSON(&b, map[string]json.RawMessage{"fleet": fleet, "streams": streams}); err != nil {
				return err
			}
		} else {
			if screen {
				b.WriteString("\x1b[H\x1b[2J")
			}
			now := time.Now()
			if before, err = c.printAnswers(&b, fleet, streams, before, now.Sub(last), last.IsZero()); err != nil {
				return err
			}
			last = now
		}
		if _, err := s.out.Write(b.Bytes()); err != nil || once {
			return err
		}
		if err := waitFor(ctx, c.Every); err != nil {
			return untilInterrupted(ctx, err)
		}
	}
}

func (c *topCmd) fetchAnswers(ctx context.Context, admin *adminClient) (fleet, streams json.RawMessage, err error) {
	q := url.Values{"sort": {c.Sort}, "limit": {strconv.Itoa(c.Limit)}}
	if c.Prefix != "" {
		q.Set("prefix", c.Prefix)
	}
	if err := admin.callJSON(ctx, "GET", "/admin/fleet", &fleet); err != nil {
		return nil, nil, err
	}
	err = admin.callJSON(ctx, "GET", "/admin/streams?"+q.Encode(), &streams)
	return fleet, streams, err
}

// printAnswers prints one look. Rates are since the look before, which is passed and returned.
func (c *topCmd) printAnswers(b *bytes.Buffer, fleet, streams json.RawMessage, before streamsAnswer, since time.Duration, first bool) (streamsAnswer, error) {
	var f fleetAnswer
	var st streamsAnswer
	if err := json.Unmarshal(fleet, &f); err != nil {
		return st, err
	}
	if err := json.Unmarshal(streams, &st); err != nil {
		return st, err
	}
	fmt.Fprintf(b, "%d nodes · %d readers · %d streams in memory, %d followed · %d S2 read sessions · $%.2f a month, $%.2f with a session for each reader\n",
		len(f.Members), f.Totals.Readers, f.Totals.Streams, f.Totals.FollowedStreams, f.Totals.Sessions, f.Meter.Dollars.Fantail, f.Meter.Dollars.ThinAdapter)
	if u := f.Meter.Usage; u != nil {
		fmt.Fprintf(b, "S2's own metrics, last hour: %.0f session minutes, %.0f reads, %.0f append minutes; $%.2f a month at that rate\n", u.SessionMinutes, u.Reads, u.Appends, u.Dollars)
	}
	fmt.Fprintln(b)
	table := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tSTATE\tREADERS\tSTREAMS\tSESSIONS\tVERSION\tADDRESS")
	for _, m := range f.Members {
		showMember(table, m)
	}
	fmt.Fprintln(table, "\nREADERS\tMESSAGES\tBYTES\tBYTES/s\tOWNER\tSTREAM")
	bytesBefore := map[string]uint64{}
	for _, x := range before.Streams {
		bytesBefore[x.Stream] = x.Bytes
	}
	for _, x := range st.Streams {
		rate := "-"
		if was, ok := bytesBefore[x.Stream]; ok && !first && x.Bytes >= was {
			rate = bytesUnit(int64(float64(x.Bytes-was) / since.Seconds()))
		}
		state := ""
		if x.Closed {
			state = " (closed)"
		}
		fmt.Fprintf(table, "%d\t%d\t%s\t%s\t%s\t%s%s\n", x.Readers, x.Messages, bytesUnit(int64(min(x.Bytes, 1<<62))), rate, x.Owner, printable(x.Stream), state) //nolint:gosec // bounded
	}
	if err := table.Flush(); err != nil {
		return st, err
	}
	if st.HasMore {
		b.WriteString("… and more (--limit)\n")
	}
	if len(st.Silent) > 0 {
		fmt.Fprintf(b, "no answer from %s: the readers there are missing\n", strings.Join(st.Silent, ", "))
	}
	return st, nil
}

func showMember(table *tabwriter.Writer, m fleetMember) {
	n := m.Node
	if n == nil {
		fmt.Fprintf(table, "%s\tno answer, link %s\t-\t-\t-\t-\t%s\n", m.Name, m.Link, m.HTTP)
		return
	}
	readers := 0
	for _, count := range n.Readers {
		readers += count
	}
	state := "ready"
	switch {
	case m.Leaving:
		state = "leaving"
	case m.StoreDown:
		state = "S2 does not answer it"
	case !n.Ready:
		state, _, _ = strings.Cut(n.NotReadyReason, "\n")
	}
	fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%s\t%s\n", m.Name, state, readers, n.OwnedStreams, n.Sessions, n.Version, m.HTTP)
}

// ownerCmd says where a stream is owned.
type ownerCmd struct {
	Stream string `arg:"" help:"Stream, as NAME or PROJECT/NAME, decoded."`
	JSON   bool   `name:"json" help:"Print JSON." env:"-"`
	adminFlags
}

// Run asks a node for the owner. It reads nothing of the stream.
func (c *ownerCmd) Run(ctx context.Context, s stdio) error {
	admin, err := c.open(s)
	if err != nil {
		return err
	}
	name := c.Stream
	if !strings.Contains(name, "/") {
		name = "default/" + name
	}
	var raw json.RawMessage
	if err := admin.callJSON(ctx, "GET", "/admin/owner?"+url.Values{"stream": {name}}.Encode(), &raw); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, raw)
	}
	var a struct {
		Stream, Owner, Successor string
		Readers                  int
		Next                     []struct{ From, Owner string }
		Nodes                    []struct {
			Name    string
			Holds   bool
			Readers int
		}
		Silent []string
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "stream     %s\nowner      %s\n", printable(a.Stream), a.Owner)
	for _, n := range a.Next {
		fmt.Fprintf(&b, "from %s on  %s\n", n.From, n.Owner)
	}
	if a.Successor != "" {
		fmt.Fprintf(&b, "successor  %s\n", a.Successor)
	}
	fmt.Fprintf(&b, "readers    %d\n", a.Readers)
	for _, n := range a.Nodes {
		if n.Holds {
			fmt.Fprintf(&b, "  %s  %d readers\n", n.Name, n.Readers)
		}
	}
	if len(a.Silent) > 0 {
		fmt.Fprintf(&b, "no answer from %s\n", strings.Join(a.Silent, ", "))
	}
	_, err = s.out.Write(b.Bytes())
	return err
}
