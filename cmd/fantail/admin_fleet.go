package main

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// This file has what a node tells of its fleet: GET /admin/fleet. It asks the other nodes.

// fleetReport is the answer of GET /admin/fleet.
type fleetReport struct {
	At         time.Time      `json:"at"`
	Asked      string         `json:"asked"`
	Cluster    string         `json:"cluster"`
	Partitions int            `json:"partitions"`
	Members    []memberReport `json:"members"`
	Changes    []time.Time    `json:"changes"`
	Totals     fleetTotals    `json:"totals"`
	Meter      meterReport    `json:"meter"`
}

// memberReport holds what the asked node knows of a member, and what the member tells of itself.
type memberReport struct {
	Name         string      `json:"name"`
	Member       string      `json:"member"`
	Answered     bool        `json:"answered"`
	Self         bool        `json:"self"`
	Link         string      `json:"link"`
	HTTP         string      `json:"http"`
	Relay        string      `json:"relay"`
	Owner        bool        `json:"owner"`
	Partitions   int         `json:"partitions"`
	OwnsFrom     *time.Time  `json:"owns_from"`
	OwnsUntil    *time.Time  `json:"owns_until"`
	Leaving      bool        `json:"leaving"`
	StoreDown    bool        `json:"store_down"`
	ClockAheadMS int64       `json:"clock_ahead_ms"`
	Node         *nodeReport `json:"node,omitempty"`
}

type fleetTotals struct {
	Readers         int `json:"readers"`
	Streams         int `json:"streams"`
	FollowedStreams int `json:"followed_streams"`
	S2ReadSessions  int `json:"s2_read_sessions"`
}

// meterReport says what the readers that are connected now cost, if they stay.
type meterReport struct {
	Readers        int         `json:"readers"`
	ReadStreams    int         `json:"read_streams"`
	S2ReadSessions int         `json:"s2_read_sessions"`
	Dollars        meterPrices `json:"dollars_a_month"`
	SessionMinute  float64     `json:"price_of_a_session_minute"`
	// Usage is S2's own count, of which Dollars know nothing.
	Usage *usageReport `json:"s2_usage,omitempty"`
}

type meterPrices struct {
	ThinAdapter float64 `json:"thin_adapter"`
	FanOut      float64 `json:"fan_out"`
	Fantail     float64 `json:"fantail"`
	Saved       float64 `json:"saved"`
}

// The managed S2's prices (docs/cost.md), in dollars.
const (
	dollarsSessionMinute = 0.000001
	dollarsCheck         = 0.0000001
	minutesAMonth        = 30 * 24 * 60
	checksAMinute        = 2 // of a stream with readers, if no session is open (--s2-reads)
)

// count adds a node's readers.
func (m *meterReport) count(n *nodeReport) {
	for mode, readers := range n.Readers {
		if mode != "catch-up" {
			m.Readers += readers
		}
	}
	if u := n.S2Usage; u != nil && (m.Usage == nil || u.Until.After(m.Usage.Until)) {
		m.Usage = u
	}
	m.ReadStreams += n.ReadStreams
	m.S2ReadSessions += n.S2ReadSessions
	m.Dollars.Fantail += float64(n.S2ReadSessions) * dollarsSessionMinute * minutesAMonth
	if n.S2Reads != shard.ModeSession.String() {
		m.Dollars.Fantail += float64(max(n.FollowedStreams-n.S2ReadSessions, 0)) * checksAMinute * dollarsCheck * minutesAMonth
	}
}

// finish computes what the other designs would cost.
func (m *meterReport) finish() {
	m.SessionMinute = dollarsSessionMinute
	m.Dollars.ThinAdapter = float64(m.Readers) * dollarsSessionMinute * minutesAMonth
	m.Dollars.FanOut = float64(m.ReadStreams) * dollarsSessionMinute * minutesAMonth
	m.Dollars.Saved = m.Dollars.ThinAdapter - m.Dollars.Fantail
}

// fleetCacheTime bounds the age of an answer that is given again.
const fleetCacheTime = 300 * time.Millisecond

// fleetAsker asks the other nodes, one question at a time: several browsers with the
// same page cost the fleet as much as one.
type fleetAsker struct {
	mu       sync.Mutex
	question string
	at       time.Time
	answers  map[string]report // by member
}

// askFleet returns the answers of all nodes, by the names of the members that answered.
func (n *node) askFleet(ctx context.Context, ask question) map[string]report {
	if n.relay == nil {
		return map[string]report{n.memberName(): n.reportOn(ask)}
	}
	q, _ := json.Marshal(ask)
	a := &n.fleetAsker
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.question == string(q) && time.Since(a.at) < fleetCacheTime {
		return a.answers
	}
	answers := map[string]report{}
	for member, b := range n.relay.AskReports(ctx, q) {
		var r report
		if json.Unmarshal(b, &r) == nil {
			answers[member] = r
		}
	}
	answers[n.memberName()] = n.reportOn(ask)
	a.question, a.at, a.answers = string(q), time.Now(), answers
	return answers
}

// handleFleet answers GET /admin/fleet.
func (n *node) handleFleet(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, n.describeFleet(r.Context()))
}

func (n *node) describeFleet(ctx context.Context) fleetReport {
	answers, now := n.askFleet(ctx, question{Node: true}), time.Now()
	f := fleetReport{At: now.UTC().Truncate(time.Millisecond), Asked: n.cfg.name, Partitions: placement.Partitions, Changes: []time.Time{}}
	if n.relay == nil {
		f.Members = []memberReport{{
			Name: n.cfg.name, Member: n.memberName(), Self: true, HTTP: n.publicListener.Addr().String(),
			Owner: true, Partitions: placement.Partitions,
		}}
	} else {
		f.Cluster, f.Members = n.cfg.fleet.FleetName, n.listMembers(now)
		for _, at := range n.relay.View().TableChanges() {
			if at.After(now) {
				f.Changes = append(f.Changes, at.UTC())
			}
		}
	}
	for i := range f.Members {
		m := &f.Members[i]
		if m.Link = n.linkState(m.Member); m.Self {
			m.Link = "self"
		}
		if a := answers[m.Member].Node; a != nil {
			m.Answered, m.Node, m.HTTP = true, a, a.HTTP
			f.Totals.add(a)
			f.Meter.count(a)
		}
	}
	f.Meter.finish()
	return f
}

func (t *fleetTotals) add(n *nodeReport) {
	for _, readers := range n.Readers {
		t.Readers += readers
	}
	t.Streams += n.OwnedStreams
	t.FollowedStreams += n.FollowedStreams
	t.S2ReadSessions += n.S2ReadSessions
}

// listMembers returns the members as gossip and the ring tell them.
func (n *node) listMembers(now time.Time) []memberReport {
	view := n.relay.View()
	table := view.TableAt(now)
	shares := table.CountPartitions()
	var members []memberReport
	for _, m := range view.Members() {
		r := memberReport{
			Name: m.RingKey, Member: m.Name, Self: m.Name == n.relay.Name(), HTTP: m.HTTPAddr, Relay: m.RelayAddr,
			Owner: table.HasOwner(m.Name), Partitions: shares[m.Name], OwnsFrom: ownsDate(m.OwnsFrom), OwnsUntil: ownsDate(m.OwnsUntil),
			Leaving: m.Flags&placement.FlagLeaving != 0, StoreDown: m.Flags&placement.FlagStoreDown != 0,
			ClockAheadMS: n.relay.PeerLink(m.Name).ClockAhead.Milliseconds(),
		}
		members = append(members, r)
	}
	slices.SortFunc(members, func(a, b memberReport) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Member, b.Member)
	})
	return members
}

// ownsDate returns a date of a member; nil: it does not come, or the member began with it.
func ownsDate(ms shard.Millis) *time.Time {
	if ms == 0 || ms == placement.Never {
		return nil
	}
	t := time.UnixMilli(int64(ms)).UTC()
	return &t
}

// linkState returns whether this node has a link to a member.
func (n *node) linkState(member string) string {
	if n.relay != nil && n.relay.PeerLink(member).Up {
		return "up"
	}
	return "down"
}
