package main

import (
	"fmt"
	"io"
)

// designs are the columns of the table and the lines of the plot.
var designs = []struct {
	name, color string
	of          func(bill) float64
}{
	{"a session for each reader", "#c0392b", func(b bill) float64 { return b.naive }},
	{"for each stream on each node", "#d68910", func(b bill) float64 { return b.perNode }},
	{"Fantail", "#1e8449", func(b bill) float64 { return b.fantail }},
}

// fleets are the rows of the table.
var fleets = []size{
	{1e3, 100, 3, 0},
	{10e3, 100, 3, 0},
	{10e3, 1e3, 3, 0},
	{10e3, 1e3, 10, 0},
	{10e3, 10e3, 10, 0},
	{100e3, 100, 10, 0},
	{100e3, 1e3, 3, 0},
	{100e3, 1e3, 10, 0},
	{100e3, 1e3, 10, 5},
	{100e3, 10e3, 10, 0},
	{1e6, 1e3, 10, 0},
	{1e6, 1e3, 10, 5},
	{1e6, 10e3, 3, 5},
	{1e6, 10e3, 10, 0},
	{1e6, 10e3, 10, 5},
}

func (m model) print(w io.Writer) {
	fmt.Fprintf(w, `
Multiplied: US dollars a month of %d days, at s2.dev/pricing as of February 2026: Append
and CheckTail $%.7f, Read $%.6f, ReadSession $%.6f a minute. Readers are there
all month, dealt out evenly to streams and at random to nodes; appends to each stream: %g a
minute. Fantail's are the units above. The other two are not run: they are given one
operation an append, no read but their sessions, and one more begun minute for each
session and deploy, which favours them. Not in it: storage, bytes in and out (the first
design has S2 send each message once for each reader, the second once for each node), S2's
waiver for appends that follow one another within a minute on a connection, and the making
of streams ($%.5f each, once).

`, days, prices.Append, prices.Read, prices.ReadSessionMinute, m.appends, prices.CreateStream)
	fmt.Fprintf(w, "%9s %8s %6s %8s   %10s %10s %10s %12s\n", "readers", "streams", "nodes", "deploys",
		"a session", "for each", "Fantail", "first two")
	fmt.Fprintf(w, "%9s %8s %6s %8s   %10s %10s %10s %12s\n", "", "", "", "a day",
		"a reader", "node", "", "÷ Fantail")
	for _, f := range fleets {
		b := m.bill(f)
		fmt.Fprintf(w, "%9.0f %8.0f %6.0f %8.0f   %10.2f %10.2f %10.2f %6.1f %5.1f\n",
			f.readers, f.streams, f.nodes, f.deploys, b.naive, b.perNode, b.fantail,
			b.naive/b.fantail, b.perNode/b.fantail)
	}
	f := size{100e3, 1e3, 10, 5}
	fmt.Fprintf(w, `
Fantail's $%.2f for %.0f readers, %.0f streams, %.0f nodes, %.0f deploys a day are
$%.2f of read sessions, $%.2f of appends, $%.2f of the nodes' checks, $%.2f of deploys.

The usual rule of thumb, sessions × %d minutes × $%.6f, gives $%.2f, $%.2f and
$%.2f for these designs: it leaves out appends, checks and deploys, and has readers of
every stream on every node.
`, m.bill(f).fantail, f.readers, f.streams, f.nodes, f.deploys,
		m.sessions(f), f.active()*minutes*m.appends*m.append.dollars(), m.probes(f), m.deploys(f),
		minutes, prices.ReadSessionMinute,
		held(f.readers, 0), held(f.streams*f.nodes, 0), held(f.streams, 0))
}

// print prints what was measured.
func (c counts) print(w io.Writer, l load) {
	fmt.Fprintf(w, `
Measured: operations that reached the embedded S2 from three nodes, as processes, with
%d streams of %d event-stream readers each, dealt out to all nodes. Session minutes are
rounded up for each session. Each reader got each of the %d messages once.

`, l.streams, l.readers, c.messages)
	fmt.Fprintf(w, "%-48s %8s %8s %8s %8s %8s %8s\n", "", "append", "read", "check", "create", "session", "session")
	fmt.Fprintf(w, "%-48s %8s %8s %8s %8s %8s %8s\n", "", "", "", "tail", "stream", "opened", "minutes")
	u, n := c.units(l), float64(l.streams)
	for _, r := range []struct {
		name string
		ops  ops
	}{
		{"a stream is made", c.created.over(n)},
		{"its first readers come", c.cameFew.over(float64(l.few))},
		{"an append", u.append},
		{"a followed stream, a minute", u.followed},
		{"a node that owns such, a minute of silence", u.node},
		{"all nodes replaced: a stream", u.deploy},
		{"… which is, for each time it moved", u.deploy.over(c.moved / n)},
		{"its last reader leaves: until the session ends", c.left.over(n)},
	} {
		fmt.Fprintf(w, "%-48s %8.3f %8.3f %8.3f %8.3f %8.3f %8.3f\n",
			r.name, r.ops.appends, r.ops.reads, r.ops.checks, r.ops.creates, r.ops.sessions, r.ops.minutes)
	}
	fmt.Fprintf(w, `
Moves: %.1f a stream, %.0f of %.0f with all that was known of it. Sessions: %.0f for %d
streams with readers, %.0f afterwards. Tail checks are the node's that asks nothing else:
%.1f a minute of each owner with %d streams followed, %.1f with %d. Minutes of the
deploy are one for each session that it opened, the most that can be begun; the nodes'
checks are taken out of it.
`, c.moved/n, c.moved-c.lost, c.moved, c.openWith, l.streams, c.openAfter,
		c.followedFew.checks/c.ownersFew, l.few, c.followed.checks/c.owners, l.streams)
	if !l.opensSessions() {
		fmt.Fprintf(w, "The nodes have --s2-reads=%s: the checks are those of each stream with readers.\n", l.reads)
	}
}
