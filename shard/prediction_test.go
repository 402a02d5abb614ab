package shard

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// Batches that are decided on predictions, several deep and with checkpoints among them, are those
// that would be decided on the fold, once it is there.
func TestPredictionsAgreeWithTheFold(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		fold := &State{rooted: true}
		now := Millis(1_000_000)
		foldAll := func(s *State, b *appendBatch) {
			now++
			for i, e := range b.entries {
				r := e.record(b.pos+Pos(i), now)
				r.decoded = nil
				if _, err := s.foldRecord(r); err != nil {
					t.Fatal(err)
				}
			}
		}
		whole := &State{rooted: true}
		created := &call{req: &Request{ID: NewAppendID(), Op: OpCreate, Type: "text/plain"}}
		b, _ := composeBatch(fold, []*call{created}, now, now)
		foldAll(fold, b)
		foldAll(whole, b)
		var flights []*appendBatch
		var queues [][]*call
		sent := map[string]uint64{}
		for range 400 {
			if len(flights) < 1+rnd.IntN(8) {
				var queue []*call
				for range 1 + rnd.IntN(12) {
					queue = append(queue, randomCall(rnd, queues, sent))
				}
				base := fold
				if n := len(flights); n > 0 {
					base = flights[n-1].predicted
				}
				c := &composer{now: clockReading{wall: now, bothClocks: now}, predicts: true}
				b, n := c.compose(base, queue)
				b.flight = &flight{predicted: &c.speculation}
				flights, queues = append(flights, b), append(queues, queue[:n])
				continue
			}
			b, queue := flights[0], queues[len(queues)-len(flights)]
			again, n := composeBatchAt(fold, queue, clockReading{wall: now, bothClocks: now})
			sameBatch(t, seed, b, again, n, len(queue))
			foldAll(fold, b)
			foldAll(whole, b)
			if flights = flights[1:]; len(flights) > 0 && flights[0].predicted.base != nil {
				flights[0].predicted.base = fold
			}
		}
		for _, queue := range queues[:len(queues)-len(flights)] {
			for _, c := range queue {
				if _, a := fold.findOutcome(c.req.ID); a {
					if _, b := whole.findOutcome(c.req.ID); !b {
						t.Fatalf("seed %d: an id is not remembered", seed)
					}
				}
			}
		}
	}
}

// randomCall returns an append: of a producer, in order, repeated, or with a gap; or the repeat of an
// earlier call.
func randomCall(rnd *rand.Rand, queues [][]*call, sent map[string]uint64) *call {
	if len(queues) > 0 && rnd.IntN(12) == 0 {
		if old := queues[rnd.IntN(len(queues))]; len(old) > 0 {
			return &call{req: old[rnd.IntN(len(old))].req}
		}
	}
	r := &Request{ID: NewAppendID(), Op: OpAppend, Type: "text/plain", Messages: NewMessages([]byte("m"))}
	if rnd.IntN(3) > 0 {
		id := fmt.Sprint("p", rnd.IntN(6))
		r.Producer = &Producer{ID: id, Seq: sent[id]}
		switch rnd.IntN(10) {
		case 0:
			r.Producer.Seq += 3
		case 1:
			r.Producer.Seq -= min(r.Producer.Seq, 1)
		default:
			sent[id]++
		}
	}
	if rnd.IntN(10) == 0 {
		r.StreamSeq = []byte(fmt.Sprint(rnd.IntN(1000)))
	}
	return &call{req: r}
}

// sameBatch compares what was decided on a prediction with what is decided on the fold. The times in
// checkpoints differ.
func sameBatch(t *testing.T, seed uint64, got, want *appendBatch, n, calls int) {
	t.Helper()
	if n != calls || len(got.entries) != len(want.entries) || got.pos != want.pos || len(got.verdicts) != len(want.verdicts) {
		t.Fatalf("seed %d: %d entries at %d, want %d at %d", seed, len(got.entries), got.pos, len(want.entries), want.pos)
	}
	for i, e := range got.entries {
		if e.decoded != nil && !bytes.Equal(e.Header, want.entries[i].Header) {
			t.Fatalf("seed %d: entry %d is %+v, want %+v", seed, i, e.decoded, want.entries[i].decoded)
		}
	}
	for i, v := range got.verdicts {
		if v.outcome.Code != want.verdicts[i].outcome.Code || v.outcome.Info.Tail != want.verdicts[i].outcome.Info.Tail {
			t.Fatalf("seed %d: verdict %d is %+v, want %+v", seed, i, v, want.verdicts[i])
		}
	}
}
