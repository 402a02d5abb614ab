package s2

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// A large append is visible whole or not at all, whatever happens to its parts.
func TestLargeAppendIsAtomic(t *testing.T) {
	for _, size := range []int{1<<20 - 1, 1 << 20, 1<<20 + 1, 10_000_000, shard.MaxBody} {
		r := newTestEnv(t)
		h := r.newManager()
		r.mustDo(h, request(shard.OpCreate, "application/octet-stream", "before"), shard.CodeCreated)
		body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		r.mustDo(h, request(shard.OpAppend, "application/octet-stream", body), shard.CodeAppended)
		r.mustDo(h, request(shard.OpAppend, "application/octet-stream", "after"), shard.CodeAppended)
		for _, h := range []*shard.Manager{h, r.newManager()} {
			got := r.readAll(h)
			if len(got) != 3 || got[0] != "before" || got[1] != body || got[2] != "after" {
				t.Fatalf("%d bytes: %d messages", size, len(got))
			}
		}
		got := r.readLive(r.newManager(), 3)
		if !bytes.Equal([]byte(got[1]), []byte(body)) {
			t.Fatalf("%d bytes: live differs", size)
		}
	}
}

// When the writer dies between two parts, readers see nothing of the append, and the next append
// works.
func TestWriterDiesInTheMiddleOfALargeAppend(t *testing.T) {
	r := newTestEnv(t)
	h := shard.NewManager(r.log, shard.NewTailBuffers(0, 0), shard.Config{})
	r.mustDo(h, request(shard.OpCreate, "text/plain", "before"), shard.CodeCreated)
	// The third part's request is held until the manager is closed.
	r.server.Faults().Add(s2dev.Fault{
		Stream: string(id), Op: s2dev.OpAppend, Kind: s2dev.Refuse, Code: "rate_limited", Probability: 0.5, Seed: 5,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := h.Do(ctx, request(shard.OpAppend, "text/plain", strings.Repeat("x", 12<<20)))
		done <- err
	}()
	r.eventually("some parts are written", func() bool {
		tail, err := r.log.Tail(t.Context(), id)
		return err == nil && tail > 5
	})
	r.server.Faults().Clear()
	cancel()
	_ = h.Close()
	<-done
	heir := r.newManager()
	got := r.readAll(heir)
	if len(got) != 1 && len(got) != 2 { // all or nothing: the append may just have succeeded
		t.Fatalf("%d messages", len(got))
	}
	r.mustDo(heir, request(shard.OpAppend, "text/plain", "next"), shard.CodeAppended)
	after := r.readAll(heir)
	if len(after) != len(got)+1 || after[len(after)-1] != "next" {
		t.Fatalf("%d messages after another append", len(after))
	}
}

// A foreign record between two parts voids the earlier parts. The append starts again and is there
// once.
func TestForeignRecordBetweenParts(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	body := strings.Repeat("y", 8<<20)
	held := r.server.Faults().Add(s2dev.Fault{
		Stream: string(id), Op: s2dev.OpAppend, Kind: s2dev.DelayAfter, Count: 1,
	})
	done := make(chan error, 1)
	go func() {
		_, err := h.Do(t.Context(), request(shard.OpAppend, "text/plain", body))
		done <- err
	}()
	if err := held.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.appendForeign("between")
	held.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, h := range []*shard.Manager{h, r.newManager()} {
		got := r.readAll(h)
		if len(got) != 2 || got[0] != "between" || got[1] != body {
			t.Fatalf("%d messages, first of %d bytes", len(got), len(got[0]))
		}
	}
}
