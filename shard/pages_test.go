package shard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// A read that ends between the records of one message tears no message: neither in a page, nor live
// from another owner. S2 ends a read after 1 MiB.
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
				"at the owner": history(t, h), "from the log": history(t, node(t, log)), "live": heldMessages(tail),
			} {
				if fmt.Sprint(lengths(got)) != fmt.Sprint(want) {
					t.Errorf("%s: messages of %v, want %v", name, lengths(got), want)
				}
			}
		})
	}
}

// A caller that asks for a page describes the stream, and may be wrong: a peer, or a fork with a
// forged create record. The page is cached for callers with the same description.
func TestWrongDescriptionSharesNoPage(t *testing.T) {
	for name, c := range map[string]struct {
		from  shard.Pos // "a" stands at 1, a foreign "b" at 2, "c" at 3 and 4
		wrong func(*shard.Info)
		want  []string
	}{
		"the type": {2, func(i *shard.Info) { i.Type = "application/json" }, []string{"b"}},
		"the tail": {3, func(i *shard.Info) { i.Tail = 1 << 40 }, []string{"c", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, id := logtest.NewMemory(1), shard.NewAppendID()
				do(t, node(t, log), create("text/plain", "a"), shard.CodeCreated)
				log.AppendForeign(stream, "b")
				h := node(t, log) // which has no more of the stream than pages
				info := infoOf(t, node(t, log))
				appendForgedPart(t, log, 3, shard.ForgePart(3, id, true, false))
				wrong := info
				c.wrong(&wrong)
				if _, err := h.ReadPage(t.Context(), stream, wrong, c.from); err != nil {
					t.Fatal(err)
				}
				appendForgedPart(t, log, 4, shard.ForgePart(4, id, false, true))
				if c.from >= info.Tail {
					info = infoOf(t, node(t, log))
				}
				var got []string
				for p := c.from; p < info.Tail; {
					r, err := h.ReadPage(t.Context(), stream, info, p)
					if err != nil {
						t.Fatal(err)
					}
					for i := range r.Len() {
						got = append(got, string(r.Message(i).Body))
					}
					p = r.To()
				}
				equal(t, got, c.want)
			})
		})
	}
}

func infoOf(t testing.TB, h *shard.Manager) shard.Info {
	t.Helper()
	info, err := h.Info(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// appendForgedPart appends a part of an append, past every owner.
func appendForgedPart(t testing.TB, log shard.Log, at uint64, header []byte) {
	t.Helper()
	if _, err := log.Append(t.Context(), stream, shard.Pos(at), []shard.Entry{{Header: header, Body: []byte("c")}}); err != nil {
		t.Fatal(err)
	}
}

// heldMessages is every message that a tail buffer holds.
func heldMessages(tail *shard.TailBuffer) (all []string) {
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

// A fork may end at any offset that its source told, also between two messages of an append in
// parts: it has the messages below, whether they are read in memory or in the log.
func TestForkPageEndsInsideAnAppend(t *testing.T) {
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
			info.Tail, info.LogTail = shard.Pos(bound), shard.Pos(bound)
			for name, n := range map[string]*shard.Manager{"memory": h, "log": node(t, log)} {
				got := 0
				for p := uint64(1); p < bound; {
					r, err := n.ReadPage(t.Context(), stream, info, shard.Pos(p))
					if err != nil || r.To() <= shard.Pos(p) || r.To() > shard.Pos(bound) {
						t.Fatalf("page at %d below %d: to %d, %v", p, bound, r.To(), err)
					}
					got += r.Len() - r.Search(shard.Pos(p))
					p = uint64(r.To())
				}
				if got != int(bound)-1 {
					t.Errorf("%s: %d messages below %d", name, got, bound)
				}
			}
		}
	})
}

// A page out of memory is laid out once: all readers that catch up share it, whether it is made of
// many small RecordBatches or ends with a checkpoint above the visible tail.
func TestPagesInMemoryAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, logtest.NewMemory(1))
		do(t, h, create("text/plain", "one"), shard.CodeCreated)
		above := 0
		page := func() []byte {
			info, err := h.Info(t.Context(), stream, 0)
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

// A page that a peer gives is cached like one that was read. If it cannot be the page, or the peer
// does not answer, the log is read. If the peer says that it is trimmed, that is final.
func TestPageFromAPeerIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		owner := node(t, log)
		do(t, owner, create("text/plain"), shard.CodeCreated)
		var info shard.Info
		for i := range 2500 {
			info = do(t, owner, appendReq("text/plain", fmt.Sprint("m", i)), shard.CodeAppended).Info
		}
		page := func(from shard.Pos) shard.RecordBatch {
			t.Helper()
			r, err := node(t, log).ReadPage(t.Context(), stream, info, from)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		want, other := page(1000), errors.New("no answer")
		for name, c := range map[string]struct {
			gives shard.RecordBatch
			err   error
			reads int // of the log, and of the peer, for the page twice
			asks  int
		}{
			"the page":        {want, nil, 0, 1},
			"an earlier one":  {page(1), nil, 1, 1},
			"a later one":     {page(2000), nil, 1, 1},
			"more than it":    {shard.Join(page(900), want), nil, 0, 1},
			"nothing":         {shard.RecordBatch{}, other, 1, 1},
			"that it is gone": {shard.RecordBatch{}, &shard.TrimmedError{First: 2000}, 0, 2},
			"no such stream":  {shard.RecordBatch{}, shard.ErrNotFound, 0, 2},
		} {
			h, asks, reads := node(t, log), 0, log.Ops().Reads
			for range 2 {
				got, err := h.ReadPageVia(t.Context(), stream, info, 1000, func(context.Context) (shard.RecordBatch, error) {
					asks++
					return c.gives, c.err
				})
				if final := c.err != nil && !errors.Is(c.err, other); final != (err != nil) || final && !errors.Is(err, c.err) {
					t.Fatalf("%s: %v", name, err)
				} else if final {
					continue
				}
				if !bytes.Equal(got.Bytes(), want.Bytes()) {
					t.Errorf("%s: [%d, %d), %d messages; want [%d, %d), %d",
						name, got.From(), got.To(), got.Len(), want.From(), want.To(), want.Len())
				}
			}
			if n := log.Ops().Reads - reads; n != c.reads || asks != c.asks {
				t.Errorf("%s: %d reads, asked %d times", name, n, asks)
			}
		}
	})
}
