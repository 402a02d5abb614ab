package placement

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/fantail-dev/fantail/shard"
)

// The scripts in testdata/routing are requests that look for a node to serve them.
//
//	fleet members=(a,b,c)             these members own streams
//	request from=a owner=b [then=c]   node a has a request for a stream of b, and of c without b
//	answer KIND [node=c]              the node that was asked refuses: not-owner and owner-alive name a node
//	ask node=c hop=1 [excluded=(b)] [reaches=(b)]  what node c decides about the request
func TestRoutingScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/routing", func(t *testing.T, path string) {
		s := &routingScript{}
		datadriven.RunTest(t, path, s.run)
	})
}

type routingScript struct {
	view    *View
	table   *OwnerTable
	self    string
	id      shard.StreamID
	routing Routing
	asked   string
}

func (s *routingScript) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "fleet":
		var names []string
		for _, a := range d.CmdArgs {
			names = append(names, a.Vals...)
		}
		s.view, s.table = tableOfNames(names...)
		return fmt.Sprintf("%d members own streams", s.table.Len())
	case "request":
		var owner, then string
		d.ScanArgs(t, "from", &s.self)
		d.ScanArgs(t, "owner", &owner)
		d.MaybeScanArgs(t, "then", &then)
		s.id, s.routing = s.streamOf(owner, then), Routing{}
		return s.next()
	case "answer":
		if !s.routing.HandleAnswer(s.asked, s.refusal(t, d)) {
			return "the caller gets this error"
		}
		return s.next()
	case "ask":
		return s.decide(t, d)
	default:
		t.Fatalf("unknown command %s", d.Cmd)
		return ""
	}
}

// streamOf returns a stream that owner owns, and then without the owner.
func (s *routingScript) streamOf(owner, then string) shard.StreamID {
	for i := 0; ; i++ {
		id := shard.StreamID(fmt.Sprint("s/", i))
		if s.table.Owner(id).Name != owner {
			continue
		}
		if then == "" || s.table.Without([]string{owner}).Owner(id).Name == then {
			return id
		}
	}
}

func (s *routingScript) next() string {
	to, ok := s.routing.NextTarget(s.view, s.table, s.id, s.self)
	switch {
	case !ok:
		return "no member owns streams yet"
	case to.Member == nil:
		s.asked = s.self
		return fmt.Sprintf("serves it itself, at hop %d", to.Hop)
	}
	s.asked = to.Member.Name
	without := ""
	if n := s.routing.Excluded; len(n) > 0 {
		without = ", which hears that these cannot serve: " + strings.Join(n, " ")
	}
	return fmt.Sprintf("asks %s, at hop %d%s", s.asked, to.Hop, without)
}

// refusal returns the error that an answer stands for.
func (s *routingScript) refusal(t *testing.T, d *datadriven.TestData) error {
	var node string
	d.MaybeScanArgs(t, "node", &node)
	switch kind := d.CmdArgs[0].Key; kind {
	case "not-owner":
		return &RedirectError{Owner: PeerAddr{Name: node}}
	case "owner-alive":
		return &RedirectError{Owner: PeerAddr{Name: node}, OwnerAlive: true}
	case "unreachable":
		return fmt.Errorf("%w: connection refused", ErrUnreachable)
	case "released":
		return shard.ErrNotOwner
	case "stopped":
		return shard.ErrStopped
	case "store-down":
		return shard.ErrStoreDown
	case "outcome-unknown":
		return shard.ErrOutcomeUnknown
	case "not-found":
		return shard.ErrNotFound
	case "malformed":
		return ErrCallFailed
	default:
		t.Fatalf("unknown answer %s", kind)
		return nil
	}
}

func (s *routingScript) decide(t *testing.T, d *datadriven.TestData) string {
	var node string
	var hop int
	var r Route
	var reaches []string
	d.ScanArgs(t, "node", &node)
	d.ScanArgs(t, "hop", &hop)
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "excluded":
			r.Excluded = a.Vals
		case "reaches":
			reaches = a.Vals
		}
	}
	r.Hop = Hop(hop)
	err := CheckOwnership(s.table, node, s.id, r, func(m *Member) bool {
		return strings.Contains(" "+strings.Join(reaches, " ")+" ", " "+m.Name+" ")
	})
	var to *RedirectError
	switch {
	case err == nil:
		return node + " serves it"
	case errors.As(err, &to) && to.OwnerAlive:
		return fmt.Sprintf("%s says that %s is alive", node, to.Owner.Name)
	default:
		return fmt.Sprintf("%s names %s", node, to.Owner.Name)
	}
}
