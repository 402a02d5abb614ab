package shard_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

func autoNode(t *testing.T, log shard.Log) *shard.Manager {
	t.Helper()
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{Mode: shard.ModeAuto})
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// Where only this node writes, followed streams have no session, whatever is asked of them, and each
// has at most one tail check in 28 s.
func TestAutoOpensNoSessionWithoutAForeignWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := autoNode(t, log)
		const n, during = 1000, 10 * time.Minute
		for i := range n {
			req := create("text/plain")
			req.Stream = numberedStream(i)
			do(t, h, req, shard.CodeCreated)
			_, release, err := h.Follow(t.Context(), req.Stream, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer release()
		}
		before := log.Ops()
		for end := time.Now().Add(during); time.Now().Before(end); advance(time.Second) {
			for i := range 3 { // of some busy streams, one is polled as well
				req := appendReq("text/plain", "own")
				req.Stream = numberedStream(i)
				do(t, h, req, shard.CodeAppended)
			}
			if _, err := h.Info(t.Context(), numberedStream(0), 0); err != nil {
				t.Fatal(err)
			}
			if s := log.OpenSessions(); s != 0 {
				t.Fatalf("%d sessions", s)
			}
		}
		polls := int(during / time.Second)
		most := int(during/(28*time.Second)+1)*n + polls
		if tails := log.Ops().Tails - before.Tails; tails > most || tails < most*8/10 {
			t.Errorf("%d tail checks in %v of %d streams, want at most %d", tails, during, n, most)
		}
		if f := log.Ops().Follows; f != 0 {
			t.Errorf("%d sessions were opened", f)
		}
	})
}

// A foreign record is shown within 30 s the first time, and immediately from then on. The session
// ends an hour after the last one.
func TestAutoFollowsForeignWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := autoNode(t, log)
		out := do(t, h, create("text/plain"), shard.CodeCreated)
		tail, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		advance(time.Minute)
		log.AppendForeign(stream, "first")
		advance(30 * time.Second)
		equal(t, takeMessages(t, tail, out.Info.Tail, 1), []string{"first"})
		for _, m := range []string{"second", "third"} {
			log.AppendForeign(stream, m)
			synctest.Wait()
			if tail.Info().Tail != takenTail(t, log) {
				t.Fatalf("%q is not there immediately", m)
			}
			advance(50 * time.Minute)
			if n := log.OpenSessions(); n != 1 {
				t.Fatalf("%d sessions", n)
			}
		}
		advance(20 * time.Minute)
		if n := log.OpenSessions(); n != 0 {
			t.Fatalf("%d sessions an hour after the last foreign record", n)
		}
		log.AppendForeign(stream, "fourth")
		advance(30 * time.Second)
		equal(t, takeMessages(t, tail, out.Info.Tail, 4), []string{"first", "second", "third", "fourth"})
	})
}

func takenTail(t *testing.T, log shard.Log) shard.Pos {
	t.Helper()
	tail, err := log.Tail(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return tail
}

// A lost compare-and-swap tells of a foreign writer immediately, and so does a question that needs
// the tail.
func TestAutoNoticesForeignWritersByOtherMeans(t *testing.T) {
	for name, notice := range map[string]func(*testing.T, *shard.Manager){
		"append": func(t *testing.T, h *shard.Manager) { do(t, h, appendReq("text/plain", "own"), shard.CodeAppended) },
		"HEAD": func(t *testing.T, h *shard.Manager) {
			info, err := h.Info(t.Context(), stream, 0)
			if err != nil || info.Tail != 2 {
				t.Errorf("tail %d: %v", info.Tail, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logtest.NewMemory(1)
				h := autoNode(t, log)
				do(t, h, create("text/plain"), shard.CodeCreated)
				_, release, err := h.Follow(t.Context(), stream, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer release()
				advance(time.Second)
				log.AppendForeign(stream, "foreign")
				notice(t, h)
				synctest.Wait()
				if n := log.OpenSessions(); n != 1 {
					t.Errorf("%d sessions", n)
				}
			})
		})
	}
}

// The next owner knows of the foreign writer: by a handover, and from a checkpoint.
func TestAutoRemembersForeignWriters(t *testing.T) {
	for name, next := range map[string]func(*testing.T, *logtest.Memory, *shard.Manager) *shard.Manager{
		"handover": func(t *testing.T, log *logtest.Memory, h *shard.Manager) *shard.Manager {
			heir := autoNode(t, log)
			handed, ok := h.HandOver(stream, 0)
			if !ok {
				t.Fatal("nothing to hand over")
			}
			if err := heir.InstallHandover(stream, handed); err != nil {
				t.Fatal(err)
			}
			return heir
		},
		"checkpoint": func(t *testing.T, log *logtest.Memory, h *shard.Manager) *shard.Manager {
			for range 600 {
				do(t, h, appendReq("text/plain", "own"), shard.CodeAppended)
			}
			_ = h.Close()
			return autoNode(t, log)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logtest.NewMemory(1)
				h := autoNode(t, log)
				do(t, h, create("text/plain"), shard.CodeCreated)
				advance(time.Second)
				log.AppendForeign(stream, "foreign")
				if _, err := h.Info(t.Context(), stream, 0); err != nil {
					t.Fatal(err)
				}
				heir := next(t, log, h)
				_, release, err := heir.Follow(t.Context(), stream, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer release()
				synctest.Wait()
				if n := log.OpenSessions(); n != 1 {
					t.Errorf("%d sessions", n)
				}
			})
		})
	}
}

// After the loss of an owner, which may write for a while, a stream that was taken over from the log
// has a session for two minutes.
func TestAutoExpectsRivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		old := autoNode(t, log)
		do(t, old, create("text/plain"), shard.CodeCreated)
		heir := autoNode(t, log)
		heir.ExpectRivals()
		_, release, err := heir.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		advance(time.Minute)
		if n := log.OpenSessions(); n != 1 {
			t.Errorf("%d sessions", n)
		}
		advance(2 * time.Minute)
		if n := log.OpenSessions(); n != 0 {
			t.Errorf("%d sessions after two minutes", n)
		}
	})
}
