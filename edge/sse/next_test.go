package sse

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
)

// errBusy stands for storage that does not answer.
var errBusy = errors.New("storage does not answer")

// until is a Permit.
type until Instant

func (u *until) EndsAt() Instant { return Instant(*u) }

// script is one reader, and what is done to it.
type script struct {
	*testing.T
	tail *shard.TailBuffer
	c    Session
	now  Instant
}

var scriptTimes = Times{
	Heartbeat: 20 * time.Second, PageRetry: 2 * time.Second, MinDrainAge: 2 * time.Second, MinMoveAge: 30 * time.Second,
	MinRetry: time.Second, MaxRetry: time.Second,
}

// newScript opens a reader of text at position 0 whose tail buffer begins at start. Every chance is 0.
func newScript(t *testing.T, start shard.Pos, permit Permit) *script {
	rules := NewRules(scriptTimes, time.Time{}, func(err error) bool { return errors.Is(err, errBusy) }, func(time.Duration) time.Duration { return 0 })
	tail := shard.NewTailBuffers(0, 0).Open("p/s", shard.Info{Exists: true, Generation: 7, Tail: start, LogTail: start}, start)
	s := &script{T: t, tail: tail}
	s.c = NewSession(NewFrameCache(1<<20, sendbudget.New(1<<20)), rules, tail, FramingText, Start{FromStart: true, Permit: permit}, 0)
	return s
}

// append adds a message to the tail buffer.
func (s *script) append(body string) {
	pos := s.tail.Next()
	b := ssetest.Batch(s, pos, pos+1, pos+1, false, []shard.Message{{Pos: pos, Next: pos + 1, Body: []byte(body)}})
	if err := s.tail.Extend(b); err != nil {
		s.Fatal(err)
	}
}

// after lets time pass, and requires what the executor is told then. It writes all that there is to
// write, and returns it.
func (s *script) after(d time.Duration, want Action) (written string) {
	s.Helper()
	s.now = s.now.Add(d)
	got := s.c.Next(s.now, 0, TurnBytes)
	if want.Until != 0 && want.Until != never {
		want.Until = s.now.Add(time.Duration(want.Until))
	}
	if got.Newest, got.Coarse = 0, false; got != want {
		s.Fatalf("at %v: %+v, want %+v", time.Duration(s.now), got, want)
	}
	if got.Do == Write {
		written = string(bytes.Join(s.c.Pending(), nil))
		s.c.MarkWritten(len(written), s.now)
	}
	return written
}

// idle returns the action of a reader that waits for news for d.
func idle(d time.Duration) Action { return Action{Do: WaitForNews, Until: Instant(d)} }

func TestWhatNextTellsAnExecutor(t *testing.T) {
	write, wait := Action{Do: Write}, func(d time.Duration) Action { return Action{Do: Wait, Until: Instant(d)} }
	start := func(t *testing.T) *script {
		s := newScript(t, 0, nil)
		s.after(0, write) // the control event
		s.after(0, idle(20*time.Second))
		return s
	}
	for name, play := range map[string]func(t *testing.T){
		"a heartbeat after a silence, and again": func(t *testing.T) {
			s := start(t)
			s.append("a")
			s.after(15*time.Second, write)
			s.after(19*time.Second, idle(time.Second))
			for range 2 {
				if b := s.after(time.Second, write); b != ":\n\n" {
					t.Errorf("%q", b)
				}
				s.after(19*time.Second, idle(time.Second))
			}
		},
		"half a character is released after a second": func(t *testing.T) {
			s := start(t)
			s.append("caf\xe2")
			s.after(0, idle(MaxHeldTime))
			s.after(MaxHeldTime-1, idle(1))
			if b := s.after(1, write); !strings.Contains(b, "caf\ufffd") {
				t.Errorf("%q", b)
			}
			s.after(0, idle(20*time.Second))
		},
		"what arrives in time completes it": func(t *testing.T) {
			s := start(t)
			s.append("\xe2\x82")
			s.after(0, idle(MaxHeldTime))
			s.append("\xac")
			if b := s.after(MaxHeldTime/2, write); !strings.Contains(b, "€") {
				t.Errorf("%q", b)
			}
		},
		"a page is asked for once, and heartbeats go on": func(t *testing.T) {
			s := newScript(t, 5, nil)
			s.after(0, Action{Do: Fetch})
			s.after(0, wait(20*time.Second))
			s.after(20*time.Second, write)
			s.after(0, wait(20*time.Second))
			if err := s.c.AcceptPage(ssetest.Batch(t, 0, 5, 5, false, []shard.Message{{Pos: 4, Next: 5, Body: []byte("x")}}), nil, s.now); err != nil {
				t.Fatal(err)
			}
			if b := s.after(0, write); !strings.Contains(b, "data:x\n") {
				t.Errorf("%q", b)
			}
		},
		"a page that cannot be read is asked for again, after a pause": func(t *testing.T) {
			s := newScript(t, 5, nil)
			for range 3 {
				s.after(0, Action{Do: Fetch})
				if err := s.c.AcceptPage(shard.RecordBatch{}, errBusy, s.now); err != nil {
					t.Fatal(err)
				}
				s.after(0, wait(time.Second))
				s.append("news do not matter")
				s.after(time.Second-1, wait(1))
				s.now++
			}
		},
		"a page that is lost ends the response": func(t *testing.T) {
			s := newScript(t, 5, nil)
			s.after(0, Action{Do: Fetch})
			if err := s.c.AcceptPage(shard.RecordBatch{}, shard.ErrNotFound, s.now); err == nil {
				t.Error("accepted")
			}
			s.after(0, Action{Do: End, Why: EndOfStream})
		},
		"a drain: its turn comes, after the event that is being written": func(t *testing.T) {
			s := start(t)
			s.c.departure.rules.Change(true, 10*time.Second)
			s.after(0, idle(2*time.Second)) // MinDrainAge
			s.append("abc")
			s.now = s.now.Add(time.Second)
			if a := s.c.Next(s.now, 0, TurnBytes); a.Do != Write {
				t.Fatalf("%+v", a)
			}
			s.c.MarkWritten(3, s.now)
			s.append("def")
			if b := s.after(time.Hour, write); strings.Contains(b, "def") || strings.Contains(b, "retry") {
				t.Errorf("%q", b)
			}
			if b := s.after(0, Action{Do: Write, Why: EndDrain}); b != "retry: 1000\n\n" {
				t.Errorf("%q", b)
			}
			s.after(0, Action{Do: End, Why: EndDrain})
		},
		"a drain that is cancelled before its turn": func(t *testing.T) {
			s := start(t)
			s.c.departure.rules.Change(true, 10*time.Second)
			s.after(time.Second, idle(time.Second))
			changed := s.c.Changed()
			s.c.departure.rules.Change(false, 0)
			<-changed
			s.after(5*time.Second, idle(14*time.Second))
		},
		"a drain without a window, while a page is read": func(t *testing.T) {
			s := newScript(t, 5, nil)
			s.after(0, Action{Do: Fetch})
			s.c.departure.rules.Change(true, 0)
			s.after(0, Action{Do: Write, Why: EndDrain})
			s.after(0, Action{Do: End, Why: EndDrain})
		},
		"orders that do not concern the drain leave its turn as it is": func(t *testing.T) {
			s := start(t)
			s.c.departure.rules.Change(true, 10*time.Second)
			s.after(time.Second, idle(time.Second))
			s.c.departure.rules.RecheckPermits()
			s.after(0, idle(time.Second))
		},
		"nothing follows the end of the stream, in a drain too": func(t *testing.T) {
			s := start(t)
			s.c.departure.rules.Change(true, 10*time.Second)
			if err := s.tail.Extend(ssetest.Batch(s, 0, 1, 1, true, []shard.Message{{Pos: 0, Next: 1, Body: []byte("last")}})); err != nil {
				t.Fatal(err)
			}
			if b := s.after(0, write); !strings.Contains(b, `"streamClosed":true`) {
				t.Errorf("%q", b)
			}
			s.after(time.Hour, Action{Do: End, Why: EndOfStream})
		},
		"the generation is over": func(t *testing.T) {
			s := start(t)
			s.tail.End(shard.ErrNotFound)
			s.after(0, Action{Do: End, Why: EndOfStream})
		},
		"it may be moved once it has been here for long": func(t *testing.T) {
			s := start(t)
			if s.c.MayMove(s.now.Add(30*time.Second - 1)) {
				t.Error("a young reader may be moved")
			}
			s.after(20*time.Second, write)
			if !s.c.MayMove(s.now.Add(10 * time.Second)) {
				t.Error("an old reader may not")
			}
			s.c.Leave(EndRebalance)
			s.append("not for this reader")
			s.after(0, Action{Do: Write, Why: EndRebalance})
			s.after(0, Action{Do: End, Why: EndRebalance})
			if s.c.MayMove(s.now.Add(time.Hour)) {
				t.Error("it may be moved twice")
			}
		},
		"a permit ends at its time": func(t *testing.T) {
			at := until(Instant(5 * time.Second))
			s := newScript(t, 0, &at)
			s.after(0, write)
			s.after(0, idle(5*time.Second))
			s.append("too late")
			s.after(5*time.Second, Action{Do: End, Why: EndPermit})
		},
		"a permit that is revoked": func(t *testing.T) {
			at := until(math.MaxInt64)
			s := newScript(t, 0, &at)
			s.after(0, write)
			s.after(0, idle(20*time.Second))
			changed := s.c.Changed()
			at = 0
			s.c.departure.rules.RecheckPermits()
			<-changed
			s.after(time.Second, Action{Do: End, Why: EndPermit})
		},
		"a response's header comes first": func(t *testing.T) {
			s := newScript(t, 0, nil)
			s.c.Next(0, 0, TurnBytes)
			s.c.Begin([]byte("head"))
			if b := s.after(0, write); !strings.HasPrefix(b, "headevent: control") {
				t.Errorf("%q", b)
			}
		},
	} {
		t.Run(name, play)
	}
}

// Whatever happens to a reader, it never waits beyond a moment at which it has to go, to be released
// what it holds back, or to hear something. It is told to go at the first moment that there is no
// event under way, and after that it hears nothing.
func TestNextNeverWaitsTooLong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chance := rapid.Uint64()
		rules := NewRules(scriptTimes, time.Time{}, func(err error) bool { return errors.Is(err, errBusy) }, func(n time.Duration) time.Duration {
			return time.Duration(chance.Draw(t, "chance") % uint64(n))
		})
		start := rapid.SampledFrom([]shard.Pos{0, 3}).Draw(t, "start")
		tail := shard.NewTailBuffers(0, 0).Open("p/s", shard.Info{Exists: true, Generation: 7, Tail: start, LogTail: start}, start)
		permit := until(math.MaxInt64)
		var now, drainedAt, activeAt Instant
		s := NewSession(NewFrameCache(1<<20, sendbudget.New(1<<20)), rules, tail, FramingText, Start{At: position.Position{}, FromStart: true, Permit: &permit}, now)
		drains, window, ended, reading := false, time.Duration(0), false, false
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				pos := tail.Next()
				body := rapid.SampledFrom([]string{"a", "€", "\xe2", "\x82", "\n"}).Draw(t, "body")
				_ = tail.Extend(ssetest.Batch(t, pos, pos+1, pos+1, false, []shard.Message{{Pos: pos, Next: pos + 1, Body: []byte(body)}}))
			},
			"drain": func(t *rapid.T) {
				if drains = !drains; drains {
					window, drainedAt = time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "window")), never
				}
				rules.Change(drains, window)
			},
			"revoke": func(t *rapid.T) {
				if rapid.IntRange(0, 20).Draw(t, "revoke") == 0 {
					permit = until(now.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "permit"))))
					rules.RecheckPermits()
				}
			},
			"page": func(t *rapid.T) {
				if !reading {
					return
				}
				reading = false
				if rapid.Bool().Draw(t, "busy") {
					_ = s.AcceptPage(shard.RecordBatch{}, errBusy, now)
				} else if err := s.AcceptPage(ssetest.Batch(t, 0, start, start, false, []shard.Message{{Pos: 0, Next: 1, Body: []byte("p")}}), nil, now); err != nil {
					t.Fatal(err)
				}
			},
			"ask": func(t *rapid.T) {
				began := s.HasOutput()
				if drains && !began { // the reader's turn is drawn when it is first asked
					drainedAt = min(drainedAt, now)
				}
				a := s.Next(now, 0, TurnBytes)
				mustGo := Instant(permit) <= now || drains && drainedAt != never && now >= max(drainedAt.Add(window), drainedAt.Add(scriptTimes.MinDrainAge), Instant(scriptTimes.MinDrainAge))
				switch {
				case ended && a.Do != End:
					t.Fatalf("%+v after the end", a)
				case mustGo && !began && a.Do != End && a.Why == 0:
					t.Fatalf("%+v, but the reader has to go", a)
				}
				switch a.Do {
				case End:
					ended = true
				case Fetch:
					if reading {
						t.Fatal("asked for a page twice")
					}
					reading = true
				case Write:
					n := 0
					for _, b := range s.Pending() {
						n += len(b)
					}
					if n = rapid.IntRange(0, n).Draw(t, "accepted"); n > 0 {
						activeAt = now
					}
					s.MarkWritten(n, now)
				default:
					latest := min(activeAt.Add(scriptTimes.Heartbeat+scriptTimes.Heartbeat/4), Instant(permit))
					if len(s.heldMessages) > 0 && a.Do == WaitForNews {
						latest = min(latest, now.Add(MaxHeldTime))
					}
					if a.Until > latest {
						t.Fatalf("%+v, want %d at most", a, latest)
					}
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "time")))
			},
		})
	})
}
