package main

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// This file has what a node tells of streams in its fleet: GET /admin/streams and GET /admin/owner.

// streamsReport is the answer of GET /admin/streams.
type streamsReport struct {
	At      time.Time      `json:"at"`
	Sort    streamOrder    `json:"sort"`
	HasMore bool           `json:"more"`
	Silent  []string       `json:"silent"`
	Streams []streamReport `json:"streams"`
}

// streamReport is a stream with its readers on all nodes.
type streamReport struct {
	streamUse
	Owner string          `json:"owner"`
	Nodes []readersOnNode `json:"nodes"`
}

type readersOnNode struct {
	Name    string `json:"name"`
	Readers int    `json:"readers"`
}

// handleStreams answers GET /admin/streams.
func (n *node) handleStreams(w http.ResponseWriter, r *http.Request) {
	q := streamsQuery{Sort: streamOrder(cmp.Or(r.FormValue("sort"), string(byReaders))), Prefix: r.FormValue("prefix")}
	limit, err := strconv.Atoi(cmp.Or(r.FormValue("limit"), strconv.Itoa(defaultStreamsLimit)))
	switch {
	case q.Sort != byReaders && q.Sort != byBytes:
		http.Error(w, "sort: want readers or bytes", http.StatusBadRequest)
		return
	case err != nil || limit < 1 || limit > maxStreamsLimit:
		http.Error(w, "limit: want 1 to "+strconv.Itoa(maxStreamsLimit), http.StatusBadRequest)
		return
	case len(q.Prefix) > shard.MaxStreamID:
		http.Error(w, "prefix: no stream's name is that long", http.StatusBadRequest)
		return
	}
	q.Limit = limit
	answers := n.askFleet(r.Context(), question{Streams: &q})
	out := streamsReport{At: time.Now().UTC().Truncate(time.Millisecond), Sort: q.Sort, Silent: n.silentNodes(answers)}
	out.Streams, out.HasMore = n.mergeStreams(answers, q)
	writeJSON(w, out)
}

// mergeStreams returns the first streams of all nodes' answers.
func (n *node) mergeStreams(answers map[string]report, q streamsQuery) (top []streamReport, more bool) {
	table := n.ownerTable()
	byID := map[shard.StreamID]*streamReport{}
	for member, a := range answers {
		more = more || a.HasMore
		for _, use := range a.Streams {
			s := byID[use.Stream]
			if s == nil {
				s = &streamReport{Owner: n.ownerName(table, use.Stream), Nodes: []readersOnNode{}}
				s.Stream = use.Stream
				byID[use.Stream] = s
			}
			s.add(n.nodeName(member), use)
		}
	}
	top = make([]streamReport, 0, len(byID))
	for _, s := range byID {
		slices.SortFunc(s.Nodes, func(a, b readersOnNode) int { return cmp.Compare(a.Name, b.Name) })
		top = append(top, *s)
	}
	slices.SortFunc(top, func(a, b streamReport) int { return q.Sort.compare(&a.streamUse, &b.streamUse) })
	if len(top) > q.Limit {
		top, more = top[:q.Limit], true
	}
	return top, more
}

// add adds what a node says of the stream. The owner knows best what came; what another node has is
// a part of it.
func (s *streamReport) add(name string, use streamUse) {
	s.Readers += use.Readers
	if use.Readers > 0 || name != s.Owner {
		s.Nodes = append(s.Nodes, readersOnNode{name, use.Readers})
	}
	s.Messages, s.Bytes = max(s.Messages, use.Messages), max(s.Bytes, use.Bytes)
	s.Tail, s.Closed = max(s.Tail, use.Tail), s.Closed || use.Closed
}

// ownerReport is the answer of GET /admin/owner.
type ownerReport struct {
	Stream    shard.StreamID `json:"stream"`
	Partition int            `json:"partition"`
	Owner     string         `json:"owner"`
	Successor string         `json:"successor"`
	Next      []nextOwner    `json:"next"`
	Readers   int            `json:"readers"`
	Silent    []string       `json:"silent"`
	Nodes     []streamOnNode `json:"nodes"`
}

type nextOwner struct {
	From  time.Time `json:"from"`
	Owner string    `json:"owner"`
}

type streamOnNode struct {
	Name   string    `json:"name"`
	Holds  bool      `json:"holds"`
	Stream *struct{} `json:"stream,omitempty"` // hides streamUse's: the report has it once
	streamUse
}

// handleOwner answers GET /admin/owner.
func (n *node) handleOwner(w http.ResponseWriter, r *http.Request) {
	id, err := shard.ParsePeerStreamID(r.FormValue("stream"))
	if err != nil {
		http.Error(w, "stream: want PROJECT/NAME: "+err.Error(), http.StatusBadRequest)
		return
	}
	answers := n.askFleet(r.Context(), question{Stream: id})
	out := ownerReport{Stream: id, Partition: placement.PartitionOf(id), Next: []nextOwner{}, Silent: n.silentNodes(answers), Nodes: []streamOnNode{}}
	table := n.ownerTable()
	out.Owner = n.ownerName(table, id)
	if table != nil {
		out.addSuccessors(n, table, id)
	}
	for member, a := range answers {
		on := streamOnNode{Name: n.nodeName(member), Holds: a.Stream != nil}
		if a.Stream != nil {
			on.streamUse = *a.Stream
			out.Readers += a.Stream.Readers
		}
		out.Nodes = append(out.Nodes, on)
	}
	slices.SortFunc(out.Nodes, func(a, b streamOnNode) int { return cmp.Compare(a.Name, b.Name) })
	writeJSON(w, out)
}

// addSuccessors adds the owners to come.
func (o *ownerReport) addSuccessors(n *node, table *placement.OwnerTable, id shard.StreamID) {
	owner := table.Owner(id)
	if owner == nil {
		return
	}
	if next := table.Without([]string{owner.Name}).Owner(id); next != nil {
		o.Successor = next.RingKey
	}
	last, view := o.Owner, n.relay.View()
	for _, at := range view.TableChanges() {
		if at.Before(time.Now()) {
			continue
		}
		if m := view.TableAt(at).Owner(id); m != nil && m.RingKey != last {
			last = m.RingKey
			o.Next = append(o.Next, nextOwner{at.UTC(), last})
		}
	}
}

// ownerTable returns the present owners; nil: this node is alone.
func (n *node) ownerTable() *placement.OwnerTable {
	if n.relay == nil {
		return nil
	}
	return n.relay.View().TableAt(time.Now())
}

// ownerName returns the name of a stream's owner; empty: no node owns streams yet.
func (n *node) ownerName(t *placement.OwnerTable, id shard.StreamID) string {
	if t == nil {
		return n.cfg.name
	}
	if m := t.Owner(id); m != nil {
		return m.RingKey
	}
	return ""
}

// nodeName returns the name of a member's node, without what tells its process from earlier ones.
func (n *node) nodeName(member string) string {
	if n.relay != nil {
		if m := n.relay.View().Member(member); m != nil {
			return m.RingKey
		}
	}
	return member
}

// silentNodes returns the names of the nodes that gave no answer.
func (n *node) silentNodes(answers map[string]report) []string {
	silent := []string{}
	if n.relay == nil {
		return silent
	}
	for _, m := range n.relay.View().Members() {
		if _, ok := answers[m.Name]; !ok {
			silent = append(silent, m.RingKey)
		}
	}
	slices.Sort(silent)
	return silent
}
