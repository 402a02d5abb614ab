package placement

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fantail-dev/fantail/shard"
)

// Hop counts how often a request was sent on. The numbers go over the wire.
type Hop uint8

// The hops.
const (
	HopFirst      Hop = 0 // to the owner, by the caller's table
	HopRedirected Hop = 1 // to the node that a refusal named, or to the successor of a lost owner
	HopForce      Hop = 2 // the receiver always serves it
)

// Route holds the hops that a request has made and the members that could not serve it.
type Route struct {
	Hop      Hop
	Excluded []string // names of members that the caller could not use
}

// RedirectError is a receiver's refusal to serve, because another node owns the stream. It is a
// hint for one request and changes no View.
type RedirectError struct {
	Owner      PeerAddr
	OwnerAlive bool // the successor says that the owner answers it
}

func (e *RedirectError) Error() string {
	if e.OwnerAlive {
		return fmt.Sprintf("owner %s is alive", e.Owner.Name)
	}
	return fmt.Sprintf("not the owner; %q is", e.Owner.Name)
}

// ErrUnreachable reports that the node did not answer. It may still have carried the request out.
var ErrUnreachable = errors.New("node cannot be reached")

// ErrCallFailed reports that the call failed at the node that was asked or on this side: its
// content is malformed or too large, or the node could not produce an answer. The node can be
// reached, so no other node is asked instead.
var ErrCallFailed = errors.New("call failed")

// Target is the node to ask next: a member, or (nil) this node.
type Target struct {
	Member *Member
	Hop    Hop
}

// Routing finds the way of one request through nodes with tables that may differ. It is pure: the
// caller passes the table and the answers, and gets the next node to ask. It ends, because each
// answer either raises the hop or excludes a member; the last member left is this node, which
// serves.
type Routing struct {
	Route
	nextNode     string // asked next, whatever the table says
	ownerVouched bool   // a successor has said that the owner answers it
	answers      int
	storeDowns   int // nodes that answered that S2 does not answer them
}

// RedirectedTo returns the Routing of a request that another node has sent to the member of that
// name.
func RedirectedTo(name string) Routing {
	return Routing{nextNode: name, Route: Route{Hop: HopRedirected}}
}

// AskAgain has NextTarget return the member of that name next, whatever the table says.
func (r *Routing) AskAgain(name string) { r.nextNode = name }

// maxAnswers ends a routing even if the answers make no sense.
const maxAnswers = 24

// NextTarget returns the node to ask; false: no member owns streams yet.
func (r *Routing) NextTarget(v *View, t *OwnerTable, id shard.StreamID, self string) (Target, bool) {
	if name := r.nextNode; name != "" {
		r.nextNode = ""
		if name == self {
			return Target{Hop: r.Hop}, true
		}
		if m := v.Member(name); m != nil && !slices.Contains(r.Excluded, name) {
			return Target{m, r.Hop}, true
		}
		r.Hop = HopForce // this node has not heard of that member
	}
	if t.Len() == 0 {
		return Target{}, false
	}
	m := t.Without(r.Excluded).Owner(id)
	if m == nil || m.Name == self {
		return Target{Hop: r.Hop}, true
	}
	return Target{m, r.Hop}, true
}

// HandleAnswer handles the error that the node of that name answered, and reports whether to ask
// another node.
func (r *Routing) HandleAnswer(name string, err error) bool {
	if r.answers++; r.answers >= maxAnswers {
		return false
	}
	var redirect *RedirectError
	switch {
	case errors.As(err, &redirect) && redirect.OwnerAlive && !r.ownerVouched:
		r.ownerVouched, r.Hop, r.nextNode = true, HopRedirected, redirect.Owner.Name
		r.Excluded = slices.DeleteFunc(slices.Clone(r.Excluded), func(n string) bool {
			return n == redirect.Owner.Name
		})
	case errors.As(err, &redirect):
		if r.Hop++; r.Hop < HopForce {
			r.nextNode = redirect.Owner.Name
		}
	case errors.Is(err, shard.ErrNotOwner):
		r.Hop++
	case errors.Is(err, shard.ErrStoreDown), errors.Is(err, shard.ErrOutcomeUnknown):
		// Another node may reach S2 and find out: its own append shuts out the one that is still on
		// its way.
		if r.storeDowns++; r.storeDowns > 1 {
			return false
		}
		r.Hop = HopForce
		return r.excludeNode(name)
	case errors.Is(err, ErrUnreachable), errors.Is(err, shard.ErrStopped):
		r.Hop++
		if r.ownerVouched {
			r.Hop = HopForce
		}
		return r.excludeNode(name)
	default:
		return false
	}
	r.Hop = min(r.Hop, HopForce)
	return true
}

// excludeNode excludes a node from now on; false: it was excluded already.
func (r *Routing) excludeNode(name string) bool {
	r.Hop = min(r.Hop, HopForce)
	if slices.Contains(r.Excluded, name) {
		return false
	}
	r.Excluded = append(slices.Clip(r.Excluded), name)
	return true
}

// CheckOwnership makes the receiver's decision: nil to serve, else a *RedirectError. answers
// reports whether a member answers this node's ping.
func CheckOwnership(t *OwnerTable, self string, id shard.StreamID, r Route, answers func(*Member) bool) error {
	owner := t.Owner(id)
	switch {
	case r.Hop >= HopForce, owner != nil && owner.Name == self:
		return nil
	case owner == nil:
		return &RedirectError{}
	}
	to := owner.Addr()
	if r.Hop == HopRedirected && slices.Contains(r.Excluded, owner.Name) {
		if successor := t.Without(r.Excluded).Owner(id); successor != nil && successor.Name == self {
			if !answers(owner) {
				return nil
			}
			return &RedirectError{Owner: to, OwnerAlive: true}
		}
	}
	return &RedirectError{Owner: to}
}
