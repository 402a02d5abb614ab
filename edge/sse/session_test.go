package sse

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
)

// logEntry holds what stands in the log: a message of one or more records, or (no body)
// records that are never shown.
type logEntry struct {
	shard.Message
	cut    bool // text: a character is unfinished after it
	closes bool
}

// streamModel is a stream as its log has it, a tail buffer that was fed some of it, and the
// readers of that.
type streamModel struct {
	*rapid.T
	form       Framing
	generation shard.Generation
	start      shard.Pos
	first      shard.Pos // below it the log keeps nothing
	entries    []logEntry
	msgs       []logEntry // those with a body
	text       []byte     // text that was begun and is not written yet
	inside     []bool     // by byte of text: a boundary after it lies inside a character
	count      int
	closed     bool
	interval   uint64

	tail      *shard.TailBuffer
	frames    *FrameCache
	rules     *Rules
	now       Instant
	readers   []*reader
	announced []uint64 // every position that some event carried
}

// newRules returns rules by which every page that could not be read is lost, and every chance is 0.
func newRules(times Times) *Rules {
	return NewRules(times, time.Time{}, func(error) bool { return false }, func(time.Duration) time.Duration { return 0 })
}

func newStreamModel(t *rapid.T) *streamModel {
	w := &streamModel{
		T:          t,
		form:       rapid.SampledFrom([]Framing{FramingJSON, FramingText, FramingText, FramingBase64}).Draw(t, "form"),
		generation: shard.Generation(rapid.SampledFrom([]uint64{0, 1, 1_800_000_000_000}).Draw(t, "life")),
		start:      shard.Pos(rapid.Uint64Range(0, 2).Draw(t, "start")),
		interval:   1000,
		frames:     NewFrameCache(rapid.Int64Range(0, 2000).Draw(t, "frame bytes"), sendbudget.New(64<<20)),
	}
	w.first, w.rules = w.start, newRules(Times{Heartbeat: time.Hour})
	tails := shard.NewTailBuffers(rapid.IntRange(1, 600).Draw(t, "per tail"), rapid.Int64Range(1, 1000).Draw(t, "budget"))
	info := shard.Info{Exists: true, Generation: w.generation, Start: w.start, Tail: w.start, Type: "x/y"}
	w.tail = tails.Open("p/s", info, w.start)
	return w
}

func (w *streamModel) end() uint64 {
	if n := len(w.entries); n > 0 {
		return uint64(w.entries[n-1].Next)
	}
	return uint64(w.start)
}

// pick is a place between two cells, in [lo, hi].
func (w *streamModel) pick(lo, hi uint64, label string) uint64 {
	var places []uint64
	if shard.Pos(lo) <= w.start && w.start <= shard.Pos(hi) {
		places = append(places, uint64(w.start))
	}
	for _, c := range w.entries {
		if shard.Pos(lo) <= c.Next && c.Next <= shard.Pos(hi) {
			places = append(places, uint64(c.Next))
		}
	}
	return rapid.SampledFrom(places).Draw(w.T, label)
}

// batchOf returns the RecordBatch [from, to).
func (w *streamModel) batchOf(from, to shard.Pos) shard.RecordBatch {
	tail, closed := w.state(uint64(to))
	var ms []shard.Message
	for _, m := range w.msgs {
		if m.Pos >= from && m.Next <= to {
			ms = append(ms, m.Message)
		}
	}
	return ssetest.Batch(w, from, to, tail, closed, ms)
}

// state is the visible tail at a place, and whether the stream is closed there.
func (w *streamModel) state(at uint64) (tail shard.Pos, closed bool) {
	tail = w.start
	for _, c := range w.entries {
		if c.Next > shard.Pos(at) {
			break
		}
		if c.Body != nil {
			tail = c.Next
		}
		closed = closed || c.closes
	}
	return tail, closed
}

// write puts some cells into the log.
func (w *streamModel) write(t *rapid.T) {
	w.T = t
	for range rapid.IntRange(1, 6).Draw(t, "cells") {
		c := logEntry{Message: shard.Message{Pos: shard.Pos(w.end())}}
		c.Next = c.Pos + 1
		switch k := rapid.IntRange(0, 99).Draw(t, "cell"); {
		case w.closed || k < 20: // of control records
			c.closes = k < 3
		case k < 30:
			c.Next += shard.Pos(rapid.Uint64Range(1, 3).Draw(t, "more records"))
			fallthrough
		default:
			w.count++
			c.Body, c.cut = w.body(t)
			c.closes = k == 99
		}
		w.closed = w.closed || c.closes
		w.entries = append(w.entries, c)
		if c.Body != nil {
			w.msgs = append(w.msgs, c)
		}
	}
}

// body is a message; no two are the same by accident, if they are not short.
func (w *streamModel) body(t *rapid.T) (b []byte, cut bool) {
	switch w.form {
	case FramingJSON:
		f := rapid.SampledFrom([]string{
			"%d", `"%d,]\r\n é"`, "{\"a\":[%d,\n  \"]\"] ,\r\n\"b\":{}}", "[[],\r[ %d]]", `"\\\"%d"`,
		}).Draw(t, "json")
		return fmt.Appendf(nil, f, w.count), false
	case FramingBase64:
		b = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "bytes")
		return strconv.AppendInt(b, int64(w.count), 10), false
	}
	if len(w.text) == 0 || rapid.IntRange(0, 30).Draw(t, "leave") == 0 { // half a character may stay
		w.text, w.inside = nil, nil
		pieces := rapid.SampledFrom([]string{
			"é", "€", "😀", "\U0010ffff", " ", "\n", "\r", "\r\n", "a", "data: b", "\nid: 1\n\n", "\xff", ":",
		})
		for _, p := range append(rapid.SliceOfN(pieces, 1, 12).Draw(t, "pieces"), strconv.Itoa(w.count)) {
			for i := range len(p) {
				w.text = append(w.text, p[i])
				w.inside = append(w.inside, p[0] >= 0xc2 && p[0] != 0xff && i < len(p)-1)
			}
		}
	}
	n := rapid.IntRange(1, min(len(w.text), 9)).Draw(t, "length")
	b, cut = w.text[:n:n], w.inside[n-1]
	w.text, w.inside = w.text[n:], w.inside[n:]
	return b, cut
}

// feed brings the tail buffer on, as several feeds do: what it has, what joins, a hole.
func (w *streamModel) feed(t *rapid.T) {
	w.T = t
	next, end := w.tail.Next(), w.end()
	if next == shard.Pos(end) {
		return
	}
	switch rapid.IntRange(0, 9).Draw(t, "feed") {
	case 0:
		to := w.pick(uint64(next), end, "skip to")
		tail, closed := w.state(to)
		w.tail.SkipTo(shard.Pos(to), tail, closed)
	case 1:
		from := w.pick(uint64(next), end, "hole")
		var gap *shard.GapError
		if shard.Pos(from) == next || from == end || w.tail.EndError() != nil {
			return
		}
		if err := w.tail.Extend(w.batchOf(shard.Pos(from), shard.Pos(end))); !errors.As(err, &gap) || gap.Next != next {
			t.Fatalf("a hole at %d: %v", next, err)
		}
	default:
		from, to := next, w.pick(uint64(next), end, "feed to")
		if rapid.IntRange(0, 3).Draw(t, "overlap") == 0 {
			from = shard.Pos(w.pick(uint64(w.start), uint64(next), "feed from"))
		}
		if from == shard.Pos(to) {
			return
		}
		if err := w.tail.Extend(w.batchOf(from, shard.Pos(to))); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *streamModel) trim(t *rapid.T) {
	w.T = t
	if rapid.IntRange(0, 3).Draw(t, "trim") == 0 {
		w.first = shard.Pos(w.pick(uint64(w.first), w.end(), "trim to"))
	}
}

// open adds a reader: at the start, at the tip, or where an event once said.
func (w *streamModel) open(t *rapid.T) {
	w.T = t
	k := rapid.IntRange(0, 5).Draw(t, "from")
	switch {
	case k == 0:
		w.join(w.tail.Info().Tail, false)
	case k < 3 || len(w.announced) == 0:
		w.join(w.start, true)
	default:
		w.join(shard.Pos(rapid.SampledFrom(w.announced).Draw(t, "told")), false)
	}
}

func (w *streamModel) join(pos shard.Pos, fromStart bool) *reader {
	least := uint64(0)
	if pos%2 == 1 {
		least = w.interval + uint64(pos)
	}
	s := NewSession(w.frames, w.rules, w.tail, w.form, Start{At: position.Position{Pos: pos}, FromStart: fromStart, MinCursor: least}, w.now)
	r := &reader{streamModel: w, c: &s, fromStart: fromStart, at: uint64(pos), cursor: least}
	r.begin(pos)
	w.readers = append(w.readers, r)
	return r
}

// reader is a client of a cursor, and what it got so far.
type reader struct {
	*streamModel
	c         *Session
	fromStart bool
	lost      bool // its place is no longer kept
	info      shard.Info

	from     shard.Pos
	at       uint64 // where it began; what it was told last
	next     int    // msgs it has yet to get
	got      int
	buf      []byte
	after    ssetest.Event // the newest event
	upToDate bool
	closed   bool
	amid     bool // it began inside a character, and is there yet
	late     bool // it was made to send what it holds back
	joint    textBoundary
	must     bool // the event after this one ends the stream
	cursor   uint64
}

func (r *reader) begin(pos shard.Pos) {
	r.from = pos
	for r.next < len(r.msgs) && r.msgs[r.next].Pos < pos {
		r.next++
	}
	r.amid = r.next > 0 && r.msgs[r.next-1].cut
	r.joint = textBoundary{}
	if !r.fromStart || pos > r.start {
		r.joint.skipBytes = characterRest
	}
	if !r.fromStart && r.next > 0 { // bodies are not empty, where they are text
		r.joint.kind = textBoundary{}.after(r.msgs[r.next-1].Body, 0).kind
	}
}

// turn is one turn of an executor that writes as much as the connection accepts; false:
// there was nothing to do.
func (r *reader) turn(budget int, takes func(n int) int) bool {
	s := r.c
	if !s.HasOutput() {
		r.info = s.tail().Info()
	}
	switch s.Next(r.now, r.interval, budget).Do {
	case Write:
		all := bytes.Join(s.Pending(), nil)
		n := takes(len(all))
		s.MarkWritten(n, r.now)
		r.buf = append(r.buf, all[:n]...)
		if rest := bytes.Join(s.Pending(), nil); !bytes.Equal(rest, all[n:]) {
			r.Fatalf("owes %q after %d of %q", rest, n, all)
		}
		r.parse()
		return true
	case Fetch:
		r.behind()
		return true
	case WaitForNews:
		return s.position.Pos < s.tail().Info().Tail
	}
	return false
}

// behind brings a page of any size, or says that there is none.
func (r *reader) behind() {
	_, pos := r.c.WantedPage()
	if pos < r.first {
		first := min(r.first, r.c.tail().Info().Tail)
		looksBack := r.c.lookBacks > 0
		if looksBack {
			first = r.first
		}
		r.lost = r.c.AcceptPage(shard.RecordBatch{}, &shard.TrimmedError{First: first}, r.now) != nil
		switch {
		case looksBack:
			r.joint.kind = boundaryPlain
		case !r.lost:
			if r.got > 0 || r.after.ID != "" {
				r.Fatalf("skips from %d to %d after %+v", pos, first, r.after)
			}
			r.at = uint64(first)
			r.begin(first)
		}
		return
	}
	from, to := pos, pos
	if rapid.IntRange(0, 3).Draw(r.T, "early page") == 0 {
		from = shard.Pos(r.pick(uint64(r.first), uint64(pos), "page from"))
	}
	for to <= pos { // a page is not larger than it has to be, as often as not
		to = shard.Pos(r.pick(uint64(pos+1), r.end(), "page to"))
	}
	if err := r.c.AcceptPage(r.batchOf(from, to), nil, r.now); err != nil {
		r.Fatalf("page [%d, %d) does not join at %d: %v", from, to, pos, err)
	}
}

func (r *reader) parse() {
	es, rest, err := ssetest.Parse(r.buf)
	if err != nil {
		r.Fatal(err)
	}
	r.buf = append([]byte(nil), rest...)
	for _, e := range es {
		if e.ID == "" {
			e.ID = r.after.ID
		}
		o, err := position.ParseOffset(e.ID)
		if err != nil || o.Kind == position.OffsetMinted && o.Generation != r.generation || position.FormatOffset(r.generation, o.Pos) != e.ID {
			r.Fatalf("id of %+v: %v", e, err)
		}
		if r.closed || o.Pos < shard.Pos(r.at) {
			r.Fatalf("%+v after %+v", e, r.after)
		}
		switch e.Name {
		case "data":
			r.data(e, o.Pos)
		case "control":
			r.control(e, o.Pos)
		default:
			r.Fatalf("%+v", e)
		}
		r.after, r.at = e, uint64(o.Pos)
		r.announced = append(r.announced, uint64(o.Pos))
	}
}

// data takes a data event: the messages from the last one on up to pos.
func (r *reader) data(e ssetest.Event, pos shard.Pos) {
	if r.after.Name == "data" {
		r.Fatalf("%+v after %+v", e, r.after)
	}
	var bodies [][]byte
	cut := false
	for ; r.next < len(r.msgs) && r.msgs[r.next].Next <= pos; r.next++ {
		m := r.msgs[r.next]
		bodies = append(bodies, m.Body)
		r.amid = r.amid && m.cut
		cut = m.cut
	}
	r.got += len(bodies)
	if len(bodies) == 0 || r.msgs[r.next-1].Next != pos {
		r.Fatalf("%+v says %d; %d messages", e, pos, len(bodies))
	}
	r.same(e.Data, bodies)
	r.must = cut && !r.amid && !r.late
	r.amid = r.amid || cut && r.late
	r.late = false
}

// same checks that an event's data stands for these messages.
func (r *reader) same(data string, bodies [][]byte) {
	want := string(bytes.Join(bodies, nil))
	switch r.form {
	case FramingText:
		var text []byte
		text, r.joint = joinText(bodies, r.joint)
		want = ssetest.OneBreak.Replace(string(text))
	case FramingBase64:
		b, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			r.Fatal(err)
		}
		data = string(b)
	case FramingJSON:
		var got bytes.Buffer
		if err := json.Compact(&got, []byte(data)); err != nil {
			r.Fatalf("%q: %v", data, err)
		}
		var all bytes.Buffer
		if err := json.Compact(&all, fmt.Appendf(nil, "[%s]", bytes.Join(bodies, []byte(",")))); err != nil {
			r.Fatal(err)
		}
		data, want = got.String(), all.String()
	}
	if data != want {
		r.Fatalf("got %q, want %q", data, want)
	}
}

func (r *reader) control(e ssetest.Event, pos shard.Pos) {
	var c struct {
		StreamNextOffset       string
		StreamCursor           *string
		UpToDate, StreamClosed bool
	}
	if err := json.Unmarshal([]byte(e.Data), &c); err != nil || c.StreamNextOffset != e.ID {
		r.Fatalf("%+v: %v", e, err)
	}
	if r.after.Name == "data" && pos != shard.Pos(r.at) {
		r.Fatalf("%+v after %+v", e, r.after)
	}
	// What lies between the last message and a place that stands alone is not shown.
	if r.next < len(r.msgs) && r.msgs[r.next].Pos < pos {
		r.Fatalf("%+v skips %+v", e, r.msgs[r.next])
	}
	if last := r.next > 0 && r.msgs[r.next-1].Next == pos; !last && pos != r.from && pos != r.info.Tail {
		r.Fatalf("%+v: neither after a message nor %d nor the visible tail %d", e, r.from, r.info.Tail)
	}
	above := r.next < len(r.msgs) && r.msgs[r.next].Pos < r.info.Tail
	if c.UpToDate && above || c.StreamClosed && (above || !r.info.Closed) || c.StreamClosed && !c.UpToDate {
		r.Fatalf("%+v, but the tail is %+v", e, r.info)
	}
	if (c.StreamCursor == nil) != c.StreamClosed {
		r.Fatalf("cursor of %+v", e)
	}
	if c.StreamCursor != nil {
		n, err := strconv.ParseUint(*c.StreamCursor, 10, 64)
		if err != nil || n < r.cursor || n < 1000 {
			r.Fatalf("cursor of %+v, after %d", e, r.cursor)
		}
		r.cursor = n
	}
	if r.must && !c.StreamClosed {
		r.Fatalf("half a character, and then %+v", e)
	}
	r.upToDate, r.closed = c.UpToDate, c.StreamClosed
}

// drain lets the reader have all that there is, and checks that this is all.
func (r *reader) drain(budget int) {
	for n := 0; !r.lost && r.turn(budget, func(n int) int { return n }); n++ {
		if n > 20*len(r.entries)+20 {
			r.Fatalf("never idle: at %d of %+v", r.c.position.Pos, r.c.tail().Info())
		}
	}
	if len(r.buf) > 0 {
		r.Fatalf("ends inside an event: %q", r.buf)
	}
	info := r.c.tail().Info()
	switch {
	case r.lost:
		return
	case r.c.tail().EndError() != nil:
		// One turn may be needed to find out; what was owed came first.
		if r.c.status != stateGone && !r.closed {
			r.Fatalf("state %d of an ended life", r.c.status)
		}
		return
	case r.after.Name != "control":
		r.Fatalf("the last event is %+v", r.after)
	case info.Closed:
		if !r.closed || r.c.status != stateClosed || r.next < len(r.msgs) {
			r.Fatalf("end not told: %+v, %+v", r.after, info)
		}
	case r.c.status != stateIdle || r.closed:
		r.Fatalf("state %d, %+v", r.c.status, r.after)
	}
	held, last := 0, max(r.from, info.Tail)
	if r.got > 0 { // a page may know more than the tail buffer
		last = max(last, r.msgs[r.next-1].Next)
	}
	for _, m := range r.msgs[r.next:] {
		if m.Next > max(info.Tail, r.c.position.Pos) {
			break
		}
		if held++; !m.cut {
			r.Fatalf("%+v not delivered", m)
		}
	}
	switch {
	case held > 0:
	case !r.upToDate || shard.Pos(r.at) != last:
		r.Fatalf("at %d after %+v, the tail is %+v", r.at, r.after, info)
	}
	if int(r.c.framedCount) != r.got {
		r.Fatalf("counts %d messages of %d", r.c.framedCount, r.got)
	}
}

// Invariants 2, 3 and 5: whatever the tail buffer forgets, skips and is fed twice, a
// reader from anywhere gets every message from there on, once and in order, and
// every offset that it was told is a place to go on from.
func TestSessionEqualsItsModel(t *testing.T) {
	for range 10 { // one check is a hundred short lives: too few for what is rare
		rapid.Check(t, checkModel)
	}
}

func checkModel(t *rapid.T) {
	w := newStreamModel(t)
	w.join(w.start, true)
	some := func(t *rapid.T) *reader {
		w.T = t
		return w.readers[rapid.IntRange(0, len(w.readers)-1).Draw(t, "reader")]
	}
	budget := rapid.SampledFrom([]int{1, 100, 500, TurnBytes})
	turn := func(t *rapid.T) {
		if r := some(t); !r.lost {
			r.turn(budget.Draw(t, "budget"), func(n int) int {
				if rapid.Bool().Draw(t, "all") {
					return n
				}
				return rapid.IntRange(0, n).Draw(t, "taken")
			})
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"write": w.write, "feed": w.feed, "feed more": w.feed, "trim": w.trim, "open": w.open,
		"turn": turn, "turn more": turn, "and more": turn,
		"drain": func(t *rapid.T) { some(t).drain(budget.Draw(t, "budget")) },
		"time":  func(*rapid.T) { w.interval++ },
		"late": func(t *rapid.T) {
			if r := some(t); r.c.heldUpTo() > 0 && !r.c.HasOutput() && !r.c.fetching {
				r.c.pauseUntil, r.late = r.now, true
				r.turn(TurnBytes, func(n int) int { return n })
			}
		},
		"end": func(t *rapid.T) {
			if rapid.IntRange(0, 30).Draw(t, "end") == 0 {
				w.tail.End(shard.ErrNotFound)
			}
		},
		"": func(t *rapid.T) {
			for _, r := range w.readers {
				if r.c.gapCount != 0 {
					t.Fatalf("%d gaps", r.c.gapCount)
				}
			}
		},
	})
	w.T = t
	if next, end := w.tail.Next(), w.end(); next < shard.Pos(end) {
		if err := w.tail.Extend(w.batchOf(next, shard.Pos(end))); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range w.readers {
		r.drain(300)
	}
	seen := map[uint64]bool{}
	for _, pos := range w.announced {
		if !seen[pos] {
			seen[pos] = true
			w.join(shard.Pos(pos), false).drain(300)
		}
	}
	for _, r := range w.readers {
		if r.c.gapCount != 0 {
			t.Fatalf("%d gaps", r.c.gapCount)
		}
		r.c.Close()
	}
	if n := w.frames.bytes.Load(); n != 0 || len(w.frames.sets) > 0 {
		t.Fatalf("%d bytes of frames, %d sets are left", n, len(w.frames.sets))
	}
}

// sessionOf returns a session at the start of a tail buffer with these RecordBatches of one message each.
func sessionOf(t *testing.T, form Framing, bodies ...string) (*Session, *shard.TailBuffer) {
	t.Helper()
	tail := shard.NewTailBuffers(0, 0).Open("p/s", shard.Info{Exists: true, Generation: 7}, 0)
	for i, b := range bodies {
		pos := uint64(i)
		m := shard.Message{Pos: shard.Pos(pos), Next: shard.Pos(pos + 1), Body: []byte(b)}
		if err := tail.Extend(ssetest.Batch(t, shard.Pos(pos), shard.Pos(pos+1), shard.Pos(pos+1), false, []shard.Message{m})); err != nil {
			t.Fatal(err)
		}
	}
	s := NewSession(NewFrameCache(1<<20, sendbudget.New(64<<20)), newRules(Times{Heartbeat: time.Hour}), tail, form, Start{FromStart: true}, 0)
	return &s, tail
}

// takeEvents returns every event that the session has to write.
func takeEvents(t *testing.T, s *Session) []ssetest.Event {
	t.Helper()
	var all []byte
	for s.Next(0, 0, 1).Do == Write {
		b := bytes.Join(s.Pending(), nil)
		s.MarkWritten(len(b), 0)
		all = append(all, b...)
	}
	es, rest, err := ssetest.Parse(all)
	if err != nil || len(rest) > 0 {
		t.Fatalf("%q: %v", all, err)
	}
	return es
}

// One message is held for as long as it takes; more than one until they are large.
func TestHeldMessagesAreBounded(t *testing.T) {
	half := strings.Repeat("x", maxHeldBytes) + "€"[:2]
	s, tail := sessionOf(t, FramingText, half)
	if es := takeEvents(t, s); len(es) != 1 || es[0].Name != "control" || strings.Contains(es[0].Data, "upToDate") {
		t.Fatalf("one half message: %.200v", es)
	}
	m := shard.Message{Pos: 1, Next: 2, Body: []byte("a€"[:3])}
	if err := tail.Extend(ssetest.Batch(t, 1, 2, 2, false, []shard.Message{m})); err != nil {
		t.Fatal(err)
	}
	es := takeEvents(t, s)
	if len(es) != 2 || es[0].Data != half+"a\ufffd" || !strings.Contains(es[1].Data, `"upToDate":true`) {
		t.Fatalf("two: %d events", len(es))
	}
}

// A crowd at the same place shares the bytes of one frame, whichever reader comes first.
func TestSessionsShareFrames(t *testing.T) {
	a, tail := sessionOf(t, FramingJSON, `{"n":1}`, `{"n":2}`)
	b := NewSession(a.frames.cache, a.departure.rules, tail, FramingJSON, Start{FromStart: true}, 0)
	a.Next(0, 0, TurnBytes)
	b.Next(0, 0, TurnBytes)
	one, two := a.Pending(), b.Pending()
	if len(one) != 4 || len(two) != 4 {
		t.Fatalf("%q %q", one, two)
	}
	for i := range one {
		if &one[i][0] != &two[i][0] {
			t.Errorf("%q was rendered twice", one[i])
		}
	}
}

// An offset is told only once everything below it is sent: a reader that holds half
// a character is told where it stood before, and a reader that was told something
// is not sent past what is no longer kept.
func TestSkipToKeptLosesNothing(t *testing.T) {
	s, _ := sessionOf(t, FramingText, "€"[:1])
	if !s.skipToKept(0) {
		t.Error("nothing is told: skip")
	}
	es := takeEvents(t, s)
	if len(es) != 1 || es[0].ID != position.FormatOffset(7, 0) {
		t.Errorf("%+v", es)
	}
	if s.skipToKept(5) {
		t.Error("skipped what a reader waits for")
	}
}
