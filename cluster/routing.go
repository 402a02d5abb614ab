package cluster

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fantail-dev/fantail/shard"
)

// hop counts how often a request was sent on. The numbers go over the wire.
type hop uint8

const (
	hopFirst      hop = 0 // to the owner, by the caller's table
	hopRedirected hop = 1 // to the node that a refusal named, or to the successor of a lost owner
	hopForce      hop = 2 // the receiver always serves it
)

// route holds the hops that a request has made and the members that could not serve it.
type route struct {
	hop      hop
	excluded []string // names of members that the caller could not use
}

// peerAddr is a member's name and the address of its relay server.
type peerAddr struct{ name, address string }

// redirectError is a receiver's refusal to serve, because another node owns the stream. It is a
// hint for one request and changes no View.
type redirectError struct {
	owner      peerAddr
	ownerAlive bool // the successor says that the owner answers it
}

func (e *redirectError) Error() string {
	if e.ownerAlive {
		return fmt.Sprintf("owner %s is alive", e.owner.name)
	}
	return fmt.Sprintf("not the owner; %q is", e.owner.name)
}

// errUnreachable reports that the node did not answer. It may still have carried the request out.
var errUnreachable = errors.New("node cannot be reached")

// errCallFailed reports that the call failed at the node that was asked or on this side: its
// content is malformed or too large, or the node could not produce an answer. The node can be
// reached, so no other node is asked instead.
var errCallFailed = errors.New("call failed")

// routingTarget is the node to ask next: a member, or (nil) this node.
type routingTarget struct {
	member *Member
	hop    hop
}

// routing finds the way of one request through nodes with tables that may differ. It is pure: the
// caller passes the table and the answers, and gets the next node to ask. It ends, because each
// answer either raises the hop or excludes a member; the last member left is this node, which
// serves.
type routing struct {
	route
	nextNode     string // asked next, whatever the table says
	ownerVouched bool   // a successor has said that the owner answers it
	answers      int
	storeDowns   int // nodes that answered that S2 does not answer them
}

// maxAnswers ends a routing even if the answers make no sense.
const maxAnswers = 24

// nextTarget returns the node to ask; false: no member owns streams yet.
func (c *routing) nextTarget(v *View, t *OwnerTable, id shard.StreamID, self string) (routingTarget, bool) {
	if name := c.nextNode; name != "" {
		c.nextNode = ""
		if name == self {
			return routingTarget{hop: c.hop}, true
		}
		if m := v.Member(name); m != nil && !slices.Contains(c.excluded, name) {
			return routingTarget{m, c.hop}, true
		}
		c.hop = hopForce // this node has not heard of that member
	}
	if t.Len() == 0 {
		return routingTarget{}, false
	}
	m := t.without(c.excluded).Owner(id)
	if m == nil || m.Name == self {
		return routingTarget{hop: c.hop}, true
	}
	return routingTarget{m, c.hop}, true
}

// handleAnswer handles the error that the node of that name answered, and reports whether to ask
// another node.
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
		// Another node may reach S2 and find out: its own append shuts out the one that is still on
		// its way.
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

// excludeNode excludes a node from now on; false: it was excluded already.
func (c *routing) excludeNode(name string) bool {
	c.hop = min(c.hop, hopForce)
	if slices.Contains(c.excluded, name) {
		return false
	}
	c.excluded = append(slices.Clip(c.excluded), name)
	return true
}

// checkOwnership is the receiver's decision: nil to serve, else a *redirectError. answers reports
// whether a member answers this node's ping.
func checkOwnership(t *OwnerTable, self string, id shard.StreamID, r route, answers func(*Member) bool) error {
	owner := t.Owner(id)
	switch {
	case r.hop >= hopForce, owner != nil && owner.Name == self:
		return nil
	case owner == nil:
		return &redirectError{}
	}
	to := peerAddr{owner.Name, owner.RelayAddr}
	if r.hop == hopRedirected && slices.Contains(r.excluded, owner.Name) {
		if successor := t.without(r.excluded).Owner(id); successor != nil && successor.Name == self {
			if !answers(owner) {
				return nil
			}
			return &redirectError{owner: to, ownerAlive: true}
		}
	}
	return &redirectError{owner: to}
}
