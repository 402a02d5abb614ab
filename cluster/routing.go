package cluster

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fantail-dev/fantail/shard"
)

// hop says how often a request was sent on. The numbers go over the wire.
type hop uint8

const (
	hopFirst      hop = 0 // to the owner, as the caller sees it
	hopRedirected hop = 1 // to whom another named, or to the heir of a lost owner
	hopForce      hop = 2 // always served
)

// route is where a request stands on its way.
type route struct {
	hop      hop
	excluded []string // members, by name, that the caller could not use
}

// peerAddr is a member and how to reach it.
type peerAddr struct{ name, address string }

// redirectError is a receiver's refusal to serve: the owner is somebody else. It is a
// hint for one request and changes no View.
type redirectError struct {
	owner      peerAddr
	ownerAlive bool // said by the heir: the owner answers me
}

func (e *redirectError) Error() string {
	if e.ownerAlive {
		return fmt.Sprintf("owner %s is alive", e.owner.name)
	}
	return fmt.Sprintf("not the owner; %q is", e.owner.name)
}

// errUnreachable: the node did not answer. What it was asked may still have been
// done.
var errUnreachable = errors.New("node cannot be reached")

// errCallFailed: the call failed, at the node that was asked or on this side of it: what
// it carries is malformed or too large, or the node could not make an answer. It says
// nothing of whether the node can be reached: no other is asked instead.
var errCallFailed = errors.New("call failed")

// target is whom to ask next: a member, or (nil) this node.
type target struct {
	member *Member
	hop    hop
}

// routing finds the way of one request through nodes that may disagree. Pure: it
// is told the table and what came back, and says whom to ask. It ends because
// each answer either raises hop or shrinks the set of members that are left; the
// last one left is this node, which serves.
type routing struct {
	route
	nextNode     string // asked next, whoever owns
	ownerVouched bool   // an heir has said that the owner is alive
	answers      int
	storeDowns   int // nodes that said that S2 does not answer them
}

// maxAnswers bounds a course even if answers make no sense.
const maxAnswers = 24

// nextTarget says whom to ask; false if nobody owns anything (yet).
func (c *routing) nextTarget(v *View, t *OwnerTable, id shard.StreamID, self string) (target, bool) {
	if name := c.nextNode; name != "" {
		c.nextNode = ""
		if name == self {
			return target{hop: c.hop}, true
		}
		if m := v.Member(name); m != nil && !slices.Contains(c.excluded, name) {
			return target{m, c.hop}, true
		}
		c.hop = hopForce // a member that this node has not heard of
	}
	if t.Len() == 0 {
		return target{}, false
	}
	m := t.without(c.excluded).Owner(id)
	if m == nil || m.Name == self {
		return target{hop: c.hop}, true
	}
	return target{m, c.hop}, true
}

// handleAnswer takes the answer of the node that was asked, named name, and reports
// whether to ask again.
func (c *routing) handleAnswer(name string, err error) bool {
	if c.answers++; c.answers >= maxAnswers {
		return false
	}
	var r *redirectError
	switch {
	case errors.As(err, &r) && r.ownerAlive && !c.ownerVouched:
		c.ownerVouched, c.hop, c.nextNode = true, hopRedirected, r.owner.name
		c.excluded = slices.DeleteFunc(slices.Clone(c.excluded), func(n string) bool {
			return n == r.owner.name
		})
	case errors.As(err, &r):
		if c.hop++; c.hop < hopForce {
			c.nextNode = r.owner.name
		}
	case errors.Is(err, shard.ErrNotOwner):
		c.hop++
	case errors.Is(err, shard.ErrStoreDown), errors.Is(err, shard.ErrOutcomeUnknown):
		// Another node may reach S2, and find out: it shuts out what is on its way.
		if c.storeDowns++; c.storeDowns > 1 {
			return false
		}
		c.hop = hopForce
		return c.excludeNode(name)
	case errors.Is(err, errUnreachable), errors.Is(err, shard.ErrStopped):
		c.hop++
		if c.ownerVouched {
			c.hop = hopForce
		}
		return c.excludeNode(name)
	default:
		return false
	}
	c.hop = min(c.hop, hopForce)
	return true
}

// excludeNode leaves a node out from here on; false if it was left out before.
func (c *routing) excludeNode(name string) bool {
	c.hop = min(c.hop, hopForce)
	if slices.Contains(c.excluded, name) {
		return false
	}
	c.excluded = append(slices.Clip(c.excluded), name)
	return true
}

// checkOwnership is the receiver's side: nil to serve, or a *redirect. answers reports
// whether a member answers this node at once.
func checkOwnership(t *OwnerTable, self string, id shard.StreamID, r route, answers func(*Member) bool) error {
	owner := t.Owner(id)
	switch {
	case r.hop >= hopForce, owner != nil && owner.Name == self:
		return nil
	case owner == nil:
		return &redirectError{}
	}
	to := peerAddr{owner.Name, owner.Relay}
	if r.hop == hopRedirected && slices.Contains(r.excluded, owner.Name) {
		if heir := t.without(r.excluded).Owner(id); heir != nil && heir.Name == self {
			if !answers(owner) {
				return nil
			}
			return &redirectError{owner: to, ownerAlive: true}
		}
	}
	return &redirectError{owner: to}
}
