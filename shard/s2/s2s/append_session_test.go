package s2s

import (
	"context"
	"errors"
	"fmt"
	"testing"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard/s2dev"
)

// appender is an append session with its waiter.
type appender struct {
	*AppendSession
	waiter
	ctx context.Context
	t   *testing.T
}

func openAppender(ctx context.Context, t *testing.T, c *Client, at Target, o AppendOptions) *appender {
	t.Helper()
	w := newWaiter()
	a, err := c.OpenAppend(ctx, at, o, w.wake)
	if err != nil {
		t.Fatal(err)
	}
	return &appender{a, w, ctx, t}
}

// take waits for n acknowledgements, or the end.
func (a *appender) take(n int) (acks []Ack, end *AppendEnd) {
	a.t.Helper()
	for {
		if acks, end = a.TakeAcks(acks); end != nil || len(acks) >= n {
			return acks, end
		}
		select {
		case <-a.waiter:
		case <-a.ctx.Done():
			a.t.Fatal("nothing more comes")
		}
	}
}

func (a *appender) mustSubmit(match uint64, bodies ...string) {
	a.t.Helper()
	if err := a.Submit(match, appendRecords(bodies...)); err != nil {
		a.t.Fatal(err)
	}
}

func appendRecords(bodies ...string) []AppendRecord {
	out := make([]AppendRecord, len(bodies))
	for i, b := range bodies {
		out[i] = AppendRecord{Headers: []Header{{Name: []byte("h"), Value: []byte(b)}}, Body: []byte(b)}
	}
	return out
}

func (e *env) bodies(stream string) (out []string) {
	e.Helper()
	tail, err := e.basin.Stream(sdk.StreamName(e.prefix + stream)).CheckTail(e.ctx)
	if err != nil {
		e.Fatal(err)
	}
	r := openReader(e.ctx, e.T, e.client, e.target(stream), ReadOptions{SeqNum: ptr(0), Wait: ptr(0), Count: ptr(max(tail.Tail.SeqNum, 1))})
	defer r.Close()
	for _, rec := range r.records(int(tail.Tail.SeqNum)) {
		out = append(out, string(rec.Body))
	}
	return out
}

func TestAppendSessionPipelines(t *testing.T) { testPipelines(newEnv(t, Config{})) }

func testPipelines(e *env) {
	t := e.T
	e.create("s")
	a := openAppender(e.ctx, t, e.client, e.target("s"), AppendOptions{})
	var want []string
	got := 0
	for i := range 500 {
		bodies := []string{fmt.Sprint(i), "second"}
		for {
			err := a.Submit(uint64(2*i), appendRecords(bodies...))
			if err == nil {
				break
			}
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			acks, end := a.take(1)
			if end != nil {
				t.Fatal(end)
			}
			got += len(acks)
		}
		want = append(want, bodies...)
	}
	for got < 500 {
		acks, end := a.take(1)
		if end != nil {
			t.Fatal(end)
		}
		got += len(acks)
		if last := acks[len(acks)-1]; last.End.SeqNum != uint64(2*got) || last.Tail.SeqNum < last.End.SeqNum || last.End.Timestamp == 0 {
			t.Fatalf("%+v after %d acknowledgements", last, got)
		}
	}
	if have := e.bodies("s"); fmt.Sprint(have) != fmt.Sprint(want) {
		t.Errorf("%d records, want %d", len(have), len(want))
	}
	a.Close()
	if _, end := a.take(1); end == nil || !errors.Is(end, ErrClosed) || end.Acknowledged != 500 || end.Unknown+end.Unsent > 0 {
		t.Errorf("%+v", end)
	}
	if err := a.Submit(1000, appendRecords("x")); !errors.Is(err, ErrEnded) {
		t.Error(err)
	}
}

// Of batches in flight, those before the refused one are acknowledged, always.
func TestAppendSessionIsRefused(t *testing.T) { testAppendIsRefused(newEnv(t, Config{})) }

func testAppendIsRefused(e *env) {
	t := e.T
	for round := range 100 {
		name := fmt.Sprint("s", round)
		e.create(name)
		a := openAppender(e.ctx, t, e.client, e.target(name), AppendOptions{})
		k := round % 5
		for i := range k {
			a.mustSubmit(uint64(i), "good")
		}
		a.mustSubmit(99, "refused")
		behind := 1
		if err := a.Submit(100, appendRecords("behind it")); err != nil { // the refusal has come already
			behind = 0
		}
		acks, end := a.take(k + 1)
		refusal, ok := errors.AsType[*Error](error(end))
		if len(acks) != k || end.Acknowledged != k || !end.Refused || end.Unknown+end.Unsent != behind || !ok || refusal.Status != 412 || *refusal.Tail != uint64(k) {
			t.Fatalf("k=%d: %d acks, %+v", k, len(acks), end)
		}
		if have := e.bodies(name); len(have) != k {
			t.Fatalf("k=%d: %q", k, have)
		}
	}
}

// A session without a stream ends with S2's answer, and nothing of it is written.
func TestAppendSessionWithoutStream(t *testing.T) { testAppendWithoutStream(newEnv(t, Config{})) }

func testAppendWithoutStream(e *env) {
	t := e.T
	a := openAppender(e.ctx, t, e.client, e.target("missing"), AppendOptions{})
	_ = a.Submit(0, appendRecords("a"))
	_, end := a.take(1)
	if refusal, ok := errors.AsType[*Error](error(end)); !ok || refusal.Code != "stream_not_found" || end.Acknowledged+end.Unknown > 0 {
		t.Errorf("%+v", end)
	}
}

// A batch whose frame exceeds the windows many times over passes.
func TestAppendSessionWithLargeBatches(t *testing.T) { testLargeBatches(newEnv(t, Config{})) }

func testLargeBatches(e *env) {
	t := e.T
	e.create("s")
	a := openAppender(e.ctx, t, e.client, e.target("s"), AppendOptions{MaxBytes: 32 << 20})
	big := AppendRecord{Body: make([]byte, 1<<20-8)}
	for i := range 16 {
		if err := a.Submit(uint64(i), []AppendRecord{big}); err != nil {
			t.Fatal(err)
		}
	}
	if acks, end := a.take(16); end != nil || len(acks) != 16 {
		t.Fatalf("%d acks, %v", len(acks), end)
	}
	huge := AppendRecord{Body: make([]byte, 2<<20)}
	if err := a.Submit(16, []AppendRecord{huge}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	if err := a.Submit(16, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	a.mustSubmit(16, "the session goes on")
	if acks, end := a.take(1); end != nil || acks[0].Start.SeqNum != 16 {
		t.Errorf("%v, %v", acks, end)
	}
}

// Whatever ends a session, what S2 holds is the acknowledged batches, and of the unknown ones the
// first few.
func TestAppendSessionFaults(t *testing.T) {
	for _, kind := range []s2dev.FaultKind{s2dev.LoseAck, s2dev.LoseRequest, s2dev.EndSession, s2dev.CutFrame} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			e := newEnv(t, Config{})
			for round := range 20 {
				name := fmt.Sprint("s", round)
				e.create(name)
				a := openAppender(e.ctx, t, e.client, e.target(name), AppendOptions{})
				a.mustSubmit(0, "0")
				if acks, end := a.take(1); end != nil || len(acks) != 1 {
					t.Fatal(end)
				}
				e.server.Faults().Add(s2dev.Fault{Op: s2dev.OpAppendSession, Kind: kind, Count: 1})
				submitted := 1
				for i := range 5 {
					if a.Submit(uint64(1+i), appendRecords(fmt.Sprint(1+i))) != nil {
						break
					}
					submitted++
				}
				acks, end := a.take(100)
				if sum := end.Acknowledged + end.Unknown + end.Unsent; sum != submitted || end.Refused || 1+len(acks) != end.Acknowledged {
					t.Fatalf("%d submitted: %+v", submitted, end)
				}
				have := e.bodies(name)
				if len(have) < end.Acknowledged || len(have) > end.Acknowledged+end.Unknown {
					t.Fatalf("S2 has %q: %+v", have, end)
				}
				for i, b := range have {
					if b != fmt.Sprint(i) {
						t.Fatalf("S2 has %q", have)
					}
				}
			}
		})
	}
}
