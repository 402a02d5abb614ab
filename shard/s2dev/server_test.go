package s2dev

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"
)

// clock is a clock that the test moves.
type clock struct{ ms atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ms.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli())
	return c
}

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

func TestOnlyLoopbackIsListenedOn(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "[::]:0", "example.org:0"} {
		if s, err := Open(Config{Listen: addr}); err == nil {
			_ = s.Close()
			t.Errorf("%s was accepted", addr)
		} else if !strings.Contains(err.Error(), "no authentication") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	open(t, Config{Listen: "127.0.0.1:0"})
}

func TestRestartKeepsPortAndRecords(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "disk": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			s, c := openWithStream(t, Config{Dir: dir})
			fence := "f"
			in := bodyRecords("a", "b")
			in.Records = append(in.Records, s2.NewFenceCommandRecord(fence, nil))
			if _, err := c.Append(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			r := openReadSession(t, s, c, 3)
			before := s.URL()
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			if s.URL() != before {
				t.Fatalf("%s became %s", before, s.URL())
			}
			if r.Next() || r.Err() == nil {
				t.Fatal("a session outlived the restart")
			}
			got := readAllRecords(t, c)
			if len(got) != 3 || string(got[1].Body) != "b" {
				t.Fatalf("got %v", got)
			}
			other := "other"
			_, err := c.Append(t.Context(), &s2.AppendInput{
				Records: bodyRecords("c").Records, FencingToken: &other,
			})
			if _, ok := errors.AsType[*s2.FencingTokenMismatchError](err); !ok {
				t.Fatalf("the fence was forgotten: %v", err)
			}
		})
	}
}

func TestIDsAreNotReused(t *testing.T) {
	s, c := openWithStream(t, Config{Dir: t.TempDir()})
	b := dialBasin(s.URL())
	for round := range 3 {
		if _, err := c.Append(t.Context(), bodyRecords("old")); err != nil {
			t.Fatal(err)
		}
		if err := b.Streams.Delete(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
		}
		c = mustCreate(t, b, "s")
		if got := tailOf(t, c); got != 0 {
			t.Fatalf("the new stream starts at %d", got)
		}
	}
}

func TestDeletionWakesFollowers(t *testing.T) {
	s, c := openWithStream(t, Config{})
	r := openReadSession(t, s, c, 0)
	if err := dialBasin(s.URL()).Streams.Delete(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if r.Next() {
		t.Fatal("a record of a deleted stream")
	}
	wantCode(t, r.Err(), 409, "stream_deletion_pending")
	_, err := c.CheckTail(t.Context())
	wantCode(t, err, 404, "stream_not_found")
}

func configure(t *testing.T, s *Server, rc s2.StreamReconfiguration) {
	t.Helper()
	_, err := dialBasin(s.URL()).Streams.Reconfigure(t.Context(), s2.ReconfigureStreamArgs{
		Stream: "s", Config: rc,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRetentionAndDeleteOnEmpty(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "disk": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			s, c := openWithStream(t, Config{Dir: dir, Now: clock.now})
			configure(t, s, s2.StreamReconfiguration{
				RetentionPolicy: &s2.RetentionPolicy{Age: new(int64(60))},
				DeleteOnEmpty:   &s2.DeleteOnEmptyReconfiguration{MinAgeSecs: new(int64(30))},
			})
			for range 2 {
				if _, err := c.Append(t.Context(), bodyRecords("a", "b")); err != nil {
					t.Fatal(err)
				}
				clock.advance(40 * time.Second)
			}
			s.sweep()
			page, err := c.Read(t.Context(), &s2.ReadOptions{SeqNum: new(uint64(0))})
			if err != nil || len(page.Records) != 2 || page.Records[0].SeqNum != 2 {
				t.Fatalf("after 80 s: %+v %v", page, err)
			}
			clock.advance(21 * time.Second)
			s.sweep()
			if got := tailOf(t, c); got != 4 {
				t.Fatalf("tail %d", got)
			}
			clock.advance(29 * time.Second)
			s.sweep()
			tailOf(t, c)
			clock.advance(2 * time.Second)
			s.sweep()
			_, err = c.CheckTail(t.Context())
			wantCode(t, err, 404, "stream_not_found")
		})
	}
}

func TestFullMemoryRefusesAndTrimMakesRoom(t *testing.T) {
	_, c := openWithStream(t, Config{MaxBytes: 10_000})
	big := strings.Repeat("x", 4000)
	for range 2 {
		if _, err := c.Append(t.Context(), bodyRecords(big)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Append(t.Context(), bodyRecords(big))
	wantCode(t, err, 403, "quota_exhausted")
	trim := &s2.AppendInput{Records: []s2.AppendRecord{s2.NewTrimCommandRecord(2, nil)}}
	if _, err := c.Append(t.Context(), trim); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Append(t.Context(), bodyRecords(big)); err != nil {
		t.Fatal(err)
	}
}

func TestUsageCountsCallsAndSessions(t *testing.T) {
	clock := newClock()
	s, c := openWithStream(t, Config{Now: clock.now})
	if _, err := c.Append(t.Context(), bodyRecords("a", "b")); err != nil {
		t.Fatal(err)
	}
	r := openReadSession(t, s, c, 0)
	for range 2 {
		if !r.Next() {
			t.Fatal(r.Err())
		}
	}
	clock.advance(61 * time.Second)
	tailOf(t, c)
	eventually(t, func() bool { return s.Usage().Total.RecordsRead == 2 })
	u := s.Usage().Streams[testBasin+"/s"]
	if u.Ops[OpAppend] != 1 || u.RecordsAppended != 2 || u.OpenReadSessions != 1 ||
		u.ReadSessionMinutes != 2 || u.Ops[OpCreateStream] != 1 || u.Ops[OpCheckTail] != 1 {
		t.Fatalf("%+v", u)
	}
	want := 1e-7 + 2*1e-6 + 1e-5 + 1e-7
	if d := u.Cost - want; d > 1e-12 || d < -1e-12 {
		t.Fatalf("cost %g, want %g", u.Cost, want)
	}
	_ = r.Close()
	eventually(t, func() bool { return s.Usage().Total.OpenReadSessions == 0 })
	if got := s.Usage().Total.ReadSessionMinutes; got != 2 {
		t.Fatalf("%d minutes after the end", got)
	}
}

func TestIdleReadSessionsGetHeartbeats(t *testing.T) {
	s, c := openWithStream(t, Config{})
	if _, err := c.Append(t.Context(), bodyRecords("a")); err != nil {
		t.Fatal(err)
	}
	r := openReadSession(t, s, c, 1)
	eventually(t, func() bool {
		tail := r.LastObservedTail()
		return tail != nil && tail.SeqNum == 1
	})
}

func TestFolderIsLockedByOneServer(t *testing.T) {
	dir := t.TempDir()
	open(t, Config{Dir: dir})
	if s, err := Open(Config{Dir: dir}); err == nil {
		_ = s.Close()
		t.Fatal("two servers in one folder")
	}
}
