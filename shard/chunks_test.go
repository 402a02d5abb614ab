package shard_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// However readers cut a stream into chunks, each page is read once. A page that ended at the tail
// is read again when the stream has grown.
func TestPagesAreReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		var all []string
		grow := func() shard.Info {
			for range 50 {
				var msgs []string
				for range 90 {
					msgs = append(msgs, strconv.Itoa(len(all)+len(msgs)))
				}
				all = append(all, msgs...)
				do(t, h, appendReq("text/plain", msgs...), shard.CodeAppended)
			}
			info, err := h.Info(t.Context(), stream, 0)
			if err != nil {
				t.Fatal(err)
			}
			return info
		}
		fresh := node(t, log)
		read := func(info shard.Info, chunk int, want []string, reads int) {
			t.Helper()
			before := log.Ops().Reads
			equal(t, readChunks(t, fresh, info, chunk), want)
			if n := log.Ops().Reads - before; n != reads {
				t.Errorf("to %d in chunks of %d: %d reads, want %d", info.Tail, chunk, n, reads)
			}
		}
		first := grow()
		old := all
		read(first, 700, old, 5)
		read(first, 1000, old, 0)
		read(first, 300, old, 0)
		second := grow()
		read(second, 1000, all, 6) // the last one again, and five more
		read(second, 300, all, 0)
		read(first, 300, old, 0) // as a fork of that moment reads
	})
}

// Pages that end because S2 returns no more are read once as well, whether a reader goes on where
// the page ended or comes back with the offset of its last message. A checkpoint stands between the
// two.
func TestLargePagesAreReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		const count = 20
		var info shard.Info
		for range count {
			info = do(t, h, appendReq("text/plain", strings.Repeat("x", 700<<10)), shard.CodeAppended).Info
		}
		fresh := node(t, log)
		before := log.Ops().Reads
		for _, name := range []string{"by page", "by offset"} {
			got := 0
			for pos := info.Start; pos < info.Tail; {
				r, err := fresh.ReadPage(t.Context(), stream, info, pos)
				if err != nil || r.To() <= pos {
					t.Fatalf("page at %d: to %d, %v", pos, r.To(), err)
				}
				n := r.Len()
				got += n
				if pos = r.To(); n > 0 && name == "by offset" {
					pos = r.Message(n - 1).Next
				}
			}
			if got != count {
				t.Errorf("%s: %d messages", name, got)
			}
		}
		if n := log.Ops().Reads - before; n != count {
			t.Errorf("%d reads for %d pages", n, count)
		}
	})
}

// A large append may be entered at any position, and is read once.
func TestLargeAppendIsReadOnceFromAnyPosition(t *testing.T) {
	for _, size := range []int{20, 3000, shard.MaxBatchBytes * 3 / 2} {
		synctest.Test(t, func(t *testing.T) {
			log := logtest.NewMemory(1)
			h := node(t, log)
			do(t, h, create("text/plain", "before"), shard.CodeCreated)
			var msgs []string
			for i := range min(10_000, shard.MaxBody/size) {
				m := strconv.Itoa(i)
				msgs = append(msgs, m+strings.Repeat(".", size-len(m)))
			}
			do(t, h, appendReq("text/plain", msgs...), shard.CodeAppended)
			do(t, h, appendReq("text/plain", "after"), shard.CodeAppended)
			info, err := h.Info(t.Context(), stream, 0)
			if err != nil {
				t.Fatal(err)
			}
			all := append(append([]string{"before"}, msgs...), "after")
			fresh := node(t, log)
			got := readChunks(t, fresh, info, 700)
			for i := range min(len(got), len(all)) {
				if got[i] != all[i] {
					t.Fatalf("%d messages of %d bytes: at %d %.20q, want %.20q", len(msgs), size, i, got[i], all[i])
				}
			}
			if len(got) != len(all) {
				t.Fatalf("%d messages of %d bytes: read %d", len(msgs), size, len(got))
			}
			// A read brings a batch, which may be half full.
			if n, most := log.Ops().Reads, 2*len(msgs)*size/shard.MaxBatchBytes+len(msgs)/1000+4; n > most {
				t.Errorf("%d messages of %d bytes: %d reads, want at most %d", len(msgs), size, n, most)
			}
		})
	}
}

// readChunks reads the stream in runs of n messages, each from where the last one ended.
func readChunks(t *testing.T, h *shard.Manager, info shard.Info, n int) []string {
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
