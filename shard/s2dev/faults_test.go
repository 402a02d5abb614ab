package s2dev

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"
)

// openWithStream returns a server with one stream.
func openWithStream(t *testing.T, cfg Config) (*Server, *s2.StreamClient) {
	t.Helper()
	cfg.Basins = append(cfg.Basins, testBasin)
	s := open(t, cfg)
	return s, mustCreate(t, dialBasin(s.URL()), "s")
}

func tailOf(t *testing.T, c *s2.StreamClient) uint64 {
	t.Helper()
	tail, err := c.CheckTail(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tail.Tail.SeqNum
}

func wantCode(t *testing.T, err error, status int, code string) {
	t.Helper()
	e, ok := errors.AsType[*s2.S2Error](err)
	if !ok || e.Status != status || e.Code != code {
		t.Fatalf("got %v, want %d %s", err, status, code)
	}
}

func TestLostAckIsCommitted(t *testing.T) {
	s, c := openWithStream(t, Config{})
	f := s.Faults().Add(Fault{Stream: "s", Op: OpAppend, Kind: LoseAck, Count: 1})
	if _, err := c.Append(t.Context(), bodyRecords("a")); err == nil {
		t.Fatal("the ack was not lost")
	}
	if _, err := c.Append(t.Context(), bodyRecords("b")); err != nil {
		t.Fatal(err)
	}
	if got := tailOf(t, c); got != 2 || f.Fired() != 1 {
		t.Fatalf("tail %d, fired %d", got, f.Fired())
	}
}

func TestLostRequestIsNotCommitted(t *testing.T) {
	s, c := openWithStream(t, Config{})
	f := s.Faults().Add(Fault{Kind: LoseRequest, Op: OpAppend})
	for range 3 {
		if _, err := c.Append(t.Context(), bodyRecords("a")); err == nil {
			t.Fatal("the request was not lost")
		}
	}
	f.Remove()
	if got := tailOf(t, c); got != 0 || f.Fired() != 3 {
		t.Fatalf("tail %d, fired %d", got, f.Fired())
	}
}

func TestRefusalsCarryTheirCodes(t *testing.T) {
	s, c := openWithStream(t, Config{})
	for code, status := range map[string]int{
		"transaction_conflict": 409, "rate_limited": 429, "unavailable": 503, "hot_server": 502,
	} {
		t.Run(code, func(t *testing.T) {
			f := s.Faults().Add(Fault{Kind: Refuse, Op: OpAppend, Code: code, Count: 1})
			_, err := c.Append(t.Context(), bodyRecords("a"))
			wantCode(t, err, status, code)
			if f.Fired() != 1 {
				t.Fatalf("%s fired %d times", code, f.Fired())
			}
		})
	}
	s.Faults().Add(Fault{Kind: Refuse, Code: "seq_num_mismatch", Expected: 7, Count: 1})
	_, err := c.Append(t.Context(), bodyRecords("a"))
	if e, ok := errors.AsType[*s2.SeqNumMismatchError](err); !ok || e.ExpectedSeqNum != 7 {
		t.Fatalf("got %v", err)
	}
	if got := tailOf(t, c); got != 0 {
		t.Fatalf("a refused append was done: tail %d", got)
	}
}

func TestDelaysHoldOnTheirSideOfTheCommit(t *testing.T) {
	s, c := openWithStream(t, Config{})
	for _, kind := range []FaultKind{DelayBefore, DelayAfter} {
		before := tailOf(t, c)
		f := s.Faults().Add(Fault{Kind: kind, Op: OpAppend, Count: 1})
		done := make(chan error, 1)
		go func() {
			_, err := c.Append(t.Context(), bodyRecords("a"))
			done <- err
		}()
		if err := f.Wait(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		want := before
		if kind == DelayAfter {
			want++
		}
		if got := tailOf(t, c); got != want {
			t.Fatalf("kind %d: tail %d while held, want %d", kind, got, want)
		}
		f.Remove()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := tailOf(t, c); got != before+1 {
			t.Fatalf("tail %d at the end", got)
		}
	}
}

func TestFaultsOfOneSeedRepeat(t *testing.T) {
	draw := func() (hits []bool) {
		f := newFaults()
		f.Add(Fault{Kind: LoseAck, Probability: 0.3, Seed: 4})
		for range 200 {
			hits = append(hits, f.hit("s", OpAppend, LoseAck) != nil)
		}
		return hits
	}
	a, b, n := draw(), draw(), 0
	for i := range a {
		if a[i] != b[i] {
			t.Fatal("the same seed drew differently")
		}
		if a[i] {
			n++
		}
	}
	if n < 30 || n > 90 {
		t.Fatalf("%d of 200 at 0.3", n)
	}
}

// openReadSession opens a read session at a sequence number and waits until it is open at the server.
func openReadSession(t *testing.T, s *Server, c *s2.StreamClient, seq uint64) *s2.ReadSession {
	t.Helper()
	r, err := c.ReadSession(t.Context(), &s2.ReadOptions{SeqNum: &seq})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	eventually(t, func() bool { return s.Usage().Total.OpenReadSessions == 1 })
	return r
}

// eventually polls for what the server does after its answer.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.Done():
			t.Fatal("it did not come true in 10 s")
		}
	}
}

func TestEndSessionEndsAnIdleTailCleanly(t *testing.T) {
	s, c := openWithStream(t, Config{})
	r := openReadSession(t, s, c, 0)
	f := s.Faults().Add(Fault{Kind: EndSession, Op: OpReadSession, Count: 1})
	if r.Next() || r.Err() != nil {
		t.Fatalf("ended with %v", r.Err())
	}
	if f.Fired() != 1 {
		t.Fatalf("fired %d", f.Fired())
	}
}

func TestCutFrameBreaksTheTail(t *testing.T) {
	s, c := openWithStream(t, Config{})
	r := openReadSession(t, s, c, 0)
	f := s.Faults().Add(Fault{Kind: CutFrame, Op: OpReadSession, Count: 1})
	if _, err := c.Append(t.Context(), bodyRecords("a")); err != nil {
		t.Fatal(err)
	}
	if r.Next() || r.Err() == nil {
		t.Fatalf("the session went on: %v", r.Err())
	}
	if f.Fired() != 1 {
		t.Fatalf("fired %d", f.Fired())
	}
}

func TestSilenceSaysNothingUntilRemoved(t *testing.T) {
	s, c := openWithStream(t, Config{})
	r := openReadSession(t, s, c, 0)
	f := s.Faults().Add(Fault{Kind: Silence, Op: OpReadSession})
	if err := f.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Append(t.Context(), bodyRecords("a")); err != nil {
		t.Fatal(err)
	}
	if got := s.Usage().Total.RecordsRead; got != 0 {
		t.Fatalf("%d records in silence", got)
	}
	f.Remove()
	if !r.Next() || string(r.Record().Body) != "a" {
		t.Fatalf("after the silence: %v", r.Err())
	}
}

func openAppendSession(t *testing.T, c *s2.StreamClient) *s2.AppendSession {
	t.Helper()
	a, err := c.AppendSession(t.Context(), &s2.AppendSessionOptions{
		RetryConfig: &s2.RetryConfig{MaxAttempts: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func submit(t *testing.T, a *s2.AppendSession, in *s2.AppendInput) (*s2.AppendAck, error) {
	t.Helper()
	future, err := a.Submit(in)
	if err != nil {
		return nil, err
	}
	ticket, err := future.Wait(t.Context())
	if err != nil {
		return nil, err
	}
	return ticket.Ack(t.Context())
}

func TestFaultsOfAnAppendSession(t *testing.T) {
	for _, kind := range []FaultKind{LoseAck, LoseRequest, CutFrame, Refuse} {
		s, c := openWithStream(t, Config{})
		a := openAppendSession(t, c)
		if _, err := submit(t, a, bodyRecords("a")); err != nil {
			t.Fatal(err)
		}
		f := s.Faults().Add(Fault{
			Kind: kind, Op: OpAppendSession, Count: 1, Code: "rate_limited",
		})
		if _, err := submit(t, a, bodyRecords("b")); err == nil {
			t.Fatalf("kind %d: an ack came", kind)
		}
		want := uint64(2)
		if kind == LoseRequest || kind == Refuse {
			want = 1
		}
		if got := tailOf(t, c); got != want || f.Fired() != 1 {
			t.Fatalf("kind %d: tail %d, fired %d", kind, got, f.Fired())
		}
		_ = a.Close()
		eventually(t, func() bool { return s.Usage().Total.OpenAppendSessions == 0 })
	}
}

// TestAbandonedBatchesBecomeVisible breaks a session with batches in its queue. A refusal
// afterwards waits until all of them are durable, and would wait forever for one that was never
// completed.
func TestAbandonedBatchesBecomeVisible(t *testing.T) {
	s, c := openWithStream(t, Config{Dir: t.TempDir()})
	a := openAppendSession(t, c)
	hold := s.Faults().Add(Fault{Kind: DelayAfter, Op: OpAppendSession, Count: 1})
	for range 20 {
		if _, err := a.Submit(bodyRecords("a")); err != nil {
			t.Fatal(err)
		}
	}
	if err := hold.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	s.Faults().Add(Fault{Kind: LoseAck, Op: OpAppendSession, Count: 1})
	hold.Remove()
	eventually(t, func() bool { return s.Usage().Total.OpenAppendSessions == 0 })
	_, err := c.Append(t.Context(), &s2.AppendInput{
		Records: bodyRecords("b").Records, MatchSeqNum: new(uint64(1000)),
	})
	e, ok := errors.AsType[*s2.SeqNumMismatchError](err)
	if got := tailOf(t, c); !ok || e.ExpectedSeqNum != got || got == 0 {
		t.Fatalf("tail %d: %v", got, err)
	}
}
