package shard_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// timedMessage is a message as FindTime is to know it.
type timedMessage struct {
	pos  shard.Pos
	time shard.Millis
}

// positionsOf returns the positions of all messages below info.Tail.
func positionsOf(t *rapid.T, h *shard.Manager, info shard.Info) (all []shard.Pos) {
	t.Helper()
	for p := info.Start; p < info.Tail; {
		r, err := h.ReadPage(t.Context(), stream, info, p)
		if err != nil || r.To() <= p {
			t.Fatalf("page at %d of %+v: to %d, %v", p, info, r.To(), err)
		}
		for i := r.Search(p); i < r.Len(); i++ {
			all = append(all, r.Message(i).Pos)
		}
		p = r.To()
	}
	return all
}

// timesOf returns the messages from a position on with the time of the last record below the tail:
// all of them came by one append.
func timesOf(t *rapid.T, log *logtest.Memory, h *shard.Manager, info shard.Info, from shard.Pos) (all []timedMessage) {
	t.Helper()
	var at shard.Millis
	for _, r := range log.Records(stream) {
		if r.Pos == info.Tail-1 {
			at = r.Time
		}
	}
	for _, p := range positionsOf(t, h, info) {
		if p >= from {
			all = append(all, timedMessage{p, at})
		}
	}
	return all
}

// timeModel is a stream with all that FindTime may have to tell apart.
type timeModel struct {
	*rapid.T
	log      *logtest.Memory
	h        *shard.Manager
	messages []timedMessage
	seen     shard.Pos // everything below is in messages
}

func (m *timeModel) do(r *shard.Request, want shard.Code) {
	out, err := m.h.Do(m.Context(), r)
	if err != nil || out.Code != want {
		m.Fatalf("code %d (%s), %v, want %d", out.Code, out.Why, err, want)
	}
	m.note()
}

// note notes the messages that came.
func (m *timeModel) note() shard.Info {
	info, err := m.h.Info(m.Context(), stream, shard.InfoRequireFresh)
	if err != nil {
		m.Fatal(err)
	}
	if info.Exists {
		m.messages = append(m.messages, timesOf(m.T, m.log, m.h, info, max(m.seen, info.Start))...)
		m.seen = info.Tail
	}
	return info
}

func (m *timeModel) create() {
	m.messages = nil
	m.do(create("text/plain", slices.Repeat([]string{"m"}, rapid.SampledFrom([]int{0, 1, 1200}).Draw(m.T, "first"))...), shard.CodeCreated)
}

func (m *timeModel) step() {
	switch rapid.IntRange(0, 9).Draw(m.T, "step") {
	case 0:
		m.do(appendReq("text/plain", slices.Repeat([]string{"m"}, rapid.IntRange(1001, 2500).Draw(m.T, "messages"))...), shard.CodeAppended)
	case 1:
		m.do(appendReq("text/plain", "m", strings.Repeat("x", 3<<19), "m"), shard.CodeAppended)
	case 2, 3:
		m.log.AppendForeign(stream, "foreign")
		if rapid.Bool().Draw(m.T, "another") { // one fold brings both, which have two times
			m.log.AppendForeign(stream, "foreign")
			m.noteForeign(2)
		} else {
			m.noteForeign(1)
		}
	case 4:
		m.do(&shard.Request{Stream: stream, Op: shard.OpDelete, ID: shard.NewAppendID()}, shard.CodeDeleted)
		m.create()
	default:
		m.do(appendReq("text/plain", slices.Repeat([]string{"m"}, rapid.IntRange(1, 5).Draw(m.T, "messages"))...), shard.CodeAppended)
	}
}

// noteForeign notes the last n records of the log.
func (m *timeModel) noteForeign(n int) {
	recs := m.log.Records(stream)
	for _, r := range recs[len(recs)-n:] {
		m.messages = append(m.messages, timedMessage{r.Pos, r.Time})
		m.seen = r.Pos + 1
	}
}

// check compares what is found with what is known, for a part of the stream that ends at info.Tail.
func (m *timeModel) check(h *shard.Manager, info shard.Info) {
	known := m.messages
	for len(known) > 0 && known[len(known)-1].pos >= info.Tail {
		known = known[:len(known)-1]
	}
	asked := []shard.Millis{0, 1, 1 << 52}
	for i, k := range known {
		if i == 0 || known[i-1].time != k.time {
			asked = append(asked, k.time-1, k.time, k.time+1)
		}
	}
	for _, since := range asked {
		want := slices.IndexFunc(known, func(k timedMessage) bool { return k.time >= since })
		if want < 0 {
			want = len(known)
		}
		before := m.log.Ops()
		pos, err := h.FindTime(m.Context(), stream, info, since)
		after := m.log.Ops()
		if err != nil || pos < info.Start || pos > info.Tail {
			m.Fatalf("since %d: %d, %v of %+v", since, pos, err, info)
		}
		got := slices.IndexFunc(known, func(k timedMessage) bool { return k.pos >= pos })
		if got < 0 {
			got = len(known)
		}
		if got != want {
			m.Fatalf("since %d: position %d, message %d of %d, want %d; %+v", since, pos, got, len(known), want, info)
		}
		if n := after.TimeReads - before.TimeReads; n > 1 || after.Reads-before.Reads > n+4 || after.Replays != before.Replays {
			m.Fatalf("since %d: %+v, before it %+v", since, after, before)
		}
	}
}

// Whatever a stream holds, at its owner, on a node that knows nothing, and for a fork that ends
// anywhere: what is found is the first message of a time, and all of an append in parts has the time at
// which it became visible.
func TestFindTimeTellsTheFirstMessage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &timeModel{T: t, log: logtest.NewMemory(1)}
		rnd, clock := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), int64(1_000_000)
		m.log.Now = func() time.Time { // under the log's lock
			clock += rnd.Int64N(3)
			return time.UnixMilli(clock)
		}
		m.h = shard.NewManager(m.log, shard.NewTailBuffers(0, 0), inMode(shard.Config{}))
		defer m.h.Close()
		m.create()
		for range rapid.IntRange(0, 8).Draw(t, "steps") {
			m.step()
		}
		info := m.note()
		cold := shard.NewManager(m.log, shard.NewTailBuffers(0, 0), inMode(shard.Config{}))
		defer cold.Close()
		opened := shard.NewManager(m.log, shard.NewTailBuffers(0, 0), inMode(shard.Config{}))
		defer opened.Close()
		if _, err := opened.Info(t.Context(), stream, 0); err != nil {
			t.Fatal(err)
		}
		for _, h := range []*shard.Manager{m.h, cold, opened} {
			m.check(h, info)
		}
		if len(m.messages) > 0 {
			part := info
			last := m.messages[rapid.IntRange(0, len(m.messages)-1).Draw(t, "bound")]
			part.Tail, part.LogTail = last.pos, last.pos
			m.check(m.h, part)
			m.check(cold, part)
		}
	})
}

// What memory holds costs no read, a time after everything costs none either, and a part of an append
// costs what lies below it once.
func TestFindTimeReadsOnlyWhatItMust(t *testing.T) {
	t.Parallel()
	log, now := logtest.NewMemory(1), int64(1000)
	log.Now = func() time.Time { return time.UnixMilli(now) }
	h := node(t, log)
	do(t, h, create("text/plain"), shard.CodeCreated)
	var info shard.Info
	for i := range 20 {
		now = int64(2000 + 100*i)
		info = do(t, h, appendReq("text/plain", fmt.Sprint(i), "more"), shard.CodeAppended).Info
	}
	find := func(h *shard.Manager, since shard.Millis, want shard.Pos, reads int) {
		t.Helper()
		before := log.Ops().Reads
		pos, err := h.FindTime(t.Context(), stream, info, since)
		if n := log.Ops().Reads - before; err != nil || pos != want || n != reads {
			t.Errorf("since %d: %d after %d reads, %v, want %d after %d", since, pos, n, err, want, reads)
		}
	}
	cold := node(t, log)
	for i := range shard.Pos(20) {
		at := shard.Millis(2000 + 100*i)
		find(h, at, 1+2*i, 0)
		find(h, at-99, 1+2*i, 0)
		find(cold, at-99, 1+2*i, 1)
	}
	find(h, 0, 1, 0)
	find(h, 3901, info.Tail, 0)
	find(cold, 3901, info.Tail, 1)
	infoOf(t, cold)
	find(cold, 3901, info.Tail, 0)

	log.Now = func() time.Time { now += 1000; return time.UnixMilli(now) }
	first := info.Tail
	info = do(t, h, appendReq("text/plain", slices.Repeat([]string{"m"}, 4500)...), shard.CodeAppended).Info
	parts := log.Records(stream)[first+2500:]
	fresh := node(t, log)
	find(fresh, parts[0].Time, first, 1+3)
	find(fresh, parts[0].Time, first, 1)
	find(h, parts[0].Time, first, 0)
}
