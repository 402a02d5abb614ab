package shard_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// handOver moves the stream from one host to another.
func handOver(t testing.TB, from, to *shard.Manager, next shard.Pos) {
	t.Helper()
	h, ok := from.HandOver(stream, next)
	if !ok {
		t.Fatal("nothing to hand over")
	}
	if from.HasStream(stream) {
		t.Fatal("still there")
	}
	if err := to.InstallHandover(stream, h); err != nil {
		t.Fatal(err)
	}
}

// The next owner goes on where the previous one stopped, with everything that it knew, and reads
// nothing for it.
func TestHandoverReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		a, b := node(t, log), node(t, log)
		do(t, a, withTTL(600), shard.CodeCreated)
		want := []string{}
		for i := range 700 { // checkpoints among them
			r := producerAppend(fmt.Sprint("p", i%7), 0, uint64(i/7))
			want = append(want, string(r.Messages.Body()))
			do(t, a, r, shard.CodeAppended)
		}
		last := appendReq("text/plain", "last")
		do(t, a, last, shard.CodeAppended)
		want = append(want, "last")
		before := log.Ops()
		for i := range 20 {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			handOver(t, from, to, 0)
			do(t, to, producerAppend("p0", 0, uint64(99)), shard.CodeDuplicate)
			do(t, to, producerAppend("p0", 0, uint64(100+i)), shard.CodeAppended)
			want = append(want, fmt.Sprint("p0-0-", 100+i))
			again := *last
			again.Repeat = true
			do(t, to, &again, shard.CodeAppended) // its id is known
		}
		after := log.Ops()
		if after.Reads != before.Reads || after.Replays != before.Replays {
			t.Errorf("handing over read the log: %+v, before %+v", after, before)
		}
		equal(t, history(t, node(t, log)), want)
		if start := takeoverCost(t, log); start > 3 { // two of them side by side
			t.Errorf("%d reads to take over afterwards: the distance to the checkpoint is lost", start)
		}
	})
}

// takeoverCost returns how many reads a node needs that knows nothing of the stream.
func takeoverCost(t *testing.T, log *logtest.Memory) int {
	before := log.Ops()
	exists(t, node(t, log), 0)
	after := log.Ops()
	return after.Reads + after.Replays - before.Reads - before.Replays
}

// Readers of the next owner, which followed the stream from another node, go on in memory: the last
// records come with the Handover.
func TestHandoverCarriesTheTailForReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		a := node(t, log)
		tails := shard.NewTailBuffers(0, 0)
		b := shard.NewManager(log, tails, shard.Config{})
		defer func() { _ = b.Close() }()
		out := do(t, a, create("text/plain", "one"), shard.CodeCreated)
		do(t, a, appendReq("text/plain", "two"), shard.CodeAppended)
		// What a relay feeds on the other node, which is one message behind.
		far := tails.Open(stream, out.Info, out.Info.LogTail)
		defer far.Release()
		handOver(t, a, b, far.Next())
		do(t, b, appendReq("text/plain", "three"), shard.CodeAppended)
		rs, _ := far.ReadAt(out.Info.Tail, 1<<20, nil)
		got := []string{}
		for _, r := range rs {
			for i := range r.Len() {
				got = append(got, string(r.Message(i).Body))
			}
		}
		equal(t, got, []string{"two", "three"})
	})
}

// What only memory knows of is handed over too: the time of the last use.
func TestHandoverKeepsTheLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		a, b := node(t, log), node(t, log)
		do(t, a, withTTL(30), shard.CodeCreated)
		advance(20 * time.Second)
		exists(t, a, shard.InfoTouch)
		handOver(t, a, b, 0)
		advance(20 * time.Second)
		if !exists(t, b, 0) {
			t.Fatal("expired though it was read")
		}
		advance(11 * time.Second)
		if exists(t, b, 0) {
			t.Fatal("still there after its time")
		}
	})
}

// The grace of a new owner is no use of the stream: handed over, it makes no touch.
func TestHandedOverGraceIsNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		do(t, node(t, log), withTTL(300), shard.CodeCreated)
		advance(time.Minute)
		a, b := node(t, log), node(t, log)
		exists(t, a, 0) // took it over
		n := len(log.Records(stream))
		handOver(t, a, b, 0)
		advance(time.Minute) // and the sweeper looks
		if got := len(log.Records(stream)); got != n {
			t.Errorf("%d records, %d before: touched without a use", got, n)
		}
	})
}

// A handover may be of a generation that is over; readers here know a later one.
func TestHandoverOfAnEarlierGenerationIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		a, rival := node(t, log), node(t, log)
		tails := shard.NewTailBuffers(0, 0)
		b := shard.NewManager(log, tails, shard.Config{})
		defer func() { _ = b.Close() }()
		do(t, a, create("text/plain", "one"), shard.CodeCreated)
		do(t, rival, &shard.Request{Stream: stream, Op: shard.OpDelete, ID: shard.NewAppendID()}, shard.CodeDeleted)
		out := do(t, rival, create("text/plain", "two"), shard.CodeCreated)
		far := tails.Open(stream, out.Info, out.Info.LogTail)
		defer far.Release()
		h, ok := a.HandOver(stream, 0)
		if !ok {
			t.Fatal("nothing to hand over")
		}
		if err := b.InstallHandover(stream, h); !errors.Is(err, shard.ErrNotOwner) {
			t.Error(err)
		}
		if err := far.EndError(); err != nil {
			t.Errorf("the later life ended: %v", err)
		}
		do(t, b, appendReq("text/plain", "three"), shard.CodeAppended)
		if err := far.EndError(); err != nil {
			t.Errorf("the later life ended: %v", err)
		}
	})
}

// A handover is only what one node knew: if another node has written since, the log is right.
func TestOutdatedHandoverIsCorrectedByTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		a, b, rival := node(t, log), node(t, log), node(t, log)
		do(t, a, create("text/plain", "one"), shard.CodeCreated)
		h, ok := a.HandOver(stream, 0)
		if !ok {
			t.Fatal("nothing to hand over")
		}
		do(t, rival, appendReq("text/plain", "two"), shard.CodeAppended)
		if err := b.InstallHandover(stream, h); err != nil {
			t.Fatal(err)
		}
		do(t, b, appendReq("text/plain", "three"), shard.CodeAppended)
		equal(t, history(t, b), []string{"one", "two", "three"})
		if _, ok := a.HandOver(stream, 0); ok {
			t.Error("handed over twice")
		}
	})
}

// Appends that wait while a stream is handed over are refused, or written, and the caller of each
// knows which.
func TestHandoverAnswersWaitingWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 10 * time.Millisecond
		a, b := node(t, log), node(t, log)
		do(t, a, create("text/plain"), shard.CodeCreated)
		var waits []func() (shard.Outcome, error)
		for i := range 50 {
			waits = append(waits, doLater(t.Context(), a, appendReq("text/plain", fmt.Sprint(i))))
			if i == 0 {
				synctest.Wait() // on its way, alone
			}
		}
		synctest.Wait() // all the others wait
		handOver(t, a, b, 0)
		written := 0
		for _, wait := range waits {
			if out, err := wait(); err == nil && out.Code == shard.CodeAppended {
				written++
			} else if err != shard.ErrNotOwner { //nolint:errorlint // exactly this one
				t.Fatal(out, err)
			}
		}
		if n := len(history(t, b)); n != written || written == 0 || written == 50 {
			t.Fatalf("%d messages, %d acknowledged", n, written)
		}
	})
}

// A session without followers ends immediately where its stream is another node's, and not with the
// minute; a session with followers stays.
func TestEndSessionKeepsFollowedStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		_, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		advance(time.Second)
		h.EndSession(stream)
		if n := log.OpenSessions(); n != 1 {
			t.Errorf("%d sessions while it is followed", n)
		}
		release()
		advance(time.Second)
		if n := log.OpenSessions(); n != 1 {
			t.Errorf("%d sessions in a minute that is paid for", n)
		}
		h.EndSession(stream)
		h.EndSession("default/none")
		advance(time.Second)
		if n := log.OpenSessions(); n != 0 || !h.HasStream(stream) {
			t.Errorf("%d sessions; the stream is here: %v", n, h.HasStream(stream))
		}
	})
}
