package shard_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

func noTail(func() (shard.Pos, error)) (shard.Pos, error) { return 0, errDown }

// Storage is gone for a while. The first caller waits for it; the others are told immediately that
// nothing was written; memory is served; and all goes on within a second of its return.
func TestCallsFailImmediatelyWhileStorageIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		tail, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		silent := func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		log.set(hooks{
			append: func(ctx context.Context, _ func() (shard.Ack, error)) (shard.Ack, error) {
				return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, silent(ctx))
			},
			read: func() error { return errDown },
			tail: noTail,
		})
		began := time.Now()
		first := doLater(t.Context(), h, appendReq("text/plain", "b"))
		synctest.Wait()
		behind := doLater(t.Context(), h, appendReq("text/plain", "c"))
		if _, err := behind(); !errors.Is(err, shard.ErrStoreDown) || errors.Is(err, shard.ErrOutcomeUnknown) || time.Since(began) > 6*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if !h.StoreDown() {
			t.Error("nothing is answered, and nobody noticed")
		}
		began = time.Now()
		for range 10 {
			if _, err := h.Do(t.Context(), appendReq("text/plain", "d")); !errors.Is(err, shard.ErrStoreDown) {
				t.Error(err)
			}
			if _, err := h.Info(t.Context(), "default/another", 0); !errors.Is(err, shard.ErrStoreDown) {
				t.Error(err)
			}
		}
		if info, err := h.Info(t.Context(), stream, shard.InfoAllowCached); err != nil || info.Tail != tail.Info().Tail {
			t.Errorf("%+v %v", info, err)
		}
		if d := time.Since(began); d > 0 {
			t.Errorf("it took %v to say so", d)
		}
		log.set(hooks{})
		advance(shard.ProbeEvery)
		if h.StoreDown() {
			t.Error("it is back")
		}
		if out, err := first(); err != nil || out.Code != shard.CodeAppended {
			t.Errorf("%+v %v", out, err)
		}
		do(t, h, appendReq("text/plain", "e"), shard.CodeAppended)
		equal(t, history(t, h), []string{"a", "b", "e"})
	})
}

// Where no client writes, a session that has fallen silent proves nothing: storage is asked.
func TestStorageIsProbedBehindASilentSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		_, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		advance(time.Minute)
		if h.StoreDown() {
			t.Fatal("it answers")
		}
		log.set(hooks{tail: noTail})
		advance(7 * time.Second)
		if !h.StoreDown() {
			t.Error("nobody asked")
		}
		log.set(hooks{})
		advance(2 * time.Second)
		if h.StoreDown() {
			t.Error("it is back")
		}
		release()
	})
}

// Appends hang, and everything else is answered: no caller waits behind another's append.
func TestHangingAppendsHoldUpNoOtherCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		log.set(hooks{append: func(ctx context.Context, _ func() (shard.Ack, error)) (shard.Ack, error) {
			<-ctx.Done()
			return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, ctx.Err())
		}})
		began := time.Now()
		first := doLater(t.Context(), h, appendReq("text/plain", "b"))
		synctest.Wait()
		behind := doLater(t.Context(), h, appendReq("text/plain", "c"))
		if _, err := behind(); !errors.Is(err, shard.ErrStoreDown) || errors.Is(err, shard.ErrOutcomeUnknown) || time.Since(began) > 11*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		log.set(hooks{})
		if out, err := first(); err != nil || out.Code != shard.CodeAppended {
			t.Errorf("%+v %v", out, err)
		}
		equal(t, history(t, h), []string{"a", "b"})
	})
}

// No server takes a connection: that is no answer, though it is certain that nothing was written.
func TestRefusedConnectionsCountAsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		away := fmt.Errorf("dial: %w", shard.ErrLogUnreachable)
		log.set(hooks{
			append: func(context.Context, func() (shard.Ack, error)) (shard.Ack, error) {
				advance(100 * time.Millisecond)
				return shard.Ack{}, away
			},
			read: func() error { return away },
			tail: func(func() (shard.Pos, error)) (shard.Pos, error) { return 0, away },
		})
		began := time.Now()
		if _, err := h.Do(t.Context(), appendReq("text/plain", "b")); !errors.Is(err, shard.ErrStoreDown) ||
			errors.Is(err, shard.ErrOutcomeUnknown) || time.Since(began) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if !h.StoreDown() {
			t.Error("nobody is there, and nobody noticed")
		}
		log.set(hooks{})
		advance(3 * time.Second)
		do(t, h, appendReq("text/plain", "b"), shard.CodeAppended)
	})
}

// tailReportingLog is a Log with read sessions that report, now and then, the tail they last saw,
// and that they were lost. S2's sessions do so too, whether S2 is there or not.
type tailReportingLog struct{ *hooked }

func (l tailReportingLog) Follow(ctx context.Context, id shard.StreamID, from shard.Pos, fn func(shard.Page) error) error {
	for i := 0; ctx.Err() == nil; i++ {
		p := shard.Page{}
		if i%2 == 0 {
			p = shard.Page{Tail: from, HasTail: true}
		}
		if err := fn(p); err != nil {
			return err
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// A read session that is open, or opened again and again, hides no outage.
func TestOpenSessionsDoNotHideAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := tailReportingLog{newHooked()}
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		_, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		log.set(hooks{read: func() error { return errDown }, tail: noTail})
		advance(10 * time.Second)
		if !h.StoreDown() {
			t.Error("nothing is answered, and nobody noticed")
		}
	})
}

// basinlessLog is a Log without a basin for one project. It says so without asking storage.
type basinlessLog struct{ *hooked }

func (l basinlessLog) Last(ctx context.Context, id shard.StreamID, n, maxBytes int) (shard.Page, error) {
	if id == "none/x" {
		return shard.Page{}, shard.ErrNoBasin
	}
	return l.hooked.Last(ctx, id, n, maxBytes)
}

func (l basinlessLog) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	if id == "none/x" {
		return 0, shard.ErrNoBasin
	}
	return l.hooked.Tail(ctx, id)
}

// Requests that are refused without asking storage say nothing about storage.
func TestRefusalsWithoutACallSayNothingOfStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := basinlessLog{newHooked()}
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		log.set(hooks{
			append: func(ctx context.Context, _ func() (shard.Ack, error)) (shard.Ack, error) {
				<-ctx.Done()
				return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, ctx.Err())
			},
			read: func() error { return errDown },
			tail: noTail,
		})
		poll := func() {
			if _, err := h.Info(t.Context(), "none/x", 0); !errors.Is(err, shard.ErrLogDenied) && !errors.Is(err, shard.ErrStoreDown) {
				t.Error(err)
			}
		}
		poll()
		doLater(t.Context(), h, appendReq("text/plain", "b"))
		for range 100 {
			advance(100 * time.Millisecond)
			poll()
		}
		if !h.StoreDown() {
			t.Error("nothing is answered, and nobody noticed")
		}
		log.set(hooks{})
		advance(2 * time.Second)
		if h.StoreDown() {
			t.Error("it is back")
		}
	})
}
