package access

import "time"

// Lease says for how long, and as whose, an admitted reader may stay. It is what the edge keeps of
// a decision: 32 bytes, without pointers.
type Lease struct {
	until, issued              uint32 // seconds since 1970; until 0: no end; issued 0: not known
	issuer, key, project, slot uint16 // numbers of rows; slot: the principal's place in the limits
	subject, id                uint64 // seeded hashes; 0: none
}

// EndsAt returns the second, since 1970, in which the lease ends; 0: it has no end. It has a random
// part of up to five seconds, so that the readers of one token do not come back together.
func (l Lease) EndsAt() uint32 { return l.until }

// leaseSpread bounds the random part of a lease's end, in seconds.
const leaseSpread = 5

// End says why a lease is over.
type End uint8

// The ends of a lease. They label fantail_readers_ended_total{why}.
const (
	EndNone    End = iota // it is not over
	EndExpired            // its time is over
	EndRevoked            // its token, subject, key or issuer was revoked, or its key withdrawn
	EndChanged            // the rights of its issuer or project have changed in the file
)

// String returns the metric's label.
func (e End) String() string {
	return [...]string{"", "expired", "revoked", "changed"}[e]
}

// Spread returns the time over which the edge spreads the ends of readers for one such reason.
func (e End) Spread() time.Duration {
	switch e {
	case EndRevoked:
		return time.Second
	case EndChanged:
		return changeSpread * time.Second
	default:
		return 0 // a lease's end is spread already
	}
}

// changeSpread is the time, in seconds, over which readers end after a change of rights.
const changeSpread = 60

// CheckLease returns why a lease is over, and since which second, at a second since 1970. A lease that
// is over for a change of rights may go on for a part of its spread.
func (j *Judge) CheckLease(l Lease, now uint32) (why End, since uint32) {
	if l.until != 0 && now >= l.until {
		return EndExpired, l.until
	}
	if at := j.rows.keys.at(l.key).ended(); at != 0 {
		return EndRevoked, at
	}
	if at := j.revocations.matchLease(l, now); at != 0 {
		return EndRevoked, at
	}
	issuer, project := j.rows.issuers.at(l.issuer).ended(), j.rows.projects.at(l.project).ended()
	switch {
	case issuer == 0 && project == 0:
		return EndNone, 0
	case issuer == 0 || project != 0 && project < issuer:
		return EndChanged, project
	}
	return EndChanged, issuer // the first change counts: a second one gives no more time
}

// Stays reports whether a lease holds at a second since 1970. After a change of rights it holds
// until the time to spread the readers' ends is over; requests are judged by the new rights
// immediately.
func (j *Judge) Stays(l Lease, now uint32) bool {
	why, since := j.CheckLease(l, now)
	return why == EndNone || why == EndChanged && now < since+changeSpread
}

// ChangeCount counts the revocations, withdrawn keys and changes of rights. While it is the same,
// a lease that held still holds until it ends by itself.
func (j *Judge) ChangeCount() uint32 { return j.changes.count.Load() }

// Changed returns a channel that is closed at the next change of ChangeCount.
func (j *Judge) Changed() <-chan struct{} { return j.changes.changed() }
