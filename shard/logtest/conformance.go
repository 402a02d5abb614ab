package logtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Test runs the conformance suite on the logs that open returns. They may share their storage. Each
// case uses streams of its own.
func Test(t *testing.T, open func(t *testing.T) shard.Log) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			log := open(t)
			c.run(&testCase{T: t, ctx: ctx, Log: log, appendsMake: isMaker(log), id: newStreamID(t)})
		})
	}
	for _, c := range cases { // once more where Follow needs no goroutine
		if !c.follows {
			continue
		}
		t.Run(c.name+" by feed", func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			opened := open(t)
			log := Fed(opened)
			if log == nil {
				t.Skip("its sessions need goroutines")
			}
			c.run(&testCase{T: t, ctx: ctx, Log: log, appendsMake: isMaker(opened), id: newStreamID(t)})
		})
	}
}

var cases = []struct {
	name    string
	run     func(*testCase)
	follows bool
}{
	{"missing", testMissing, true},
	{"create is idempotent", testCreate, false},
	{"make", testMake, false},
	{"compare and swap", testCompareAndSwap, false},
	{"limits of a batch", testLimits, false},
	{"headers", testHeaders, false},
	{"read", testRead, false},
	{"last", testLast, false},
	{"first since", testFirstSince, false},
	{"trim", testTrim, false},
	{"replay", testReplay, false},
	{"follow", testFollow, true},
	{"follow ends", testFollowEnds, true},
	{"feed", testFeed, false},
	{"rivals", testCompetingWriters, false},
	{"listing", testListing, false},
}

// testCase holds one case's log and stream.
type testCase struct {
	*testing.T
	shard.Log
	ctx         context.Context
	id          shard.StreamID
	appendsMake bool // an append may make a log that does not exist
}

// isMaker reports whether appends may make logs. What wraps a Log hides it.
func isMaker(log shard.Log) bool {
	_, ok := log.(shard.LogMaker)
	return ok
}

// newStreamID returns the id of a stream that no other case or run uses.
func newStreamID(t *testing.T) shard.StreamID {
	name := strings.Map(func(r rune) rune {
		if r == ' ' || r == '/' {
			return '-'
		}
		return r
	}, t.Name())
	return shard.StreamID(fmt.Sprintf("logtest/%s/%s %%2F-%s", name, "é", shard.NewAppendID()))
}

func entries(bodies ...string) []shard.Entry {
	out := make([]shard.Entry, len(bodies))
	for i, b := range bodies {
		out[i] = shard.Entry{Header: []byte{1, byte(i)}, Body: []byte(b)}
	}
	return out
}

func (e *testCase) create() {
	e.Helper()
	if err := e.Create(e.ctx, e.id); err != nil {
		e.Fatalf("create: %v", err)
	}
}

func (e *testCase) append(at shard.Pos, batch []shard.Entry) shard.Ack {
	e.Helper()
	ack, err := e.Append(e.ctx, e.id, at, batch)
	if err != nil {
		e.Fatalf("append at %d: %v", at, err)
	}
	if ack.Start != at || ack.End != at+shard.Pos(len(batch)) || ack.StartTime > ack.EndTime {
		e.Fatalf("append at %d: ack %+v", at, ack)
	}
	return ack
}

func (e *testCase) wantTail(what string, err error, tail shard.Pos) {
	e.Helper()
	var lost *shard.TailError
	if !errors.As(err, &lost) || lost.Tail != tail {
		e.Errorf("%s: %v, want tail %d", what, err, tail)
	}
}

func (e *testCase) wantBodies(what string, recs []shard.Record, from shard.Pos, want ...string) {
	e.Helper()
	if len(recs) != len(want) {
		e.Fatalf("%s: %d records, want %d", what, len(recs), len(want))
	}
	for i, r := range recs {
		if r.Pos != from+shard.Pos(i) || string(r.Body) != want[i] {
			e.Errorf("%s: record %d is %d %.40q, want %d %.40q", what, i, r.Pos, r.Body, from+shard.Pos(i), want[i])
		}
	}
}

func testMissing(e *testCase) {
	check := func(what string, err error) {
		if !errors.Is(err, shard.ErrNoLog) {
			e.Errorf("%s: %v", what, err)
		}
	}
	_, err := e.Append(e.ctx, e.id+" appended to", 0, entries("a"))
	if err != nil || !e.appendsMake {
		check("append", err)
	}
	_, err = e.Read(e.ctx, e.id, 0, 0)
	check("read", err)
	_, err = e.Last(e.ctx, e.id, 1, 0)
	check("last", err)
	_, err = e.FirstSince(e.ctx, e.id, 0)
	check("first since", err)
	_, err = e.Tail(e.ctx, e.id)
	check("tail", err)
	check("replay", e.Replay(e.ctx, e.id, 0, 1, func(shard.Page) error { return nil }))
	check("follow", e.Follow(e.ctx, e.id, 0, func(shard.Page) error { return nil }))
}

func testCreate(e *testCase) {
	e.create()
	e.append(0, entries("a"))
	e.create()
	if tail, err := e.Tail(e.ctx, e.id); err != nil || tail != 1 {
		e.Errorf("tail %d, %v", tail, err)
	}
}

// testMake makes logs beside others that make them. A Log that is no LogMaker passes.
func testMake(e *testCase) {
	maker, ok := e.Log.(shard.LogMaker)
	if !ok {
		e.Skip("this Log makes logs with Create only")
	}
	if _, err := maker.EnsureConfig(e.ctx, e.id); !errors.Is(err, shard.ErrNoLog) {
		e.Errorf("the configuration of a log that is not there: %v", err)
	}
	var mu sync.Mutex
	makers := 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			made, err := maker.CreateNew(e.ctx, e.id)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !errors.Is(err, shard.ErrLogBusy) {
				e.Errorf("make: %v", err)
			} else if made {
				makers++
			}
		})
	}
	wg.Wait()
	e.append(0, entries("a"))
	made, err := maker.CreateNew(e.ctx, e.id)
	if made || err != nil || makers != 1 {
		e.Errorf("made by %d, and again: %t, %v", makers, made, err)
	}
	if changed, err := maker.EnsureConfig(e.ctx, e.id); changed || err != nil {
		e.Errorf("its configuration was changed: %t, %v", changed, err)
	}
	p, err := e.Last(e.ctx, e.id, 1, 0)
	if err != nil {
		e.Fatal(err)
	}
	e.wantBodies("last", p.Records, 0, "a")
}

func testCompareAndSwap(e *testCase) {
	e.create()
	first := e.append(0, entries("a", "b"))
	for _, at := range []uint64{0, 1, 3} {
		_, err := e.Append(e.ctx, e.id, shard.Pos(at), entries("x"))
		e.wantTail(fmt.Sprint("append at ", at), err, 2)
	}
	second := e.append(2, entries("c"))
	if second.StartTime < first.EndTime {
		e.Errorf("time goes back: %+v after %+v", second, first)
	}
	p, err := e.Read(e.ctx, e.id, 0, 0)
	if err != nil {
		e.Fatal(err)
	}
	e.wantBodies("read", p.Records, 0, "a", "b", "c")
	if p.Records[0].Time != first.StartTime || p.Records[1].Time != first.EndTime {
		e.Errorf("times %d %d, ack %+v", p.Records[0].Time, p.Records[1].Time, first)
	}
}

func testLimits(e *testCase) {
	e.create()
	many := make([]shard.Entry, shard.MaxBatchRecords)
	for i := range many {
		many[i].Body = []byte("m")
	}
	e.append(0, many)
	full := shard.Entry{Header: []byte("h")}
	full.Body = bytes.Repeat([]byte("x"), shard.MaxBatchBytes-full.MeteredSize())
	e.append(shard.Pos(len(many)), []shard.Entry{full})
	p, err := e.Last(e.ctx, e.id, 1, 0)
	if err != nil || len(p.Records) != 1 || p.Records[0].Size != shard.MaxBatchBytes {
		e.Fatalf("last: %v", err)
	}
	for _, batch := range [][]shard.Entry{append(many, shard.Entry{Body: []byte("m")}), {full, {Body: []byte("y")}}} {
		if _, err := e.Append(e.ctx, e.id, shard.Pos(len(many)+1), batch); !errors.Is(err, shard.ErrLogDenied) {
			e.Errorf("over the limits: %v", err)
		}
	}
}

func testHeaders(e *testCase) {
	e.create()
	large := bytes.Repeat([]byte{0, 255, 'h'}, 100_000)
	e.append(0, []shard.Entry{
		{Header: large}, {Body: []byte("no header")}, {Header: []byte{}, Body: []byte{0, 1, 255}},
	})
	p, err := e.Read(e.ctx, e.id, 0, 0)
	if err != nil || len(p.Records) != 3 {
		e.Fatalf("read: %v", err)
	}
	if r := p.Records[0]; !bytes.Equal(r.Header, large) || len(r.Body) != 0 {
		e.Error("large header and empty body do not survive")
	}
	if r := p.Records[1]; r.Header != nil || string(r.Body) != "no header" {
		e.Errorf("%+v", r)
	}
	if r := p.Records[2]; r.Header == nil || !bytes.Equal(r.Body, []byte{0, 1, 255}) {
		e.Errorf("%+v", r)
	}
}

func testRead(e *testCase) {
	e.create()
	p, err := e.Read(e.ctx, e.id, 0, 0)
	if err != nil || len(p.Records) != 0 {
		e.Errorf("empty log: %d records, %v", len(p.Records), err)
	}
	e.append(0, entries("a", "b", "c"))
	p, err = e.Read(e.ctx, e.id, 1, 1)
	if err != nil {
		e.Fatal(err)
	}
	e.wantBodies("one", p.Records, 1, "b")
	if p, err = e.Read(e.ctx, e.id, 3, 0); err != nil || len(p.Records) != 0 {
		e.Errorf("at the tail: %d records, %v", len(p.Records), err)
	}
	_, err = e.Read(e.ctx, e.id, 4, 0)
	e.wantTail("beyond the tail", err, 3)
}

func testLast(e *testCase) {
	e.create()
	if p, err := e.Last(e.ctx, e.id, 1, 0); err != nil || len(p.Records) != 0 || !p.HasTail || p.Tail != 0 {
		e.Errorf("empty log: %+v, %v", p, err)
	}
	e.append(0, entries("a", "b", "c"))
	p, err := e.Last(e.ctx, e.id, 2, 0)
	if err != nil {
		e.Fatal(err)
	}
	e.wantBodies("last 2", p.Records, 1, "b", "c")
	if p, err = e.Last(e.ctx, e.id, 100, 0); err != nil {
		e.Fatal(err)
	}
	e.wantBodies("last 100", p.Records, 0, "a", "b", "c")
	size := p.Records[0].Size
	for _, c := range []struct {
		n, maxBytes int
		from        shard.Pos
		want        []string
	}{
		{100, 1 << 20, 0, []string{"a", "b", "c"}},
		{2, 2 * size, 1, []string{"b", "c"}},
		{3, 2 * size, 0, []string{"a", "b"}},
		{3, 2*size - 1, 0, []string{"a"}},
		{3, size - 1, 0, nil},
	} {
		if p, err = e.Last(e.ctx, e.id, c.n, c.maxBytes); err != nil {
			e.Fatal(err)
		}
		e.wantBodies(fmt.Sprintf("last %d in %d bytes", c.n, c.maxBytes), p.Records, c.from, c.want...)
	}
}

// testFirstSince looks at every time that the log has, and beside it.
func testFirstSince(e *testCase) {
	first := func(since shard.Millis) (r shard.Record, ok bool) {
		e.Helper()
		p, err := e.FirstSince(e.ctx, e.id, since)
		if err != nil || len(p.Records) > 1 {
			e.Fatalf("since %d: %d records, %v", since, len(p.Records), err)
		}
		if len(p.Records) == 0 {
			return r, false
		}
		return p.Records[0], true
	}
	e.create()
	if r, ok := first(0); ok {
		e.Errorf("empty log: %+v", r)
	}
	var times []shard.Millis // of the records
	for distinct := 0; distinct < 4; {
		ack := e.append(shard.Pos(len(times)), entries("a", "b"))
		if len(times) == 0 || ack.StartTime > times[len(times)-1] {
			distinct++
		}
		times = append(times, ack.StartTime, ack.EndTime)
	}
	last := times[len(times)-1]
	for _, since := range append(slices.Clone(times), 0, times[0]-1, last-1) {
		want, _ := slices.BinarySearch(times, since)
		if r, ok := first(since); !ok || r.Pos != shard.Pos(want) || r.Time != times[want] || len(r.Body) != 1 {
			e.Errorf("since %d: record %d of %d, %v, want %d of %d", since, r.Pos, r.Time, ok, want, times[want])
		}
	}
	for _, since := range []shard.Millis{last + 1, last + 1<<40, 1<<53 - 1} {
		if r, ok := first(since); ok {
			e.Errorf("since %d: %+v, the last is of %d", since, r, last)
		}
	}
}

func testTrim(e *testCase) {
	e.create()
	e.append(0, entries("a", "b", "c"))
	e.append(3, []shard.Entry{{Trim: true, TrimTo: 4}, {Body: []byte("kept")}})
	if tail, err := e.Tail(e.ctx, e.id); err != nil || tail != 5 {
		e.Errorf("tail %d, %v", tail, err)
	}
	// S2 applies a trim later: read until it has.
	for {
		p, err := e.Read(e.ctx, e.id, 0, 0)
		if err != nil {
			e.Fatal(err)
		}
		if len(p.Records) == 0 {
			e.Fatal("nothing is left")
		}
		if p.Records[0].Pos == 4 {
			e.wantBodies("after the trim", p.Records, 4, "kept")
			break
		}
		for _, r := range p.Records {
			if r.Pos == 3 && (!r.Command || r.TrimTo != 4) {
				e.Fatalf("trim command reads as %+v", r)
			}
		}
	}
}

func testReplay(e *testCase) {
	const n = 2500
	e.create()
	for at := 0; at < n; at += 500 {
		batch := make([]shard.Entry, 500)
		for i := range batch {
			batch[i].Body = fmt.Append(nil, at+i)
		}
		e.append(shard.Pos(at), batch)
	}
	next := uint64(100)
	err := e.Replay(e.ctx, e.id, 100, 2400, func(p shard.Page) error {
		for _, r := range p.Records {
			if r.Pos != shard.Pos(next) || string(r.Body) != fmt.Sprint(next) {
				return fmt.Errorf("record %d %q where %d is next", r.Pos, r.Body, next)
			}
			next++
		}
		return nil
	})
	if err != nil || next != 2400 {
		e.Errorf("replayed to %d: %v", next, err)
	}
	stop := errors.New("enough")
	if err := e.Replay(e.ctx, e.id, 0, n, func(shard.Page) error { return stop }); !errors.Is(err, stop) {
		e.Errorf("stopped: %v", err)
	}
	end := shard.Pos(0)
	err = e.Replay(e.ctx, e.id, n-1, n+100, func(p shard.Page) error {
		end = p.Records[len(p.Records)-1].Pos
		return nil
	})
	if err != nil || end != n-1 {
		e.Errorf("beyond the end: %d, %v", end, err)
	}
}

var errEnough = errors.New("enough")

func testFollow(e *testCase) {
	e.create()
	e.append(0, entries("a", "b"))
	var got []string
	live := false
	err := e.Follow(e.ctx, e.id, 1, func(p shard.Page) error {
		for _, r := range p.Records {
			if r.Pos != shard.Pos(1+len(got)) {
				return fmt.Errorf("record %d after %q", r.Pos, got)
			}
			got = append(got, string(r.Body))
		}
		switch {
		case len(got) == 3:
			return errEnough
		case len(got) == 1 && p.HasTail && p.Tail == 2 && !live:
			// Caught up: what comes now is live. Another page may say so before it comes.
			live = true
			e.append(2, entries("c", "d"))
		}
		return nil
	})
	if !errors.Is(err, errEnough) || fmt.Sprint(got) != "[b c d]" {
		e.Errorf("followed %q: %v", got, err)
	}
	if n := e.OpenSessions(); n != 0 {
		e.Logf("%d sessions of other cases", n)
	}
}

func testFollowEnds(e *testCase) {
	e.create()
	e.append(0, entries("a"))
	e.wantTail("beyond the tail", e.Follow(e.ctx, e.id, 7, func(shard.Page) error { return nil }), 1)
	ctx, cancel := context.WithCancelCause(e.ctx)
	defer cancel(nil)
	err := e.Follow(ctx, e.id, 1, func(p shard.Page) error {
		if p.HasTail {
			cancel(errEnough)
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		e.Errorf("ended: %v", err)
	}
}

// testCompetingWriters checks that of two writers at one position exactly one wins.
func testCompetingWriters(e *testCase) {
	e.create()
	const n = 50
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[shard.Pos]string{}
	for w := range 2 {
		wg.Go(func() {
			for at := shard.Pos(0); at < n; {
				body := fmt.Sprint(w, "-", at)
				_, err := e.Append(e.ctx, e.id, at, []shard.Entry{{Body: []byte(body)}})
				var lost *shard.TailError
				switch {
				case err == nil:
					mu.Lock()
					if won[at] != "" {
						e.Errorf("%d won twice", at)
					}
					won[at] = body
					mu.Unlock()
					at++
				case errors.As(err, &lost):
					at = lost.Tail
				case !errors.Is(err, shard.ErrLogBusy):
					e.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	p, err := e.Read(e.ctx, e.id, 0, 0)
	if err != nil {
		e.Fatal(err)
	}
	for _, r := range p.Records {
		if won[r.Pos] != string(r.Body) {
			e.Errorf("%d holds %q, won by %q", r.Pos, r.Body, won[r.Pos])
		}
	}
}
