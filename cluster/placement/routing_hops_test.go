package placement

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/shard"
)

// A refusal's hint is followed once. After the second refusal the request must be served.
func TestRefusalHintIsFollowedOnce(t *testing.T) {
	t.Parallel()
	v, table := tableOfNames("a", "b", "c", "d")
	id, owner, successor := ownerAndSuccessor(table, "a")
	var r Routing
	for i, want := range []struct {
		name string
		hop  Hop
		err  error
	}{
		{owner.Name, HopFirst, &RedirectError{Owner: PeerAddr{Name: successor.Name}}},
		{successor.Name, HopRedirected, &RedirectError{Owner: PeerAddr{Name: owner.Name}}},
		{owner.Name, HopForce, nil},
	} {
		t.Run(want.name, func(t *testing.T) {
			to, ok := r.NextTarget(v, table, id, "a")
			if !ok || to.Member == nil || to.Member.Name != want.name || to.Hop != want.hop {
				t.Fatalf("step %d asks %+v, want %s at hop %d", i, to, want.name, want.hop)
			}
			if want.err != nil && !r.HandleAnswer(want.name, want.err) {
				t.Fatalf("gives up at step %d", i)
			}
		})
	}
}

// A hint to a member that this node has not heard of is not followed blindly.
func TestHintToAnUnknownMemberIsNotFollowed(t *testing.T) {
	t.Parallel()
	v, table := tableOfNames("a", "b")
	id, owner, _ := ownerAndSuccessor(table, "")
	self := "a"
	if owner.Name == self {
		self = "b"
	}
	var r Routing
	if !r.HandleAnswer(owner.Name, &RedirectError{Owner: PeerAddr{Name: "z"}}) {
		t.Fatal("gives up")
	}
	if to, _ := r.NextTarget(v, table, id, self); to.Member != owner || to.Hop != HopForce {
		t.Errorf("asks %+v", to)
	}
}

// Whatever is answered, sense or nonsense, a routing ends. Only a successor's first word that the
// owner is alive may lower its hop, and only to the second.
func TestRoutingEndsWhateverIsAnswered(t *testing.T) {
	t.Parallel()
	v, table := tableOfNames("a", "b", "c", "d", "e")
	names := []string{"a", "b", "c", "d", "e", "stranger", ""}
	rapid.Check(t, func(t *rapid.T) {
		id := shard.StreamID("default/x")
		var r Routing
		alive := 0
		for step := 1; ; step++ {
			if step > maxAnswers {
				t.Fatalf("step %d", step)
			}
			to, ok := r.NextTarget(v, table, id, "a")
			if !ok {
				t.Fatal("nobody to ask")
			}
			name, before := "a", to.Hop
			if to.Member != nil {
				name = to.Member.Name
			}
			owner := PeerAddr{Name: rapid.SampledFrom(names).Draw(t, "owner")}
			err := rapid.SampledFrom([]error{
				ErrUnreachable, shard.ErrStopped, shard.ErrNotOwner, shard.ErrStoreDown,
				&RedirectError{Owner: owner}, &RedirectError{Owner: owner, OwnerAlive: true}, shard.ErrContended,
			}).Draw(t, "answer")
			var redirect *RedirectError
			if errors.As(err, &redirect) && redirect.OwnerAlive {
				alive++
			}
			if !r.HandleAnswer(name, err) {
				return
			}
			if r.Hop < before && (alive != 1 || r.Hop != HopRedirected) || r.Hop > HopForce {
				t.Fatalf("hop %d after %d", r.Hop, before)
			}
		}
	})
}
