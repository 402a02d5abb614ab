package cluster

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/shard"
)

// A refusal's hint is followed once. After the second refusal the request must be served.
func TestRefusalHintIsFollowedOnce(t *testing.T) {
	t.Parallel()
	v, table := tableOf("a", "b", "c", "d")
	id, owner, successor := ownerAndSuccessor(table, "a")
	var c routing
	for i, want := range []struct {
		name string
		hop  hop
		err  error
	}{
		{owner.Name, hopFirst, &redirectError{owner: peerAddr{name: successor.Name}}},
		{successor.Name, hopRedirected, &redirectError{owner: peerAddr{name: owner.Name}}},
		{owner.Name, hopForce, nil},
	} {
		t.Run(want.name, func(t *testing.T) {
			to, ok := c.nextTarget(v, table, id, "a")
			if !ok || to.member == nil || to.member.Name != want.name || to.hop != want.hop {
				t.Fatalf("step %d asks %+v, want %s at hop %d", i, to, want.name, want.hop)
			}
			if want.err != nil && !c.handleAnswer(want.name, want.err) {
				t.Fatalf("gives up at step %d", i)
			}
		})
	}
}

// A hint to a member that this node has not heard of is not followed blindly.
func TestHintToAnUnknownMemberIsNotFollowed(t *testing.T) {
	t.Parallel()
	v, table := tableOf("a", "b")
	id, owner, _ := ownerAndSuccessor(table, "")
	self := "a"
	if owner.Name == self {
		self = "b"
	}
	var c routing
	if !c.handleAnswer(owner.Name, &redirectError{owner: peerAddr{name: "z"}}) {
		t.Fatal("gives up")
	}
	if to, _ := c.nextTarget(v, table, id, self); to.member != owner || to.hop != hopForce {
		t.Errorf("asks %+v", to)
	}
}

// Whatever is answered, sense or nonsense, a routing ends. Only a successor's first word that the
// owner is alive may lower its hop, and only to the second.
func TestRoutingEndsWhateverIsAnswered(t *testing.T) {
	t.Parallel()
	v, table := tableOf("a", "b", "c", "d", "e")
	names := []string{"a", "b", "c", "d", "e", "stranger", ""}
	rapid.Check(t, func(t *rapid.T) {
		id := shard.StreamID("default/x")
		var c routing
		alive := 0
		for step := 1; ; step++ {
			if step > maxAnswers {
				t.Fatalf("step %d", step)
			}
			to, ok := c.nextTarget(v, table, id, "a")
			if !ok {
				t.Fatal("nobody to ask")
			}
			name, before := "a", to.hop
			if to.member != nil {
				name = to.member.Name
			}
			owner := peerAddr{name: rapid.SampledFrom(names).Draw(t, "owner")}
			err := rapid.SampledFrom([]error{
				errUnreachable, shard.ErrStopped, shard.ErrNotOwner, shard.ErrStoreDown,
				&redirectError{owner: owner}, &redirectError{owner: owner, ownerAlive: true}, shard.ErrContended,
			}).Draw(t, "answer")
			var r *redirectError
			if errors.As(err, &r) && r.ownerAlive {
				alive++
			}
			if !c.handleAnswer(name, err) {
				return
			}
			if c.hop < before && (alive != 1 || c.hop != hopRedirected) || c.hop > hopForce {
				t.Fatalf("hop %d after %d", c.hop, before)
			}
		}
	})
}
