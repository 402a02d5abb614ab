package shard_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// ifMatch makes an append depend on the places at which the stream may end.
func ifMatch(r *shard.Request, places ...shard.Place) *shard.Request {
	r.IfMatch = &shard.TailCondition{Places: places}
	return r
}

// endOf returns the place at which a stream ends.
func endOf(i shard.Info) shard.Place { return shard.Place{Generation: i.Generation, Pos: i.Tail} }

// An append under a condition is refused for the first of its faults, in the order of judgement.
func TestIfMatchOrderOfJudgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, logtest.NewMemory(1))
		faulty := func(change func(*shard.Request)) *shard.Request {
			r := ifMatch(appendReq("text/html", "x"), shard.Place{Generation: 1, Pos: 9})
			r.StreamSeq, r.BodyError = []byte("a"), "not JSON"
			change(r)
			return r
		}
		do(t, h, faulty(func(*shard.Request) {}), shard.CodeNotFound)
		do(t, h, create("text/plain"), shard.CodeCreated)
		first := appendReq("text/plain", "first")
		first.StreamSeq = []byte("b")
		end := endOf(do(t, h, first, shard.CodeAppended).Info)
		rows := []struct {
			want   shard.Code
			change func(*shard.Request)
		}{
			{shard.CodeTypeDiffers, func(*shard.Request) {}},
			{shard.CodeTailMoved, func(r *shard.Request) { r.Type = "text/plain" }},
			{shard.CodeSeqOrder, func(r *shard.Request) { r.Type = "text/plain"; ifMatch(r, end) }},
			{shard.CodeBadBody, func(r *shard.Request) { r.Type, r.StreamSeq = "text/plain", []byte("c"); ifMatch(r, end) }},
			{shard.CodeAppended, func(r *shard.Request) {
				r.Type, r.StreamSeq, r.BodyError = "text/plain", []byte("c"), ""
				ifMatch(r, end)
			}},
		}
		for _, row := range rows {
			do(t, h, faulty(row.change), row.want)
		}
		equal(t, history(t, h), []string{"first", "x"})
		closing := ifMatch(appendReq(""), end)
		closing.Close = true
		end = endOf(do(t, h, closing, shard.CodeTailMoved).Info)
		closing = ifMatch(appendReq(""), end)
		closing.Close = true
		do(t, h, closing, shard.CodeAppended)
		do(t, h, faulty(func(*shard.Request) {}), shard.CodeClosed)
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		do(t, h, ifMatch(appendReq("text/plain", "y"), end), shard.CodeNotFound)
		do(t, h, create("text/plain"), shard.CodeCreated)
		do(t, h, ifMatch(appendReq("text/plain", "y"), end), shard.CodeTailMoved) // of an earlier life
	})
}

// A place is compared as a place: with where readers of the stream see nothing more.
func TestIfMatchComparesPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		other := func(p shard.Place) shard.Place { return shard.Place{Generation: p.Generation, Pos: p.Pos + 9} }
		start := shard.Place{}
		try := func(want shard.Code, on shard.StreamID, places ...shard.Place) shard.Place {
			t.Helper()
			r := ifMatch(appendReq("text/plain", "m"), places...)
			r.Stream = on
			return endOf(do(t, h, r, want).Info)
		}
		do(t, h, create("text/plain"), shard.CodeCreated)
		end := try(shard.CodeAppended, stream, start)
		try(shard.CodeTailMoved, stream, start)
		try(shard.CodeTailMoved, stream)
		try(shard.CodeTailMoved, stream, other(end))
		end = try(shard.CodeAppended, stream, other(end), end, start)

		do(t, h, forkOf(t, h, stream, forked), shard.CodeCreated)
		try(shard.CodeTailMoved, forked, start)
		try(shard.CodeTailMoved, forked, shard.Place{Generation: end.Generation, Pos: end.Pos - 1})
		own := try(shard.CodeAppended, forked, end) // the end of what it inherited
		try(shard.CodeTailMoved, forked, end)
		try(shard.CodeAppended, forked, own)

		// A fork of an empty stream inherits nothing, and so ends at its start.
		empty := create("text/plain")
		empty.Stream = "default/empty"
		from := endOf(do(t, h, empty, shard.CodeCreated).Info)
		do(t, h, forkOf(t, h, "default/empty", "default/fork-of-empty"), shard.CodeCreated)
		do(t, h, forkOf(t, h, "default/fork-of-empty", "default/grandchild"), shard.CodeCreated)
		try(shard.CodeTailMoved, "default/grandchild", other(from))
		try(shard.CodeAppended, "default/grandchild", from)
		try(shard.CodeAppended, "default/fork-of-empty", start)

		// Records that readers never see do not move the end, and a reader may be told what follows them.
		touched := withTTL(600)
		touched.Stream = "default/touched"
		end = endOf(do(t, h, touched, shard.CodeCreated).Info)
		advance(5 * time.Minute)
		info, err := h.Info(t.Context(), touched.Stream, shard.InfoTouch)
		advance(time.Minute)
		synctest.Wait()
		after, err2 := h.Info(t.Context(), touched.Stream, 0)
		if err != nil || err2 != nil || endOf(info) != end || after.LogTail <= after.Tail {
			t.Fatal(info, after, err, err2)
		}
		try(shard.CodeTailMoved, touched.Stream, shard.Place{Generation: end.Generation, Pos: after.LogTail + 1})
		end = try(shard.CodeAppended, touched.Stream, shard.Place{Generation: end.Generation, Pos: after.LogTail})
		try(shard.CodeAppended, touched.Stream, end)

		// A log that strangers began is a stream, and its places hold once it is adopted.
		const found = shard.StreamID("default/found")
		if err := log.Create(t.Context(), found); err != nil {
			t.Fatal(err)
		}
		log.AppendForeign(found, "a", "b")
		if info, err = h.Info(t.Context(), found, 0); err != nil {
			t.Fatal(err)
		}
		adopt := create("text/plain")
		adopt.Stream = found
		do(t, h, adopt, shard.CodeCreated)
		try(shard.CodeTailMoved, found, shard.Place{Pos: info.Tail - 1})
		try(shard.CodeAppended, found, endOf(info))
		try(shard.CodeTailMoved, found, endOf(info))
	})
}

// The refusal of an owner that has not seen the newest records yet rests on the log, and not on what
// it knows.
func TestIfMatchRefusalRestsOnTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		for name, rival := range map[string]*shard.Manager{"node": node(t, log), "pipelining": pipelining(t, log)} {
			stale, id := node(t, log), shard.StreamID("default/"+name)
			at := func(r *shard.Request) *shard.Request { r.Stream = id; return r }
			do(t, stale, at(create("text/plain")), shard.CodeCreated)
			end := endOf(do(t, rival, at(appendReq("text/plain", "a")), shard.CodeAppended).Info)
			do(t, stale, at(ifMatch(appendReq("text/plain", "b"), end)), shard.CodeAppended)
			// And a match of the stale owner loses its position.
			out := do(t, rival, at(ifMatch(appendReq("text/plain", "c"), end)), shard.CodeTailMoved)
			do(t, rival, at(ifMatch(appendReq("text/plain", "c"), endOf(out.Info))), shard.CodeAppended)
		}
	})
}

// So does a refusal of an owner that has several batches in flight, where others may write.
func TestIfMatchRefusalWithBatchesInFlightRestsOnTheLog(t *testing.T) {
	for name, mode := range map[string]shard.Mode{"session": shard.ModeSession, "auto": shard.ModeAuto} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logtest.NewMemory(1)
				log.Latency = 50 * time.Millisecond
				cfg := shard.Config{Pipelining: shard.PipeliningAuto, Mode: mode}
				stale, rival := shard.NewManager(log, shard.NewTailBuffers(0, 0), cfg), node(t, log)
				defer func() { _ = stale.Close() }()
				do(t, stale, create("text/plain"), shard.CodeCreated)
				openLoop(t, stale, 200, time.Second, plain) // which leaves the session open for a while
				for range 5 {
					end := endOf(do(t, rival, appendReq("text/plain", "a"), shard.CodeAppended).Info)
					do(t, stale, ifMatch(appendReq("text/plain", "b"), end), shard.CodeAppended)
					openLoop(t, stale, 200, 500*time.Millisecond, plain)
				}
				if ops := log.Ops(); ops.AppendSessions == 0 {
					t.Errorf("nothing was pipelined: %+v", ops)
				}
			})
		})
	}
}

// Of many appends that race for one place in one batch, or in several that are in flight together,
// one wins, and each of the others is told where the stream ends. Repeated, each gets its answer.
func TestIfMatchOneOfManyWins(t *testing.T) {
	for name, newNode := range map[string]func(testing.TB, shard.Log) *shard.Manager{"node": node, "pipelining": pipelining} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logtest.NewMemory(1)
				log.Latency = 50 * time.Millisecond
				h := newNode(t, log)
				end := endOf(do(t, h, create("text/plain"), shard.CodeCreated).Info)
				var reqs []*shard.Request
				var waits []func() (shard.Outcome, error)
				for i := range 200 {
					r := ifMatch(appendReq("text/plain", fmt.Sprint(i)), end)
					reqs = append(reqs, r)
					waits = append(waits, doLater(t.Context(), h, r))
					if i%40 == 0 {
						advance(time.Millisecond)
					}
				}
				codes, winner := map[shard.Code]int{}, -1
				for i, wait := range waits {
					out, err := wait()
					if err != nil {
						t.Fatal(err)
					}
					if codes[out.Code]++; out.Code == shard.CodeAppended {
						winner = i
					}
					if want := end.Pos + 1; out.Info.Tail != want || out.Info.Generation != end.Generation {
						t.Errorf("racer %d: code %d at %d, want %d", i, out.Code, out.Info.Tail, want)
					}
				}
				if codes[shard.CodeAppended] != 1 || codes[shard.CodeTailMoved] != 199 {
					t.Fatal(codes)
				}
				equal(t, history(t, h), []string{fmt.Sprint(winner)})
				do(t, h, appendReq("text/plain", "later"), shard.CodeAppended)
				again := *reqs[winner]
				again.Repeat = true
				if out := do(t, h, &again, shard.CodeAppended); out.Info.Tail != end.Pos+1 {
					t.Errorf("repeated: %+v", out.Info)
				}
				heir := node(t, log)
				do(t, heir, &again, shard.CodeAppended)
				equal(t, history(t, heir), []string{fmt.Sprint(winner), "later"})
			})
		})
	}
}

// An append of several batches is one append under its condition, too.
func TestIfMatchOfAnAppendInParts(t *testing.T) {
	for name, newNode := range map[string]func(testing.TB, shard.Log) *shard.Manager{"node": node, "pipelining": pipelining} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := logtest.NewMemory(1)
				log.Latency = 50 * time.Millisecond
				h := newNode(t, log)
				end := endOf(do(t, h, create("application/octet-stream"), shard.CodeCreated).Info)
				big := strings.Repeat("x", 3<<20)
				var waits []func() (shard.Outcome, error)
				for range 3 {
					waits = append(waits, doLater(t.Context(), h, ifMatch(appendReq("application/octet-stream", big), end)))
				}
				codes := map[shard.Code]int{}
				for _, wait := range waits {
					out, err := wait()
					if err != nil {
						t.Fatal(err)
					}
					codes[out.Code]++
				}
				info, err := h.Info(t.Context(), stream, 0)
				if codes[shard.CodeAppended] != 1 || codes[shard.CodeTailMoved] != 2 || err != nil {
					t.Fatal(codes, err)
				}
				do(t, h, ifMatch(appendReq("application/octet-stream", big), endOf(info)), shard.CodeAppended)
			})
		})
	}
}

// Racers that each append only where they have seen the stream end, over lost acknowledgements, lost
// requests, late appends, rival owners and handovers: every accepted append stands where its
// condition says, and none that was refused stands anywhere.
func TestIfMatchRacersAgainstAModel(t *testing.T) {
	for name, newNode := range map[string]func(testing.TB, shard.Log) *shard.Manager{"node": node, "pipelining": pipelining} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testIfMatchRacers(t, newNode) })
		})
	}
}

// raceResult holds what became of an append of a racer.
type raceResult struct {
	expected shard.Place
	code     shard.Code // 0: it cannot be told
}

func testIfMatchRacers(t *testing.T, newNode func(testing.TB, shard.Log) *shard.Manager) {
	const racers, rounds = 50, 120
	log := logtest.NewMemory(rand.Uint64())
	log.Latency = 20 * time.Millisecond
	hosts := []*shard.Manager{newNode(t, log), newNode(t, log)}
	first := endOf(do(t, hosts[0], create("text/plain"), shard.CodeCreated).Info)
	log.SetFaultOdds(faults)
	var owner atomic.Int32
	pick := func() *shard.Manager {
		if rand.N(20) == 0 {
			return hosts[rand.N(2)]
		}
		return hosts[owner.Load()]
	}
	var mu sync.Mutex
	results := map[string]raceResult{}
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			end := first
			for round := range rounds {
				body := fmt.Sprintf("%d-%d", i, round)
				out := race(t, pick, ifMatch(appendReq("text/plain", body), end))
				mu.Lock()
				results[body] = raceResult{end, out.Code}
				mu.Unlock()
				if out.Code == 0 {
					info, err := pick().Info(t.Context(), stream, 0)
					if err != nil {
						continue
					}
					out.Info = info
				}
				end = endOf(out.Info)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	moves := 0
	for moving := true; moving; {
		select {
		case <-done:
			moving = false
		case <-time.After(300 * time.Millisecond):
			from := owner.Load()
			if h, ok := hosts[from].HandOver(stream, 0); ok {
				if err := hosts[1-from].InstallHandover(stream, h); err != nil && !errors.Is(err, shard.ErrNotOwner) && !errors.Is(err, shard.ErrOverloaded) { // it holds the stream, as a rival
					t.Error(err)
				}
				moves++
			}
			owner.Store(1 - from)
		}
	}
	log.SetFaultOdds(logtest.FaultOdds{})
	advance(10 * time.Second) // whatever is late arrives now
	ops := log.Ops()
	if ops.LostAcks == 0 || ops.LostRequests == 0 || moves == 0 {
		t.Fatalf("faults did not fire: %+v, %d moves", ops, moves)
	}
	checkRace(t, node(t, log), first, results)
}

// race sends an append until its outcome is known; code 0: it cannot be told.
func race(t *testing.T, pick func() *shard.Manager, r *shard.Request) shard.Outcome {
	for range 200 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rand.N(4000))*time.Millisecond)
		out, err := pick().Do(ctx, r)
		cancel()
		switch {
		case err == nil && (out.Code == shard.CodeAppended || out.Code == shard.CodeTailMoved):
			return out
		case err == nil:
			t.Errorf("refused: %+v", out)
			return shard.Outcome{}
		case errors.Is(err, shard.ErrOutcomeUnknown):
			t.Errorf("the window of ids cannot tell: %v", err)
			return shard.Outcome{}
		}
		advance(time.Millisecond)
		again := *r
		again.Repeat = true
		r = &again
	}
	t.Error("no verdict")
	return shard.Outcome{}
}

// checkRace compares what the racers were told with what the log holds.
func checkRace(t *testing.T, h *shard.Manager, end shard.Place, results map[string]raceResult) {
	info, err := h.Info(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for p := info.Start; p < info.Tail; {
		b, err := h.ReadPage(t.Context(), stream, info, p)
		if err != nil {
			t.Fatal(err)
		}
		for i := b.Search(p); i < b.Len(); i++ {
			m := b.Message(i)
			r, ok := results[string(m.Body)]
			if found++; !ok || r.code != shard.CodeAppended && r.code != 0 {
				t.Errorf("%s stands at %d, and was told %d", m.Body, m.Pos, r.code)
			}
			if r.expected.Pos < end.Pos || r.expected.Pos > m.Pos {
				t.Errorf("%s stands at %d after %d, and expected %d", m.Body, m.Pos, end.Pos, r.expected.Pos)
			}
			end.Pos = m.Pos + 1
			delete(results, string(m.Body))
		}
		p = b.To()
	}
	refused := 0
	for body, r := range results {
		if r.code == shard.CodeAppended {
			t.Errorf("%s was acknowledged, and is not there once", body)
		}
		refused++
	}
	if found == 0 || refused == 0 {
		t.Errorf("%d were written and %d refused", found, refused)
	}
	t.Logf("%d were written and %d refused", found, refused)
}
