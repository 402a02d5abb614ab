package shard_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// A read that ends between the records of one message tears nothing: neither a
// page, nor what comes live from another owner. S2 ends a read after 1 MiB.
func TestMessageInRecordsStaysWhole(t *testing.T) {
	for _, size := range []int{1<<20 - 1024, 1<<20 - 1023, 1<<20 - 500, 1<<20 - 160, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			log := logtest.NewMemory(1)
			h, rival := node(t, log), node(t, log)
			do(t, h, create("text/plain", "a"), shard.CodeCreated)
			tail, release, err := rival.Follow(t.Context(), stream, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			do(t, h, appendReq("text/plain", strings.Repeat("s", 300<<10)), shard.CodeAppended)
			do(t, h, appendReq("text/plain", strings.Repeat("b", size)), shard.CodeAppended)
			synctest.Wait()
			want := []int{1, 300 << 10, size}
			for name, got := range map[string][]string{
				"at the owner": history(t, h), "from the log": history(t, node(t, log)), "live": held(tail),
			} {
				if fmt.Sprint(lengths(got)) != fmt.Sprint(want) {
					t.Errorf("%s: messages of %v, want %v", name, lengths(got), want)
				}
			}
		})
	}
}

// held is every message that a Tail holds.
func held(tail *shard.Tail) (all []string) {
	ranges, _ := tail.ReadAt(tail.Floor(), 64<<20, nil)
	for _, r := range ranges {
		for i := range r.Len() {
			all = append(all, string(r.Message(i).Body))
		}
	}
	return all
}

func lengths(messages []string) (out []int) {
	for _, m := range messages {
		out = append(out, len(m))
	}
	return out
}

// A fork may end at any offset that its source told, between two messages of an
// append in parts too: it has those below, whether they are read in memory or in
// the log.
func TestPageEndsInsideAnAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		messages := make([]string, 2500)
		for i := range messages {
			messages[i] = fmt.Sprint("m", i)
		}
		do(t, h, create("text/plain"), shard.CodeCreated)
		info := do(t, h, appendReq("text/plain", messages...), shard.CodeAppended).Info
		do(t, h, appendReq("text/plain", "later"), shard.CodeAppended)
		for _, bound := range []uint64{2, 1000, 1001, 1500, 2500} {
			info.Tail, info.LogTail = bound, bound
			for name, n := range map[string]*shard.Host{"memory": h, "log": node(t, log)} {
				got := 0
				for p := uint64(1); p < bound; {
					r, err := n.ReadPage(t.Context(), stream, info, p)
					if err != nil || r.To() <= p || r.To() > bound {
						t.Fatalf("page at %d below %d: to %d, %v", p, bound, r.To(), err)
					}
					got += r.Len() - r.Search(p)
					p = r.To()
				}
				if got != int(bound)-1 {
					t.Errorf("%s: %d messages below %d", name, got, bound)
				}
			}
		}
	})
}

// A page out of memory is laid out once: a crowd that catches up shares it, whether it is
// made of many small Ranges or ends with a checkpoint that lies above the visible tail.
func TestPagesInMemoryAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, logtest.NewMemory(1))
		do(t, h, create("text/plain", "one"), shard.CodeCreated)
		above := 0
		page := func() []byte {
			info, err := h.State(t.Context(), stream, 0)
			if err != nil {
				t.Fatal(err)
			}
			r, err := h.ReadPage(t.Context(), stream, info, info.Start)
			if err != nil || r.From() > info.Start || r.To() < info.Tail {
				t.Fatal(r.From(), r.To(), info, err)
			}
			above += int(r.To() - info.Tail)
			return r.Bytes()
		}
		for i := range 3 {
			if a, b := page(), page(); &a[0] != &b[0] {
				t.Errorf("two copies after %d appends", i)
			}
			do(t, h, appendReq("text/plain", fmt.Sprint("more", i)), shard.CodeAppended)
		}
		if all := history(t, h); fmt.Sprint(all) != "[one more0 more1 more2]" {
			t.Errorf("%q", all)
		}
		do(t, h, appendReq("text/plain", strings.Repeat("x", 900<<10)), shard.CodeAppended)
		synctest.Wait()
		if a, b := page(), page(); &a[0] != &b[0] || above == 0 {
			t.Errorf("two copies, or no checkpoint: %d", above)
		}
	})
}
