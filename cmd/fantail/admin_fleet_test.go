package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
)

// askAdmin decodes what a node's admin address answers.
func askAdmin[T any](t *testing.T, c *client, n *node, path string) (answer T) {
	t.Helper()
	body := c.must(t, 200, "GET", "http://"+n.adminListener.Addr().String()+path, "").body
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %v in %s", path, err, body)
	}
	return answer
}

// Each node of a fleet, and a lone node, tells the same of the fleet: its members with their shares
// of the ring, the streams with their readers on all nodes, and what the readers cost.
func TestAdminTellsOfTheFleet(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			f, c := startFleet(t, nodes), newClient(t)
			const readers, written = 9, 4
			for _, name := range []string{"busy", "quiet"} {
				c.must(t, 201, "PUT", f.url(0, name), "", ofJSON...)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			_, ended := c.follow(ctx, t, readers, 20*time.Second, func(i, _ int) string { return f.url(i, "busy") })
			for i := range written {
				c.must(t, 204, "POST", f.url(i, "busy"), `"12345"`, ofJSON...)
			}
			c.must(t, 204, "POST", f.url(0, "quiet"), `"a longer message than all the others together"`, ofJSON...)
			for i, n := range f.nodes {
				eventually(t, 20*time.Second, fmt.Sprintf("node %d sees every reader, and each node is ready", i), func() bool {
					r := askAdmin[fleetReport](t, c, n, "/admin/fleet")
					return r.Totals.Readers == readers && !slices.ContainsFunc(r.Members, func(m memberReport) bool { return m.Node == nil || !m.Node.Ready })
				})
				checkFleetReport(t, askAdmin[fleetReport](t, c, n, "/admin/fleet"), nodes, readers)
				checkStreamsReport(t, c, n, nodes, readers, written)
			}
			stop()
			ended()
		})
	}
}

func checkFleetReport(t *testing.T, r fleetReport, nodes, readers int) {
	t.Helper()
	parts := 0
	for _, m := range r.Members {
		parts += m.Partitions
		switch {
		case !m.Answered, m.Node == nil, !m.Node.Ready, !m.Owner, m.Node.Name != m.Name, !m.Node.S2.Up:
			t.Errorf("member %+v with %+v", m, m.Node)
		case m.Self != (m.Link == "self"), !m.Self && m.Link != "up":
			t.Errorf("%s: link %s", m.Name, m.Link)
		}
	}
	if len(r.Members) != nodes || parts != placement.Partitions {
		t.Errorf("%d members with %d of %d partitions", len(r.Members), parts, placement.Partitions)
	}
	m := r.Meter
	if m.Readers != readers || m.ReadStreams != nodes || m.S2ReadSessions != 1 {
		t.Errorf("the meter counts %+v", m)
	}
	// docs/cost.md: an open read is $0.0432 a month.
	near := func(got, want float64) bool { return got > want-1e-9 && got < want+1e-9 }
	if d := m.Dollars; !near(d.ThinAdapter, 0.0432*float64(readers)) || !near(d.FanOut, 0.0432*float64(nodes)) || !near(d.Fantail, 0.0432) || !near(d.Saved, 0.0432*float64(readers-1)) {
		t.Errorf("the meter says %+v", d)
	}
}

func checkStreamsReport(t *testing.T, c *client, n *node, nodes, readers, written int) {
	t.Helper()
	first := func(path string) streamReport {
		t.Helper()
		r := askAdmin[streamsReport](t, c, n, path)
		if len(r.Silent) > 0 || len(r.Streams) == 0 {
			t.Fatalf("%s: %+v", path, r)
		}
		return r.Streams[0]
	}
	busy := first("/admin/streams")
	if busy.Stream != "default/busy" || busy.Readers != readers || busy.Messages != uint64(written) || busy.Bytes != uint64(7*written) {
		t.Errorf("by readers: %+v", busy)
	}
	sum := 0
	for _, on := range busy.Nodes {
		sum += on.Readers
	}
	if len(busy.Nodes) != nodes || sum != readers {
		t.Errorf("readers by node: %+v", busy.Nodes)
	}
	if s := first("/admin/streams?sort=bytes&limit=1"); s.Stream != "default/quiet" {
		t.Errorf("by bytes: %+v", s)
	}
	if r := askAdmin[streamsReport](t, c, n, "/admin/streams?prefix=default/b"); len(r.Streams) != 1 || r.HasMore {
		t.Errorf("by prefix: %+v", r)
	}
	if r := askAdmin[streamsReport](t, c, n, "/admin/streams?limit=1"); len(r.Streams) != 1 || !r.HasMore {
		t.Errorf("of one: %+v", r)
	}
	owner := askAdmin[ownerReport](t, c, n, "/admin/owner?stream="+url.QueryEscape("default/busy"))
	holds := slices.ContainsFunc(owner.Nodes, func(on streamOnNode) bool { return on.Name == owner.Owner && on.Holds })
	if owner.Owner != busy.Owner || owner.Readers != readers || len(owner.Nodes) != nodes || !holds || (owner.Successor == "") != (nodes == 1) {
		t.Errorf("owner: %+v", owner)
	}
}

// What is no question answers 400.
func TestAdminRefusesWhatItCannotAnswer(t *testing.T) {
	f, c := startFleet(t, 1), newClient(t)
	for _, path := range []string{"/admin/owner", "/admin/owner?stream=__ds/x", "/admin/streams?sort=age", "/admin/streams?limit=0", "/admin/streams?limit=201", "/admin/streams?limit=x"} {
		c.must(t, 400, "GET", "http://"+f.nodes[0].adminListener.Addr().String()+path, "")
	}
}

// A fleet whose nodes do not answer is shown with what gossip tells.
func TestAdminTellsOfSilentNodes(t *testing.T) {
	f, c := startFleet(t, 2), newClient(t)
	f.nodes[1].relay.AnswerReports(func(context.Context, []byte) ([]byte, error) { return []byte("no JSON"), nil })
	r := askAdmin[fleetReport](t, c, f.nodes[0], "/admin/fleet")
	if len(r.Members) != 2 || !r.Members[0].Answered || r.Members[1].Answered || r.Members[1].Partitions == 0 {
		t.Errorf("%+v", r.Members)
	}
	if s := askAdmin[streamsReport](t, c, f.nodes[0], "/admin/streams"); !slices.Equal(s.Silent, []string{"node-2"}) {
		t.Errorf("silent: %v", s.Silent)
	}
}
