package shard_test

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// A record that a stranger with access to S2 forges neither ends the stream nor changes what it is:
// for its readers, for its owner, and for the next owner, which may find the record last.
func TestForgedRecordsChangeNoStream(t *testing.T) {
	for name, forge := range shard.Forgeries {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testForged(t, forge) }) })
	}
}

func testForged(t *testing.T, forge func(pos shard.Pos) []byte) {
	log := logtest.NewMemory(1)
	h := node(t, log)
	do(t, h, create("text/plain", "a"), shard.CodeCreated)
	p := appendReq("text/plain", "b")
	p.Producer = &shard.Producer{ID: "p"}
	do(t, h, p, shard.CodeAppended)
	tail, release, err := h.Follow(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	before, err := h.Info(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := tail.Next()
	if _, err := log.Append(t.Context(), stream, at, []shard.Entry{{Header: forge(at)}}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	next := node(t, log) // and it finds the forged record last
	for _, owner := range []*shard.Manager{h, next} {
		after, err := owner.Info(t.Context(), stream, 0)
		after.LogTail, after.Checked = before.LogTail, before.Checked
		if d := cmp.Diff(before, after); d != "" || err != nil {
			t.Errorf("%v %s", err, d)
		}
	}
	if tail.EndError() != nil || tail.Info().Tail > tail.Next() {
		t.Errorf("the Tail: %v, %+v", tail.EndError(), tail.Info())
	}
	tail.ReadAt(before.Tail, 1, nil)
	p2 := appendReq("text/plain", "c")
	p2.Producer = &shard.Producer{ID: "p", Seq: 1}
	do(t, next, p2, shard.CodeAppended)
	equal(t, history(t, next), []string{"a", "b", "c"})
	equal(t, history(t, node(t, log)), []string{"a", "b", "c"})
}
