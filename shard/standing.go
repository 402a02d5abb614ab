package shard

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Standing is how this node stands with storage, as its own probe finds with its own
// settings. It is a value; answers to requests never change it. The zero Standing is that of
// a Log with nothing to ask: all is well.
type Standing struct {
	// HasSites: there are sites to ask at.
	HasSites bool
	// Since is when the node began to ask.
	Since time.Time
	// Passed: since then storage has answered the probe, and given every right.
	Passed bool
	// Refused is why storage refuses this node now; empty: it does not.
	Refused string
	// Silent is why the last probe had no answer; empty: it had one.
	Silent string
	// Fleet stands for the fleet whose record was found (Member.Fleet); 0: none was.
	Fleet uint64
	// RecordProblem is what is wrong with the fleet's record, so that this node must not own
	// streams; empty: nothing.
	RecordProblem string
	// Where says which basin, and by which setting.
	Where string
	// Level is the format level of the record; 0 where there is none.
	Level uint8
}

// OutageAfter is how long a node waits for storage's first answer before it is ready, and
// owns streams, without one: if nobody else has been answered either, the settings need not
// be wrong, and readers are better refused by a node than by a balancer.
const OutageAfter = time.Minute

// Lost reports whether storage does not serve this node, whatever the Manager finds: it refuses
// it, or has never answered it.
func (s Standing) Lost() bool { return s.HasSites && (s.Refused != "" || !s.Passed) }

// Trouble says in one line why the node must not be ready, if it has no fleet beside it;
// empty: it may.
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

// Role is what a node may do about the fleet's record.
type Role struct {
	// Owns: the node owns streams. What it has found stands until it does not.
	Owns bool
	// MayCreate: the node may write a record where there is none: it has looked for others and
	// knows of no owner that has one.
	MayCreate bool
	// SoleOwner: no other node owns streams, so what this node's settings say is right.
	SoleOwner bool
	// Level is the format level that all members speak.
	Level uint8
}

// raiseLevelAfter is how long all members have spoken a format level before an owner says so in
// the record.
const raiseLevelAfter = 10 * time.Minute

// levelRaise is the patience with a format level.
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

// finding is what a look at one site found.
type finding struct {
	err     error
	absent  bool         // no record, and nothing in its place
	invalid error        // what stands in the record's place is none
	first   *fleetRecord // at position 0
	last    *fleetRecord // the newest; at position 0 if there is no other
	lastPos uint64
	tail    uint64
}

// siteState is what is known of a site.
type siteState struct {
	Site
	finding
	fleetID      FleetID // what this node has found first, or written
	hasFleet     bool
	createProbed time.Time // the right to make streams was asked for
	lastWarning  string    // said of the record
}

// setNewest takes the newest valid record of a page into the finding.
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

// setFirst decides what stands where the record belongs.
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

// oneLine puts several explanations in one line.
func oneLine(all []string) string {
	const most = 3
	if n := len(all); n > most {
		all = append(all[:most:most], fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(all, "; ")
}
