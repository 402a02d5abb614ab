package shard_test

import (
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// Who reads in chunks that do not end where pages do costs the log one read for
// each page, and none the second time.
func TestPagesOnceForChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		var all []string
		for i := range 50 {
			var msgs []string
			for j := range 100 {
				msgs = append(msgs, strconv.Itoa(100*i+j))
			}
			all = append(all, msgs...)
			do(t, h, appendReq("text/plain", msgs...), shard.CodeAppended)
		}
		info, err := h.State(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		fresh := node(t, log)
		// The last page may still grow: it is read whenever it is asked for.
		for i, want := range []struct{ chunk, reads int }{{700, 7}, {1000, 2}, {300, 3}} {
			before := log.Ops().Reads
			equal(t, chunks(t, fresh, info, want.chunk), all)
			if reads := log.Ops().Reads - before; reads > want.reads {
				t.Errorf("turn %d, chunks of %d: %d reads, want %d", i, want.chunk, reads, want.reads)
			}
		}
	})
}

// chunks reads the stream in runs of n messages, each from where the last one ended.
func chunks(t *testing.T, h *shard.Host, info shard.Info, n int) []string {
	var got []string
	for at, left := info.Start, n; at < info.Tail; {
		r, err := h.ReadPage(t.Context(), stream, info, at)
		if err != nil {
			t.Fatal(err)
		}
		to := r.To()
		for i := r.Search(at); i < r.Len(); i++ {
			if left == 0 {
				left, to = n, r.Message(i).Pos
				break
			}
			got = append(got, string(r.Message(i).Body))
			left--
		}
		at = to
	}
	return got
}
