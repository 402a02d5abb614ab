package cluster

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/shard"
)

// A refusal's hint is followed once; after the second refusal the request must be
// served.
func TestHintIsFollowedOnce(t *testing.T) {
	t.Parallel()
	v, table := tableOf("a", "b", "c", "d")
	id, owner, heir := ownerAndHeir(table, "a")
	var c course
	for i, want := range []struct {
		name string
		hop  hop
		err  error
	}{
		{owner.Name, hopFirst, &redirect{owner: place{name: heir.Name}}},
		{heir.Name, hopSecond, &redirect{owner: place{name: owner.Name}}},
		{owner.Name, hopMust, nil},
	} {
		to, ok := c.next(v, table, id, "a")
		if !ok || to.member == nil || to.member.Name != want.name || to.hop != want.hop {
			t.Fatalf("step %d asks %+v, want %s at hop %d", i, to, want.name, want.hop)
		}
		if want.err != nil && !c.learn(want.name, want.err) {
			t.Fatalf("gives up at step %d", i)
		}
	}
}

// A hint to a member that this node has not heard of is not followed blindly.
func TestHintToAStranger(t *testing.T) {
	t.Parallel()
	v, table := tableOf("a", "b")
	id, owner, _ := ownerAndHeir(table, "")
	self := "a"
	if owner.Name == self {
		self = "b"
	}
	var c course
	if !c.learn(owner.Name, &redirect{owner: place{name: "z"}}) {
		t.Fatal("gives up")
	}
	if to, _ := c.next(v, table, id, self); to.member != owner || to.hop != hopMust {
		t.Errorf("asks %+v", to)
	}
}

// Whatever is answered, sense or nonsense, a course ends; only an heir's first word
// that the owner is alive may lower its hop, and only to the second.
func TestCourseEndsWhateverIsAnswered(t *testing.T) {
	t.Parallel()
	v, table := tableOf("a", "b", "c", "d", "e")
	names := []string{"a", "b", "c", "d", "e", "stranger", ""}
	rapid.Check(t, func(t *rapid.T) {
		id := shard.StreamID("default/x")
		var c course
		alive := 0
		for step := 1; ; step++ {
			if step > maxTurns {
				t.Fatalf("step %d", step)
			}
			to, ok := c.next(v, table, id, "a")
			if !ok {
				t.Fatal("nobody to ask")
			}
			name, before := "a", to.hop
			if to.member != nil {
				name = to.member.Name
			}
			owner := place{name: rapid.SampledFrom(names).Draw(t, "owner")}
			err := rapid.SampledFrom([]error{
				errUnreachable, shard.ErrStopped, shard.ErrNotOwner, shard.ErrStoreDown,
				&redirect{owner: owner}, &redirect{owner: owner, alive: true}, shard.ErrContended,
			}).Draw(t, "answer")
			var r *redirect
			if errors.As(err, &r) && r.alive {
				alive++
			}
			if !c.learn(name, err) {
				return
			}
			if c.hop < before && (alive != 1 || c.hop != hopSecond) || c.hop > hopMust {
				t.Fatalf("hop %d after %d", c.hop, before)
			}
		}
	})
}
