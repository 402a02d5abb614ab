package shard

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Standing describes how this node stands with storage, as its own probe finds with its own
// settings. It is a value; answers to requests never change it. The zero Standing is that of a Log
// without sites: all is well.
type Standing struct {
	// HasSites: there are sites to ask at.
	HasSites bool
	// Since is the time at which the node began to ask.
	Since time.Time
	// Passed: since then storage has answered the probe, and given every right.
	Passed bool
	// Refused is the reason for which storage refuses this node now; empty: it does not.
	Refused string
	// Silent is the reason for which the last probe had no answer; empty: it had one.
	Silent string
	// Fleet is the hash of the fleet in the record that was found (Member.Fleet); 0: none was
	// found.
	Fleet uint64
	// RecordProblem describes what is wrong with the fleet's record, so that this node must not own
	// streams; empty: nothing.
	RecordProblem string
	// Where names the basin, and the setting that names it.
	Where string
	// Level is the format level of the record; 0 where there is none.
	Level uint8
}

// OutageAfter bounds how long a node waits for storage's first answer. Then it is ready, and owns
// streams, without one. If storage answers no other node either, it is probably down, and not set
// wrongly; a node gives clients a better refusal than a balancer without nodes.
const OutageAfter = time.Minute

// Lost reports whether storage does not serve this node, whatever the Manager finds: storage
// refuses it, or has never answered it.
func (s Standing) Lost() bool { return s.HasSites && (s.Refused != "" || !s.Passed) }

// Trouble returns in one line why a node without a fleet beside it must not be ready; empty: it may
// be.
func (s Standing) Trouble(now time.Time) string {
	switch {
	case !s.HasSites:
		return ""
	case s.Refused != "":
		return s.Refused
	case !s.Passed && now.Sub(s.Since) >= OutageAfter:
		return ""
	case !s.Passed && s.Silent == "":
		return "S2 has not answered yet"
	case !s.Passed:
		return s.Silent
	}
	return s.RecordProblem
}

// Role holds what a node may do about the fleet's record.
type Role struct {
	// Owns: the node owns streams. The fleet that it has found stays the same until it owns none.
	Owns bool
	// MayCreate: the node may write a record where there is none: it has looked for other nodes and
	// knows of no owner that has one.
	MayCreate bool
	// SoleOwner: no other node owns streams, so this node's settings are right.
	SoleOwner bool
	// Level is the format level that all members speak.
	Level uint8
}

// raiseLevelAfter is the time for which all members must have spoken a format level before an owner
// writes it into the record.
const raiseLevelAfter = 10 * time.Minute

// levelRaise remembers since when all members speak a format level.
type levelRaise struct {
	level uint8
	since time.Time
}

// isDue reports whether all members have spoken the level for long enough.
func (r *levelRaise) isDue(now time.Time, level uint8) bool {
	if r.since.IsZero() || level != r.level {
		r.level, r.since = level, now
	}
	return now.Sub(r.since) >= raiseLevelAfter
}

// finding is the result of reading one site.
type finding struct {
	err     error
	absent  bool         // no record, and nothing in its place
	invalid error        // what stands in the record's place is not one
	first   *fleetRecord // the record at position 0
	last    *fleetRecord // the newest record; first if there is no other
	lastPos Pos
	tail    Pos
}

// siteState holds what is known of a site. The goroutine that asks at the site owns it while it
// asks, and the round owns it otherwise.
type siteState struct {
	Site
	finding
	fleetID      FleetID // the fleet of the first record that this node has found or written here
	hasFleet     bool
	createProbed time.Time // when the right to create streams was last asked for
	lastWarning  string    // about the record
}

// setNewest puts the newest valid record of a page into the finding.
func (f *finding) setNewest(recs []Record) {
	for _, r := range recs {
		if !isFleetRecord(r) {
			continue
		}
		if rec, err := decodeFleetRecord(r); err == nil && f.first != nil && rec.id == f.first.id {
			f.last, f.lastPos = rec, r.Pos
		}
	}
}

// setFirst puts what stands at position 0 into the finding.
func (f *finding) setFirst(p Page) {
	switch {
	case len(p.Records) == 0 && (!p.HasTail || p.Tail == 0):
		f.absent = true
	case len(p.Records) == 0 || p.Records[0].Pos > 0:
		f.invalid = errFleetTrimmed
	default:
		f.first, f.invalid = decodeFleetRecord(p.Records[0])
		f.last = f.first
	}
}

var errFleetTrimmed = errors.New("position 0 was trimmed away")

// oneLine returns several explanations in one line.
func oneLine(all []string) string {
	const most = 3
	if n := len(all); n > most {
		all = append(all[:most:most], fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(all, "; ")
}
