package main

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/tail"
)

// This file has what a node tells of itself, to operators (GET /admin/node) and to the other nodes,
// whose operators ask for the fleet. docs/admin-api.md has the shapes. Later releases only add
// fields: nodes of two releases read each other's reports.

// nodeReport holds what a node tells of itself.
type nodeReport struct {
	Name            string         `json:"name"`
	Member          string         `json:"member"`
	Version         string         `json:"version"`
	Revision        string         `json:"revision"`
	Go              string         `json:"go"`
	Started         time.Time      `json:"started"`
	HTTP            string         `json:"http"`
	Ready           bool           `json:"ready"`
	NotReadyReason  string         `json:"not_ready_reason"`
	Drain           drainReport    `json:"drain"`
	Readers         map[string]int `json:"readers"`
	OwnedStreams    int            `json:"owned_streams"`
	FollowedStreams int            `json:"followed_streams"`
	ReadStreams     int            `json:"read_streams"`
	S2ReadSessions  int            `json:"s2_read_sessions"`
	S2Reads         string         `json:"s2_reads"`
	S2              s2Report       `json:"s2"`
	S2Usage         *usageReport   `json:"s2_usage,omitempty"`
	Appends         uint64         `json:"appends_total"`
	AppendedBytes   uint64         `json:"appended_bytes_total"`
	DeliveredCount  uint64         `json:"delivered_messages_total"`
	DeliveredBytes  uint64         `json:"delivered_bytes_total"`
}

// s2Report holds what a node tells of its access to S2.
type s2Report struct {
	Up       bool              `json:"up"`
	Requests map[string]uint64 `json:"requests_total"`
}

// streamUse holds what a node tells of a stream that it has in memory.
type streamUse struct {
	Stream   shard.StreamID `json:"stream"`
	Readers  int            `json:"readers"`
	Messages uint64         `json:"messages_total"`
	Bytes    uint64         `json:"bytes_total"`
	Tail     uint64         `json:"tail"`
	Closed   bool           `json:"closed"`
}

// question says what one node asks the others for.
type question struct {
	Node    bool           `json:"node,omitempty"`    // a nodeReport
	Streams *streamsQuery  `json:"streams,omitempty"` // the streams that are used most
	Stream  shard.StreamID `json:"stream,omitempty"`  // one stream
}

// report is the answer to a question.
type report struct {
	Node    *nodeReport `json:"node,omitempty"`
	Streams []streamUse `json:"streams,omitempty"`
	HasMore bool        `json:"more,omitempty"`   // there are more streams than were asked for
	Stream  *streamUse  `json:"stream,omitempty"` // nil: the stream is not in memory
}

// maxReportBytes bounds the JSON of a report.
const maxReportBytes = 900 << 10

// answerQuestion implements cluster.Reporter.
func (n *node) answerQuestion(_ context.Context, q []byte) ([]byte, error) {
	var ask question
	if err := json.Unmarshal(q, &ask); err != nil {
		return nil, err
	}
	r := n.reportOn(ask)
	for {
		b, err := json.Marshal(r)
		if err != nil || len(b) <= maxReportBytes {
			return b, err
		}
		r.Streams, r.HasMore = r.Streams[:len(r.Streams)/2], true
	}
}

// reportOn answers a question about this node.
func (n *node) reportOn(ask question) (r report) {
	if ask.Node {
		r.Node = n.describe()
	}
	if ask.Streams != nil {
		r.Streams, r.HasMore = n.topStreams(ask.Streams.bounded())
	}
	if ask.Stream != "" {
		if u, ok := n.tailBuffers.UsageOf(ask.Stream); ok {
			readers := u.Readers
			if n.relay != nil {
				readers, _ = n.relay.ReadersOf(ask.Stream)
			}
			use := newStreamUse(u, readers)
			r.Stream = &use
		}
	}
	return r
}

func newStreamUse(u tail.Usage, readers int) streamUse {
	return streamUse{u.Stream, readers, u.Received.Messages, u.Received.Bytes, uint64(u.Tail), u.Closed}
}

// describe returns what this node tells of itself.
func (n *node) describe() *nodeReport {
	b, m := currentBuild(), gatherMetrics(n.registry)
	why := n.notReadyReason(time.Now())
	r := &nodeReport{
		Name: n.cfg.name, Member: n.memberName(), Version: b.version, Revision: b.revision, Go: b.goVersion,
		Started: n.started.UTC().Truncate(time.Millisecond), HTTP: n.publicListener.Addr().String(),
		Ready: why == "", NotReadyReason: why, Drain: n.drainReport(),
		Readers:      m.countsBy("fantail_readers", "mode"),
		OwnedStreams: int(m.sum("fantail_owned_streams")), FollowedStreams: int(m.sum("fantail_followed_streams")),
		S2ReadSessions: int(m.sum("fantail_s2_read_sessions")), S2Reads: n.cfg.shard.Mode.String(),
		S2:      s2Report{Up: n.cfg.inProcessS2 != nil || m.sum("fantail_s2_up") > 0, Requests: map[string]uint64{}},
		Appends: uint64(m.sum("fantail_appends_total")), AppendedBytes: uint64(m.sum("fantail_appended_bytes_total")),
		DeliveredCount: uint64(m.sum("fantail_messages_delivered_total")), DeliveredBytes: uint64(m.sum("fantail_delivered_bytes_total")),
	}
	r.S2Usage = n.usage.report()
	for op, count := range m.countsBy("fantail_s2_requests_total", "op") {
		r.S2.Requests[op] = uint64(count)
	}
	n.eachRead(func(_ shard.StreamID, readers int) {
		if readers > 0 {
			r.ReadStreams++
		}
	})
	return r
}

// memberName returns the name of this process in its fleet.
func (n *node) memberName() string {
	if n.relay == nil {
		return n.cfg.name
	}
	return n.relay.Name()
}

// eachRead calls yield for each stream that has readers here, or had until a second ago.
func (n *node) eachRead(yield func(id shard.StreamID, readers int)) {
	if n.relay != nil {
		n.relay.EachFollowed(yield)
		return
	}
	n.tailBuffers.EachUsage(func(u tail.Usage) {
		if u.Readers > 0 {
			yield(u.Stream, u.Readers)
		}
	})
}

// streamsQuery says which streams are asked for.
type streamsQuery struct {
	Sort   streamOrder `json:"sort"`
	Limit  int         `json:"limit"`
	Prefix string      `json:"prefix,omitempty"`
}

// streamOrder is by what streams are sorted. Closed set.
type streamOrder string

const (
	byReaders streamOrder = "readers"
	byBytes   streamOrder = "bytes"
)

const (
	defaultStreamsLimit = 50
	maxStreamsLimit     = 200
)

// bounded returns the query with what a later release may ask for replaced by what this one knows.
func (q *streamsQuery) bounded() streamsQuery {
	b := *q
	if b.Sort != byBytes {
		b.Sort = byReaders
	}
	b.Limit = min(max(b.Limit, 1), maxStreamsLimit)
	return b
}

func (o streamOrder) compare(a, b *streamUse) int {
	readers, bytes := cmp.Compare(b.Readers, a.Readers), cmp.Compare(b.Bytes, a.Bytes)
	if o == byBytes {
		readers, bytes = bytes, readers
	}
	return cmp.Or(readers, bytes, cmp.Compare(a.Stream, b.Stream))
}

// topStreams returns the first streams of this node, in the order of the query. The streams of the
// fleet's own are none.
func (n *node) topStreams(q streamsQuery) (top []streamUse, more bool) {
	readers := map[shard.StreamID]int{}
	n.eachRead(func(id shard.StreamID, count int) { readers[id] = count })
	cut := func(limit int) {
		if len(top) > limit {
			slices.SortFunc(top, func(a, b streamUse) int { return q.Sort.compare(&a, &b) })
			clear(top[q.Limit:])
			top, more = top[:q.Limit], true
		}
	}
	n.tailBuffers.EachUsage(func(u tail.Usage) {
		if id := u.Stream; !id.Reserved() && !isFleetsOwn(id) && strings.HasPrefix(string(id), q.Prefix) {
			top = append(top, newStreamUse(u, readers[id]))
			cut(2 * q.Limit)
		}
	})
	cut(q.Limit)
	slices.SortFunc(top, func(a, b streamUse) int { return q.Sort.compare(&a, &b) })
	return top, more
}

// isFleetsOwn reports whether the fleet keeps a stream for itself.
func isFleetsOwn(id shard.StreamID) bool {
	_, name, _ := strings.Cut(string(id), "/")
	return name == shard.RevocationsStream
}

// gathered holds the metrics of a node at a moment, by name.
type gathered map[string]*dto.MetricFamily

func gatherMetrics(reg *prometheus.Registry) gathered {
	families, _ := reg.Gather() // what could be gathered is there
	g := make(gathered, len(families))
	for _, f := range families {
		g[f.GetName()] = f
	}
	return g
}

// sum returns the sum of a metric over its labels.
func (g gathered) sum(name string) (sum float64) {
	for _, m := range g[name].GetMetric() {
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return sum
}

// countsBy returns the sums of a metric for each value of a label.
func (g gathered) countsBy(name, label string) map[string]int {
	counts := map[string]int{}
	for _, m := range g[name].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == label {
				counts[l.GetValue()] += int(m.GetGauge().GetValue() + m.GetCounter().GetValue())
			}
		}
	}
	return counts
}

// handleNode answers GET /admin/node.
func (n *node) handleNode(w http.ResponseWriter, _ *http.Request) { writeJSON(w, n.describe()) }
