package access

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// RevokeRequest is the body of POST /admin/revoke: tokens of an issuer by one of sub, id, key and
// all, or signed URLs by project and kid.
type RevokeRequest struct {
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"sub,omitempty"`
	ID      string `json:"id,omitempty"` // of the claim that the issuer's id_claim names
	Key     string `json:"key,omitempty"`
	All     bool   `json:"all,omitempty"`
	Project string `json:"project,omitempty"`
	KID     string `json:"kid,omitempty"`
	// Before refuses tokens that were issued then or earlier (default: now); BlockUntil refuses
	// all until then. Seconds since 1970.
	Before     uint32 `json:"before,omitempty"`
	BlockUntil uint32 `json:"block_until,omitempty"`
}

// Revocation is one entry of the stream of revocations.
type Revocation struct {
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"sub,omitempty"`
	ID      string `json:"id,omitempty"`
	Key     string `json:"key,omitempty"`
	Project string `json:"project,omitempty"`
	KID     string `json:"kid,omitempty"`
	// Before is the newest time of issue that is revoked; the greatest number: all.
	Before uint32 `json:"before"`
	// Until is the second in which it ends.
	Until uint32 `json:"until"`
}

// signedRevocation is an entry as it stands in the stream.
type signedRevocation struct {
	Version int `json:"v"`
	Revocation
	MAC string `json:"mac"`
}

const (
	revocationVersion = 1
	allTimes          = 1<<32 - 1
	// maxRevocationBytes bounds what a revocation names.
	maxRevocationBytes = 1024
)

func (one Revocation) toHold() hold {
	return hold{project: one.Project, before: one.Before, until: one.Until}
}

// ParseRevokeRequest parses the body of POST /admin/revoke. Unknown members are errors.
func ParseRevokeRequest(b []byte) (q RevokeRequest, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return q, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return q, errTrailing
	}
	return q, q.check()
}

func (q *RevokeRequest) check() error {
	what := 0
	for _, there := range []bool{q.Subject != "", q.ID != "", q.Key != "", q.All} {
		if there {
			what++
		}
	}
	switch {
	case q.KID != "" && (q.Project == "" || q.Issuer != "" || what > 0 || q.Before != 0):
		return errors.New("a kid is revoked with its project alone: {project, kid}")
	case q.KID == "" && (q.Issuer == "" || what != 1):
		return errors.New("revoke tokens by {issuer, and one of sub, id, key and all: true}, or signed URLs by {project, kid}")
	case q.Before != 0 && q.BlockUntil != 0:
		return errors.New("before and block_until exclude each other")
	case q.Key != "" && q.Before != 0:
		return errors.New("a key's thief writes the time of issue: revoke a key without before")
	}
	for _, s := range []string{q.Issuer, q.Subject, q.ID, q.Key, q.Project, q.KID} {
		if len(s) > maxRevocationBytes {
			return fmt.Errorf("a value has more than %d bytes", maxRevocationBytes)
		}
	}
	return nil
}

// Entry returns the message to append to the stream of revocations. It revokes nothing by itself:
// Apply does, when the message comes back from the stream.
func (r *Revocations) Entry(q RevokeRequest) (message []byte, err error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	one := Revocation{Issuer: q.Issuer, Subject: q.Subject, ID: q.ID, Key: q.Key, Project: q.Project, KID: q.KID}
	now := r.env.second()
	switch {
	case q.BlockUntil != 0:
		one.Before, one.Until = allTimes, q.BlockUntil
	case q.Key != "" || q.KID != "":
		one.Before, one.Until = allTimes, now+uint32(blockForGood/time.Second)
	default:
		one.Before = q.Before
		if one.Before == 0 {
			one.Before = now
		}
	}
	if q.Project != "" {
		if one.Project, err = r.projectOf(q); err != nil {
			return nil, err
		}
	}
	if q.Issuer != "" {
		i := r.rules.Load().issuers[q.Issuer]
		if i == nil {
			return nil, fmt.Errorf("the issuer %.128q is not configured", q.Issuer)
		}
		if one.Until == 0 {
			one.Until = clampSecond(int64(one.Before) + int64((i.maxTTL+Leeway)/time.Second))
		}
	}
	if one.Until <= now {
		return nil, errors.New("it holds no longer: the tokens that it is about have expired")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) >= MaxRevocations {
		if r.sweep(now); len(r.list) >= MaxRevocations {
			return nil, errManyRevocations
		}
	}
	return json.Marshal(signedRevocation{revocationVersion, one, one.mac(r.keys[0])})
}

// projectOf returns the name by which the project of a request is looked up: a revocation of a project
// that there is not would revoke nothing, and say that it has. The secrets of projects behind an
// issuer's prefix are all of them together.
func (r *Revocations) projectOf(q RevokeRequest) (string, error) {
	rs := r.rules.Load()
	p := rs.lookup(q.Project)
	if p == nil && q.KID != "" {
		p = rs.find(q.Project) // the prefix itself
	}
	switch {
	case p == nil:
		return "", fmt.Errorf("the project %.128q is not configured", q.Project)
	case q.KID != "":
		return p.name, nil
	}
	return q.Project, nil
}

// mac authenticates an entry: each value behind its length, so that none can pass for two.
func (one Revocation) mac(key []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("fantail-revocation-v1"))
	for _, s := range []string{one.Issuer, one.Subject, one.ID, one.Key, one.Project, one.KID} {
		m.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) //nolint:gosec // bounded
		m.Write([]byte(s))
	}
	m.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, one.Before), one.Until))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// decode returns an entry of the stream that the fleet has made.
func (r *Revocations) decode(b []byte) (Revocation, error) {
	var s signedRevocation
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil || s.Version != revocationVersion {
		return Revocation{}, errForged
	}
	for _, key := range r.keys {
		if hmac.Equal([]byte(s.mac(key)), []byte(s.MAC)) {
			return s.Revocation, nil
		}
	}
	return Revocation{}, errForged
}

// splitMessages returns the messages of a JSON stream: of an array each element.
func splitMessages(b []byte) (all []json.RawMessage, err error) {
	if b = bytes.TrimSpace(b); len(b) == 0 || b[0] != '[' {
		return []json.RawMessage{b}, nil
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, errForged
	}
	return all, nil
}

// readRandom fills a slice with random bytes.
func readRandom(b []byte) { _, _ = rand.Read(b) } // never fails: see crypto/rand
