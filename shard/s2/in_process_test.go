package s2

import (
	"testing"

	"github.com/fantail-dev/fantail/shard"
)

// A lone append allocates no more than it must, from the request to the ack, the embedded S2
// included. Each further allocation would be one for every message.
func TestAppendInProcessAllocatesLittle(t *testing.T) {
	r := newTestEnv(t)
	log, err := OpenInProcess(r.basin, Config{Basin: testBasin})
	if err != nil {
		t.Fatal(err)
	}
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
	t.Cleanup(func() { _ = h.Close() })
	do := func(q *shard.Request, want shard.Code) {
		if out, err := h.Do(t.Context(), q); err != nil || out.Code != want {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	do(request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	const limit = 19 // 17 as of writing, 3 of them the request; a pool gives less back under -race
	per := testing.AllocsPerRun(200, func() {
		do(request(shard.OpAppend, "text/plain", "a message"), shard.CodeAppended)
	})
	if per > limit {
		t.Errorf("%v allocations an append, more than %d", per, limit)
	}
}
