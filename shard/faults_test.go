package shard_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

var errDown = errors.New("down")

// hooked is a Log in memory with something in the way of its calls. The hooks
// are changed through set only.
type hooked struct {
	*logtest.Memory
	mu sync.Mutex
	hooks
}

type hooks struct {
	append func(ctx context.Context, write func() (shard.Ack, error)) (shard.Ack, error)
	read   func() error // before Read, Last and Replay
	last   func(id shard.StreamID) error
	tail   func(ask func() (shard.Pos, error)) (shard.Pos, error)
}

func newHooked() *hooked { return &hooked{Memory: logtest.NewMemory(1)} }

func (l *hooked) set(h hooks) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hooks = h
}

func (l *hooked) get() hooks {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hooks
}

func (l *hooked) Append(
	ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry,
) (shard.Ack, error) {
	write := func() (shard.Ack, error) { return l.Memory.Append(ctx, id, at, batch) }
	if fn := l.get().append; fn != nil {
		return fn(ctx, write)
	}
	return write()
}

// OpenAppendSession opens a session whose inputs meet the hooks of appends.
func (l *hooked) OpenAppendSession(_ context.Context, id shard.StreamID, wake func()) (shard.AppendSession, error) {
	return logtest.NewAppendSession(logtest.SessionParts{
		Wake: wake,
		Write: func(ctx context.Context, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
			return l.Append(ctx, id, at, batch)
		},
	}), nil
}

func (l *hooked) reading() error {
	if fn := l.get().read; fn != nil {
		return fn()
	}
	return nil
}

func (l *hooked) Read(ctx context.Context, id shard.StreamID, from shard.Pos, n int) (shard.Page, error) {
	if err := l.reading(); err != nil {
		return shard.Page{}, err
	}
	return l.Memory.Read(ctx, id, from, n)
}

func (l *hooked) Last(ctx context.Context, id shard.StreamID, n, maxBytes int) (shard.Page, error) {
	if err := l.reading(); err != nil {
		return shard.Page{}, err
	}
	if fn := l.get().last; fn != nil {
		if err := fn(id); err != nil {
			return shard.Page{}, err
		}
	}
	return l.Memory.Last(ctx, id, n, maxBytes)
}

func (l *hooked) FirstSince(ctx context.Context, id shard.StreamID, since shard.Millis) (shard.Page, error) {
	if err := l.reading(); err != nil {
		return shard.Page{}, err
	}
	return l.Memory.FirstSince(ctx, id, since)
}

func (l *hooked) Replay(
	ctx context.Context, id shard.StreamID, from, to shard.Pos, fn func(shard.Page) error,
) error {
	return l.Memory.Replay(ctx, id, from, to, func(p shard.Page) error {
		if err := l.reading(); err != nil {
			return err
		}
		return fn(p)
	})
}

func (l *hooked) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	ask := func() (shard.Pos, error) { return l.Memory.Tail(ctx, id) }
	if fn := l.get().tail; fn != nil {
		return fn(ask)
	}
	return ask()
}

// loseAck writes and does not tell.
func loseAck(_ context.Context, write func() (shard.Ack, error)) (shard.Ack, error) {
	ack, err := write()
	if err == nil {
		err = errors.Join(shard.ErrAppendUnknown, errDown)
	}
	return ack, err
}

// doLater starts Do and returns a function that waits for its end.
func doLater(ctx context.Context, h *shard.Manager, r *shard.Request) func() (shard.Outcome, error) {
	var out shard.Outcome
	var err error
	done := make(chan struct{})
	go func() {
		out, err = h.Do(ctx, r)
		close(done)
	}()
	return func() (shard.Outcome, error) { <-done; return out, err }
}

// An append is written, its acknowledgement is lost, and storage cannot be read. The caller is told
// "written" once storage can be read, or that it is not known; never that it was not written.
func TestLostAckIsResolvedOrReportedUnknown(t *testing.T) {
	for _, c := range []struct {
		name string
		down time.Duration
		want error
	}{
		{"for a moment", 8 * time.Second, nil},
		{"for long", 10 * time.Minute, shard.ErrOutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := newHooked()
				h := node(t, log)
				do(t, h, create("text/plain"), shard.CodeCreated)
				back := time.Now().Add(c.down)
				log.set(hooks{append: loseAck, read: func() error {
					if time.Now().Before(back) {
						return errDown
					}
					return nil
				}})
				out, err := h.Do(t.Context(), appendReq("text/plain", "a"))
				if !errors.Is(err, c.want) {
					t.Fatalf("%+v, %v", out, err)
				}
				log.set(hooks{})
				advance(shard.ProbeEvery)
				equal(t, history(t, h), []string{"a"})
			})
		})
	}
}

// The owner drops a stream while it is not known whether an append was written; it was.
func TestDropDuringAnUnknownAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		log.set(hooks{append: loseAck, read: func() error { return errDown }})
		wait := doLater(t.Context(), h, appendReq("text/plain", "a"))
		synctest.Wait()
		behind := doLater(t.Context(), h, appendReq("text/plain", "b"))
		synctest.Wait()
		go h.Drop(stream)
		advance(time.Second)
		log.set(hooks{})
		if out, err := wait(); err != nil || out.Code != shard.CodeAppended {
			t.Errorf("written, but the answer was %+v, %v", out, err)
		}
		if out, err := behind(); !errors.Is(err, shard.ErrNotOwner) {
			t.Errorf("not written, but the answer was %+v, %v", out, err)
		}
		equal(t, history(t, h), []string{"a"})
	})
}

// The outcome of a repeat is unknown if its id has left the window. The other appends of its batch
// have theirs.
func TestForgottenRepeatIsUnknownAndItsBatchIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		old := appendReq("text/plain", "old")
		do(t, h, old, shard.CodeAppended)
		advance(time.Minute)
		for range 1100 {
			do(t, h, appendReq("text/plain", "x"), shard.CodeAppended)
		}
		gate := make(chan struct{})
		log.set(hooks{append: func(_ context.Context, write func() (shard.Ack, error)) (shard.Ack, error) {
			<-gate
			return write()
		}})
		again := *old
		again.Repeat = true
		waits := []func() (shard.Outcome, error){
			doLater(t.Context(), h, appendReq("text/plain", "first")),
		}
		synctest.Wait() // the first is in flight; these wait behind it, for one batch
		waits = append(waits, doLater(t.Context(), h, appendReq("text/plain", "a")))
		synctest.Wait()
		waits = append(waits, doLater(t.Context(), h, &again))
		synctest.Wait()
		waits = append(waits, doLater(t.Context(), h, appendReq("text/plain", "b")))
		synctest.Wait()
		close(gate)
		for i, wait := range waits {
			out, err := wait()
			if doubt := errors.Is(err, shard.ErrOutcomeUnknown); doubt != (i == 2) || !doubt && err != nil {
				t.Errorf("%d: %+v, %v", i, out, err)
			}
		}
		got := history(t, h)
		equal(t, got[len(got)-4:], []string{"x", "first", "a", "b"})
	})
}

// A caller does not wait for the batch that it leads once its ctx has ended; the batch is written
// all the same.
func TestBatchIsWrittenWhenItsLeaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		log.set(hooks{append: func(ctx context.Context, _ func() (shard.Ack, error)) (shard.Ack, error) {
			<-ctx.Done()
			return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, ctx.Err())
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		out, err := h.Do(ctx, appendReq("text/plain", "a"))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 110*time.Millisecond {
			t.Fatalf("%+v, %v after %v", out, err, time.Since(began))
		}
		log.set(hooks{})
		do(t, h, appendReq("text/plain", "b"), shard.CodeAppended)
		equal(t, history(t, h), []string{"a", "b"})
	})
}

// A record of a later release ends the tail buffer of the readers here: what follows cannot be shown
// to them.
func TestLaterReleaseEndsTheTailBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		tail, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		at := tail.Next()
		entry := shard.Entry{Header: shard.LaterRelease(at), Body: []byte("later")}
		if _, err := log.Append(t.Context(), stream, at, []shard.Entry{entry}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !errors.Is(tail.EndError(), shard.ErrNeedsLaterRelease) {
			t.Errorf("the Tail goes on: %v", tail.EndError())
		}
		if _, err := h.Info(t.Context(), stream, 0); !errors.Is(err, shard.ErrNeedsLaterRelease) {
			t.Errorf("state: %v", err)
		}
		if out, err := h.Do(t.Context(), appendReq("text/plain", "b")); !errors.Is(err, shard.ErrNeedsLaterRelease) {
			t.Errorf("append: %+v, %v", out, err)
		}
		advance(time.Minute) // and nothing goes on behind it
		if n := log.OpenSessions(); n != 0 {
			t.Errorf("%d sessions", n)
		}
	})
}

// A tail check that was sent before a reader came does not answer for it.
func TestEarlierTailCheckDoesNotAnswerALaterCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h, rival := node(t, log), node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		advance(time.Second)
		log.set(hooks{tail: func(ask func() (shard.Pos, error)) (shard.Pos, error) {
			tail, err := ask()
			advance(time.Second) // on its way back
			return tail, err
		}})
		early := make(chan struct{})
		go func() {
			_, _ = h.Info(t.Context(), stream, 0)
			close(early)
		}()
		advance(100 * time.Millisecond)
		out := do(t, rival, appendReq("text/plain", "a"), shard.CodeAppended)
		info, err := h.Info(t.Context(), stream, 0)
		if err != nil || info.Tail != out.Info.Tail {
			t.Errorf("tail %d, %v; acknowledged before: %d", info.Tail, err, out.Info.Tail)
		}
		<-early
	})
}

// Thousands of streams with a TTL are only followed, and their owner dies. The new owner grants
// each at least its TTL from then on, and not much more.
func TestNewOwnerGrantsFollowedStreamsTheirTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams, ttl = 4000, 240
		log := logtest.NewMemory(1)
		log.Latency = 40 * time.Millisecond
		h, _ := newUnpacedManager(t, log, shard.Config{})
		id := func(i int) shard.StreamID { return shard.StreamID(fmt.Sprint("default/", i)) }
		var wg sync.WaitGroup
		for i := range streams {
			wg.Go(func() {
				q := withTTL(ttl)
				q.Stream = id(i)
				do(t, h, q, shard.CodeCreated)
				_, release, err := h.Follow(t.Context(), q.Stream, 0)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(release)
			})
		}
		wg.Wait()
		advance(10*time.Minute + time.Second)
		_ = h.Close()
		heir, _ := newUnpacedManager(t, log, shard.Config{})
		count := func() (n int) {
			for i := range streams {
				info, err := heir.Info(t.Context(), id(i), 0)
				if err != nil {
					t.Fatal(err)
				}
				if info.Exists {
					n++
				}
			}
			return n
		}
		if n := count(); n != streams {
			t.Errorf("%d of %d at once", n, streams)
		}
		advance((ttl - 5) * time.Second)
		if n := count(); n != streams {
			t.Errorf("%d of %d shortly before their time", n, streams)
		}
		advance(3 * time.Minute)
		if n := count(); n != 0 {
			t.Errorf("%d still there long after", n)
		}
	})
}

// A takeover that fails in the middle starts again, and is complete.
func TestInterruptedTakeoverStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		do(t, node(t, log), create("text/plain", "a"), shard.CodeCreated)
		want := []string{"a"}
		for i := range 5000 {
			want = append(want, fmt.Sprint(i))
		}
		log.AppendForeign(stream, want[1:]...)
		calls := 0
		log.set(hooks{read: func() error {
			if calls++; calls%6 == 5 {
				return errDown
			}
			return nil
		}})
		h := node(t, log)
		for try := 0; ; try++ {
			_, err := h.Info(t.Context(), stream, 0)
			if err == nil {
				break
			}
			if try > 20 || !errors.Is(err, shard.ErrStoreDown) {
				t.Fatalf("try %d: %v", try, err)
			}
			if try == 2 {
				log.set(hooks{})
			}
		}
		equal(t, history(t, h), want)
	})
}

// A panic on the goroutine of a request, which net/http survives, ends the process: otherwise the
// stream's lock would stay held, or its flush would never end.
func TestPanicOfALeaderEndsTheProcess(t *testing.T) {
	if os.Getenv("TEST_PANIC") != "" {
		log := newHooked()
		h := shard.NewManager(log, shard.NewTailBuffers(0, 0), inMode(shard.Config{}))
		do(t, h, create("text/plain"), shard.CodeCreated)
		for range 20 { // the flush that created the log ends meanwhile
			do(t, h, appendReq("text/plain", "a"), shard.CodeAppended)
		}
		log.set(hooks{append: func(context.Context, func() (shard.Ack, error)) (shard.Ack, error) {
			panic("boom")
		}})
		defer func() { _ = recover() }() // as net/http does
		_, _ = h.Do(t.Context(), appendReq("text/plain", "a"))
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicOfALeaderEndsTheProcess$")
	cmd.Env = append(os.Environ(), "TEST_PANIC=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: boom") ||
		!strings.Contains(string(out), "leadWrites(") {
		t.Fatalf("%v\n%s", err, out)
	}
}
