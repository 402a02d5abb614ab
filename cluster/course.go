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
	hopFirst  hop = 0 // to the owner, as the caller sees it
	hopSecond hop = 1 // to whom another named, or to the heir of a lost owner
	hopMust   hop = 2 // always served
)

// route is where a request stands on its way.
type route struct {
	hop     hop
	without []string // members, by name, that the caller could not use
}

// place is a member and how to reach it.
type place struct{ name, address string }

// redirect is a receiver's refusal to serve: the owner is somebody else. It is a
// hint for one request and changes no View.
type redirect struct {
	owner place
	alive bool // said by the heir: the owner answers me
}

func (e *redirect) Error() string {
	if e.alive {
		return fmt.Sprintf("owner %s is alive", e.owner.name)
	}
	return fmt.Sprintf("not the owner; %q is", e.owner.name)
}

// errUnreachable: the node did not answer. What it was asked may still have been
// done.
var errUnreachable = errors.New("node cannot be reached")

// errFailed: the call failed, at the node that was asked or on this side of it: what
// it carries is malformed or too large, or the node could not make an answer. It says
// nothing of whether the node can be reached: no other is asked instead.
var errFailed = errors.New("call failed")

// target is whom to ask next: a member, or (nil) this node.
type target struct {
	member *Member
	hop    hop
}

// course finds the way of one request through nodes that may disagree. Pure: it
// is told the table and what came back, and says whom to ask. It ends because
// each answer either raises hop or shrinks the set of members that are left; the
// last one left is this node, which serves.
type course struct {
	route
	hint  string // asked next, whoever owns
	spoke bool   // an heir has said that the owner is alive
	turns int
	down  int // nodes that said that S2 does not answer them
}

// maxTurns bounds a course even if answers make no sense.
const maxTurns = 24

// next says whom to ask; false if nobody owns anything (yet).
func (c *course) next(v *View, t *Table, id shard.StreamID, self string) (target, bool) {
	if name := c.hint; name != "" {
		c.hint = ""
		if name == self {
			return target{hop: c.hop}, true
		}
		if m := v.Member(name); m != nil && !slices.Contains(c.without, name) {
			return target{m, c.hop}, true
		}
		c.hop = hopMust // a member that this node has not heard of
	}
	if t.Len() == 0 {
		return target{}, false
	}
	m := t.without(c.without).Owner(id)
	if m == nil || m.Name == self {
		return target{hop: c.hop}, true
	}
	return target{m, c.hop}, true
}

// learn takes the answer of the node that was asked, named name, and reports
// whether to ask again.
func (c *course) learn(name string, err error) bool {
	if c.turns++; c.turns >= maxTurns {
		return false
	}
	var r *redirect
	switch {
	case errors.As(err, &r) && r.alive && !c.spoke:
		c.spoke, c.hop, c.hint = true, hopSecond, r.owner.name
		c.without = slices.DeleteFunc(slices.Clone(c.without), func(n string) bool {
			return n == r.owner.name
		})
	case errors.As(err, &r):
		if c.hop++; c.hop < hopMust {
			c.hint = r.owner.name
		}
	case errors.Is(err, shard.ErrNotOwner):
		c.hop++
	case errors.Is(err, shard.ErrStoreDown), errors.Is(err, shard.ErrOutcomeUnknown):
		// Another node may reach S2, and find out: it shuts out what is on its way.
		if c.down++; c.down > 1 {
			return false
		}
		c.hop = hopMust
		return c.exclude(name)
	case errors.Is(err, errUnreachable), errors.Is(err, shard.ErrStopped):
		c.hop++
		if c.spoke {
			c.hop = hopMust
		}
		return c.exclude(name)
	default:
		return false
	}
	c.hop = min(c.hop, hopMust)
	return true
}

// exclude leaves a node out from here on; false if it was left out before.
func (c *course) exclude(name string) bool {
	c.hop = min(c.hop, hopMust)
	if slices.Contains(c.without, name) {
		return false
	}
	c.without = append(slices.Clip(c.without), name)
	return true
}

// judge is the receiver's side: nil to serve, or a *redirect. answers reports
// whether a member answers this node at once.
func judge(t *Table, self string, id shard.StreamID, r route, answers func(*Member) bool) error {
	owner := t.Owner(id)
	switch {
	case r.hop >= hopMust, owner != nil && owner.Name == self:
		return nil
	case owner == nil:
		return &redirect{}
	}
	to := place{owner.Name, owner.Relay}
	if r.hop == hopSecond && slices.Contains(r.without, owner.Name) {
		if heir := t.without(r.without).Owner(id); heir != nil && heir.Name == self {
			if !answers(owner) {
				return nil
			}
			return &redirect{owner: to, alive: true}
		}
	}
	return &redirect{owner: to}
}
