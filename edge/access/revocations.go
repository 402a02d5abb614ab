package access

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxRevocations bounds those that hold at a time. Beyond, revoke by key or issuer.
	MaxRevocations = 10_000
	// blockForGood is for how long a key stays revoked: the time of a token says nothing about it,
	// because the key's thief writes the time.
	blockForGood = 10 * 365 * 24 * time.Hour
)

// revokedBy names the kind of what a revocation is about.
type revokedBy uint8

const (
	bySubject revokedBy = iota
	byID
	byKey
	byIssuer
	byURLKey
)

// revokedKey finds the revocations that may be about a credential. value is a seeded hash; a
// collision of one is less likely than a failure of the machine.
type revokedKey struct {
	by            revokedBy
	issuer, value uint64
}

// hold is one revocation that holds.
type hold struct {
	project string // empty: in all
	before  uint32 // tokens that were issued then or before; the greatest number: all
	until   uint32 // the second in which it ends
}

// Revocations lists what has been revoked. It is fed with the messages of one stream, which every
// node follows. It is safe for concurrent use.
type Revocations struct {
	env   *environment
	keys  [][]byte
	rules *atomic.Pointer[rules]

	count atomic.Int32 // holds; readers look at it first

	mu       sync.RWMutex
	holds    map[revokedKey][]hold
	list     []Revocation
	position string // of the newest message
	rejected int    // messages that were not made by the fleet
}

func newRevocations(env *environment, keys [][]byte, rs *atomic.Pointer[rules]) *Revocations {
	if len(keys) == 0 {
		var own [32]byte
		readRandom(own[:])
		keys = [][]byte{own[:]}
	}
	return &Revocations{env: env, keys: keys, rules: rs, holds: map[revokedKey][]hold{}}
}

// SetKeys replaces the keys that authenticate revocations: the first makes new ones. It reports whether
// the keys have changed: then rejected revocations may be good, so the stream has to be read from its
// start. Revocations in force stay in force. If a key is withdrawn, nodes that start later do not know
// the revocations that it signed.
func (r *Revocations) SetKeys(keys [][]byte) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(keys) == 0 || slices.EqualFunc(r.keys, keys, bytes.Equal) {
		return false
	}
	r.keys, r.rejected = keys, 0
	return true
}

// RevocationKey derives the key that authenticates revocations from a secret of the fleet.
func RevocationKey(secret []byte) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, "fantail/revocations/1", 32)
	if err != nil { // of lengths alone
		panic(err)
	}
	return key
}

// Project returns the project that holds the stream of revocations; ok is false if the file names
// none: then nothing can be revoked (501).
func (r *Revocations) Project() (name string, ok bool) {
	name = r.rules.Load().revocations
	return name, name != ""
}

var (
	errManyRevocations = fmt.Errorf("%d revocations hold already: revoke by key or issuer", MaxRevocations)
	errForged          = errors.New("a revocation without the fleet's authentication is ignored")
)

// Apply takes one message of the stream, or an array of them, that stands at a position. A message
// that was not made by the fleet is an error, and ignored; the position counts as read even so.
func (r *Revocations) Apply(message []byte, position string) error {
	entries, err := splitMessages(message)
	added := false
	now := r.env.second()
	r.mu.Lock()
	r.position = position
	for _, b := range entries {
		one, bad := r.decode(b)
		switch {
		case bad != nil:
			r.rejected++
			err = errors.Join(err, bad)
		case one.Until <= now:
		case r.add(one, now):
			added = true
		default:
			err = errors.Join(err, errManyRevocations)
		}
	}
	r.mu.Unlock()
	if added {
		r.env.changes.raise()
	}
	return err
}

// add takes a revocation, unless the list is full beyond what nodes that revoke at the same time
// can have made of it. Under mu.
func (r *Revocations) add(one Revocation, now uint32) bool {
	if len(r.list) >= MaxRevocations {
		r.sweep(now)
	}
	if len(r.list) >= 2*MaxRevocations {
		return false
	}
	if r.has(one) {
		return true
	}
	r.list = append(r.list, one)
	r.addHold(one)
	return true
}

// has reports whether the list has the same revocation. Under mu.
func (r *Revocations) has(one Revocation) bool {
	for _, h := range r.holds[r.keyOf(one)] {
		if h == one.toHold() {
			return true
		}
	}
	return false
}

func (r *Revocations) addHold(one Revocation) {
	k := r.keyOf(one)
	r.holds[k] = append(r.holds[k], one.toHold())
	r.count.Store(int32(len(r.list))) //nolint:gosec // bounded
}

// sweep drops what holds no longer. Under mu.
func (r *Revocations) sweep(now uint32) {
	kept := r.list[:0]
	clear(r.holds)
	for _, one := range r.list {
		if one.Until > now {
			kept = append(kept, one)
			r.addHold(one)
		}
	}
	clear(r.list[len(kept):])
	r.list = kept
	r.count.Store(int32(len(kept))) //nolint:gosec // bounded
}

// keyOf returns where a revocation is found.
func (r *Revocations) keyOf(one Revocation) revokedKey {
	hash := r.env.rows.hash
	k := revokedKey{issuer: hash(one.Issuer)}
	switch {
	case one.KID != "":
		return revokedKey{by: byURLKey, value: mix(hash(one.Project), hash(one.KID))}
	case one.Subject != "":
		k.by, k.value = bySubject, hash(one.Subject)
	case one.ID != "":
		k.by, k.value = byID, hash(one.ID)
	case one.Key != "":
		k.by, k.value = byKey, hash(one.Key)
	default:
		k.by = byIssuer
	}
	return k
}

// Position returns how far the stream has been read.
func (r *Revocations) Position() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.position
}

// Rejected counts the messages of the stream that the fleet has not made.
func (r *Revocations) Rejected() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.rejected
}

// List returns what holds.
func (r *Revocations) List() []Revocation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(r.env.second())
	return append([]Revocation(nil), r.list...)
}

// revoked says where a principal is revoked.
type revoked uint8

const (
	revokedNowhere   revoked = iota
	revokedElsewhere         // in another project
	revokedHere
)

// match reports whether a principal is revoked in a project.
func (r *Revocations) match(p *Principal, project string, now uint32) revoked {
	if r.count.Load() == 0 {
		return revokedNowhere
	}
	found := revokedNowhere
	r.each(p.issuer.hash, p.subject, p.id, p.key.row.hash, func(h hold) bool {
		if h.until <= now || uint32(p.Issued) > h.before { //nolint:gosec // within 2³³, and 0 if absent
			return true
		}
		if found = revokedElsewhere; h.project == "" || h.project == project {
			found = revokedHere
		}
		return found != revokedHere
	})
	return found
}

// each calls fn with what may be about a credential, until it returns false.
func (r *Revocations) each(issuer, subject, id, key uint64, fn func(hold) bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, k := range [...]revokedKey{{bySubject, issuer, subject}, {byID, issuer, id}, {byKey, issuer, key}, {byIssuer, issuer, 0}} {
		if k.value == 0 && k.by != byIssuer {
			continue
		}
		for _, h := range r.holds[k] {
			if !fn(h) {
				return
			}
		}
	}
}

// matchURL reports whether the key of a signed URL is revoked.
func (r *Revocations) matchURL(key *row, now uint32) bool {
	if r.count.Load() == 0 {
		return false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, h := range r.holds[revokedKey{by: byURLKey, value: key.hash}] {
		if h.until > now {
			return true
		}
	}
	return false
}

// matchLease returns the present second if a lease is revoked, and 0 if it is not. A lease of a
// project behind a prefix may end for another one's sake: its reader is judged exactly when it
// comes back.
func (r *Revocations) matchLease(l Lease, now uint32) (at uint32) {
	if r.count.Load() == 0 {
		return 0
	}
	key := r.env.rows.keys.at(l.key)
	if l.issuer == 0 {
		if key != nil && r.matchURL(key, now) {
			return now
		}
		return 0
	}
	issuer, project := r.env.rows.issuers.at(l.issuer), r.env.rows.projects.at(l.project)
	if issuer == nil || key == nil {
		return now // of rows that are gone for long
	}
	r.each(issuer.hash, l.subject, l.id, key.hash, func(h hold) bool {
		if h.until > now && l.issued <= h.before && (h.project == "" || project.mayBe(h.project)) {
			at = now
		}
		return at == 0
	})
	return at
}

// mayBe reports whether a project's row stands for a project of a name.
func (r *row) mayBe(name string) bool {
	if r == nil {
		return false
	}
	prefix, ok := strings.CutSuffix(r.name, "*")
	return r.name == name || ok && strings.HasPrefix(name, prefix)
}
