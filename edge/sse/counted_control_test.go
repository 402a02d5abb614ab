package sse

import (
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
)

// crowd is readers of one stream that share a FrameCache: each second one asked for the number of readers.
type crowd struct {
	*testing.T
	tail    *shard.TailBuffer
	rules   *Rules
	frames  *FrameCache
	now     Instant
	readers int
	known   bool
	asked   int // how often the number was looked up
}

func newCrowd(t *testing.T) *crowd {
	c := &crowd{T: t, rules: newRules(scriptTimes), readers: 7, known: true}
	c.tail = shard.NewTailBuffers(0, 0).Open("p/s", shard.Info{Exists: true, Generation: 7}, 0)
	c.frames = NewFrameCache(1<<20, sendbudget.New(1<<20))
	c.frames.CountReaders(func(id shard.StreamID) (int, bool) {
		if id != "p/s" {
			t.Errorf("asked for %s", id)
		}
		c.asked++
		return c.readers, c.known
	})
	return c
}

func (c *crowd) join(counts bool) *Session {
	s := NewSession(c.frames, c.rules, c.tail, FramingText, Start{FromStart: true, CountReaders: counts}, c.now)
	return &s
}

func (c *crowd) append(body string, closed bool) {
	pos := c.tail.Next()
	if err := c.tail.Extend(ssetest.Batch(c, pos, pos+1, pos+1, closed, []shard.Message{{Pos: pos, Next: pos + 1, Body: []byte(body)}})); err != nil {
		c.Fatal(err)
	}
}

// take returns what a reader is written now; nothing if it waits.
func (c *crowd) take(s *Session) (out string) {
	c.Helper()
	for {
		a := s.Next(c.now, 3, TurnBytes)
		if a.Do != Write {
			return out
		}
		for _, b := range s.Pending() {
			out += string(b)
		}
		s.MarkWritten(len(out), c.now)
	}
}

// The readers that asked are shown the number in each control event that says "up to date", and instead of
// a comment. For the others every byte is what it would be without them. A change of the number sends
// nothing, and it is looked up once a second at most.
func TestReadersAreShownTheirNumber(t *testing.T) {
	t.Parallel()
	c, without := newCrowd(t), newCrowd(t)
	asks, quiet, alone := c.join(true), c.join(false), without.join(false)
	same := func(what string) (plain, counted string) {
		t.Helper()
		without.now = c.now
		plain, counted = c.take(quiet), c.take(asks)
		if want := without.take(alone); plain != want {
			t.Errorf("%s: a reader that did not ask gets\n%q, without others\n%q", what, plain, want)
		}
		return plain, counted
	}
	withReaders := func(plain string, n string) string {
		return strings.ReplaceAll(plain, `"upToDate":true}`, `"upToDate":true,"readers":`+n+`}`)
	}
	if plain, counted := same("the first event"); counted != withReaders(plain, "7") || !strings.Contains(counted, "readers") {
		t.Errorf("%q, the others %q", counted, plain)
	}
	c.readers = 8
	c.now = c.now.Add(500 * time.Millisecond)
	if plain, counted := same("a change"); plain != "" || counted != "" {
		t.Errorf("a change of the number sends %q %q", plain, counted)
	}
	for _, n := range []string{"7", "8"} { // within the second, and after it
		c.append("m", false)
		without.append("m", false)
		if plain, counted := same("a message"); counted != withReaders(plain, n) || !strings.Contains(plain, "data:m") {
			t.Errorf("%q, the others %q", counted, plain)
		}
		c.now = c.now.Add(time.Second)
	}
	if c.asked != 2 || without.asked != 0 {
		t.Errorf("the number was looked up %d and %d times", c.asked, without.asked)
	}
	c.readers = 9
	c.now = c.now.Add(scriptTimes.Heartbeat)
	plain, counted := same("a heartbeat")
	es, _, err := ssetest.Parse([]byte(counted))
	if plain != ":\n\n" || err != nil || len(es) != 1 || !strings.HasSuffix(es[0].Data, `"upToDate":true,"readers":9}`) || !strings.Contains(es[0].Data, es[0].ID) {
		t.Errorf("%q, the others %q (%v)", counted, plain, err)
	}
	c.known = false
	c.now = c.now.Add(scriptTimes.Heartbeat)
	if plain, counted := same("not known"); counted != plain {
		t.Errorf("%q, the others %q", counted, plain)
	}
	c.known = true
	c.now = c.now.Add(2 * time.Second)
	c.append("last", true)
	without.append("last", true)
	if plain, counted := same("the end"); counted != strings.Replace(plain, `"streamClosed":true}`, `"streamClosed":true,"readers":9}`, 1) || counted == plain {
		t.Errorf("%q, the others %q", counted, plain)
	}
}

// Readers that asked share what is written to them, and with no others.
func TestReadersThatAskedShareTheirBytes(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	asks, alike, quiet := c.join(true), c.join(true), c.join(false)
	for _, s := range []*Session{asks, alike, quiet} {
		c.take(s)
	}
	c.append("m", false)
	var w SharedWrite
	var spare *OutputBuffer
	if _, ok := w.Render(asks, c.now, 3, &spare); !ok || !w.Covers(alike) || w.Covers(quiet) {
		t.Fatal("want one write for those that asked, and not for the other")
	}
	counted := string(w.Bytes())
	w.MarkWritten(asks, len(counted), c.now)
	w.MarkWritten(alike, len(counted), c.now)
	if _, ok := w.Render(quiet, c.now, 3, &spare); !ok || strings.Contains(string(w.Bytes()), "readers") || !strings.Contains(counted, `"readers":7}`) {
		t.Errorf("%q, the other %q", counted, w.Bytes())
	}
	w.MarkWritten(quiet, len(w.Bytes()), c.now)
	w.End(c.frames.budget, &spare)
	c.append("n", false)
	if a, b := c.take(asks), c.take(alike); a != b || !strings.Contains(a, `"readers":7}`) {
		t.Errorf("%q and %q", a, b)
	}
}
