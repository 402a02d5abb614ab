package shard_test

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipelined has the tests run with several batches of a stream in flight, however fast the Log is.
var pipelined = flag.Bool("pipelined", false, "pipeline appends")

// inMode returns a Config as the flags ask for it.
func inMode(cfg shard.Config) shard.Config {
	if *pipelined {
		return cfg.Pipelined()
	}
	return cfg
}

const stream = shard.StreamID("default/s")

// node is one Host with its own tail buffers.
func node(t testing.TB, log shard.Log) *shard.Manager {
	t.Helper()
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), inMode(shard.Config{}))
	t.Cleanup(func() {
		_ = h.Close()
		if n := h.BrokenLogs(); n > 0 {
			t.Errorf("%d batches on others than they say", n)
		}
	})
	return h
}

func create(typ string, msgs ...string) *shard.Request {
	r := appendReq(typ, msgs...)
	r.Op = shard.OpCreate
	return r
}

func appendReq(typ string, msgs ...string) *shard.Request {
	r := &shard.Request{
		Stream: stream, Op: shard.OpAppend, ID: shard.NewAppendID(), Type: typ,
		MintedMillis: shard.MillisOf(time.Now()),
	}
	var bodies [][]byte
	for _, m := range msgs {
		bodies = append(bodies, []byte(m))
	}
	r.Messages = shard.NewMessages(bodies...)
	return r
}

func do(t testing.TB, h *shard.Manager, r *shard.Request, want shard.Code) shard.Outcome {
	t.Helper()
	out, err := h.Do(t.Context(), r)
	if err != nil {
		t.Fatalf("do: %v", err)
	}
	if out.Code != want {
		t.Fatalf("code %d (%s), want %d", out.Code, out.Why, want)
	}
	return out
}

// history reads all visible messages of the stream through h, by pages.
func history(t testing.TB, h *shard.Manager) []string {
	t.Helper()
	info, err := h.Info(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for p := info.Start; p < info.Tail; {
		r, err := h.ReadPage(t.Context(), stream, info, p)
		if err != nil {
			t.Fatalf("page at %d: %v", p, err)
		}
		if r.To() <= p {
			t.Fatalf("page at %d does not advance", p)
		}
		for i := r.Search(p); i < r.Len(); i++ {
			got = append(got, string(r.Message(i).Body))
		}
		p = r.To()
	}
	return got
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %.300q\nwant %.300q", got, want)
	}
}

func TestCreateAppendRead(t *testing.T) { synctest.Test(t, testCreateAppendRead) }

func testCreateAppendRead(t *testing.T) {
	log := logtest.NewMemory(1)
	h := node(t, log)
	do(t, h, appendReq("text/plain", "x"), shard.CodeNotFound)
	out := do(t, h, create("text/plain", "a"), shard.CodeCreated)
	if out.Info.Tail != 2 || out.Info.Start != 1 {
		t.Fatalf("info %+v", out.Info)
	}
	do(t, h, create("text/plain"), shard.CodeExists)
	do(t, h, create("text/html"), shard.CodeConfigDiffers)
	do(t, h, appendReq("text/plain", "b", "c"), shard.CodeAppended)
	equal(t, history(t, h), []string{"a", "b", "c"})
	equal(t, history(t, node(t, log)), []string{"a", "b", "c"})
}

func TestDeleteAndRecreate(t *testing.T) { synctest.Test(t, testDeleteAndRecreate) }

func testDeleteAndRecreate(t *testing.T) {
	log := logtest.NewMemory(1)
	h := node(t, log)
	first := do(t, h, create("text/plain", "old"), shard.CodeCreated)
	tail, release, err := h.Follow(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	do(t, h, &shard.Request{Stream: stream, Op: shard.OpDelete, ID: shard.NewAppendID()}, shard.CodeDeleted)
	if tail.EndError() == nil {
		t.Error("the life's Tail goes on")
	}
	do(t, h, appendReq("text/plain", "x"), shard.CodeNotFound)
	second := do(t, h, create("application/json", "1"), shard.CodeCreated)
	if second.Info.Generation <= first.Info.Generation {
		t.Errorf("life %d after %d", second.Info.Generation, first.Info.Generation)
	}
	equal(t, history(t, h), []string{"1"})
	equal(t, history(t, node(t, log)), []string{"1"})
}

func TestWipedStorageStartsAnotherGeneration(t *testing.T) { synctest.Test(t, testWipedStore) }

func testWipedStore(t *testing.T) {
	log := logtest.NewMemory(1)
	h := node(t, log)
	first := do(t, h, create("text/plain", "old", "er"), shard.CodeCreated)
	advance(time.Second) // memory may not answer any more
	log.Wipe()
	second := do(t, h, create("text/plain", "new"), shard.CodeCreated)
	if second.Info.Generation <= first.Info.Generation {
		t.Errorf("life %d after %d", second.Info.Generation, first.Info.Generation)
	}
	equal(t, history(t, h), []string{"new"})
}

func TestFollowSeesEverything(t *testing.T) { synctest.Test(t, testFollowSeesEverything) }

func testFollowSeesEverything(t *testing.T) {
	log := logtest.NewMemory(1)
	h := node(t, log)
	out := do(t, h, create("text/plain"), shard.CodeCreated)
	tail, release, err := h.Follow(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	do(t, h, appendReq("text/plain", "a"), shard.CodeAppended)
	log.AppendForeign(stream, "f")
	do(t, h, appendReq("text/plain", "b"), shard.CodeAppended)
	equal(t, takeMessages(t, tail, out.Info.Tail, 3), []string{"a", "f", "b"})
	synctest.Wait()
	if n := log.OpenSessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
	release()
	advance(61 * time.Second) // to the end of the paid minute
	synctest.Wait()
	if n := log.OpenSessions(); n != 0 {
		t.Errorf("%d sessions after the last reader", n)
	}
}

type wakeSignal chan struct{}

func (w wakeSignal) Wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// takeMessages reads n messages from a tail buffer as a reader does.
func takeMessages(t testing.TB, tail *shard.TailBuffer, pos shard.Pos, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	w := make(wakeSignal, 1)
	for len(got) < n {
		rs, st := tail.ReadAt(pos, 1<<20, nil)
		for _, r := range rs {
			for i := r.Search(pos); i < r.Len(); i++ {
				got = append(got, string(r.Message(i).Body))
			}
			pos = max(pos, r.To())
		}
		if st == shard.StatusBelow || st == shard.StatusGone {
			t.Fatalf("status %d at %d", st, pos)
		}
		if st == shard.StatusTip && len(got) < n && tail.Watch(w, pos) {
			select {
			case <-w:
			case <-ctx.Done():
				t.Fatalf("got %d of %d", len(got), n)
			}
		}
	}
	return got
}

// advance lets d pass on the bubble's clock.
func advance(d time.Duration) { <-time.After(d) }
