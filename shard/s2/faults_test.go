package s2

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// addFault adds a fault on the test's stream.
func (r *testEnv) addFault(op s2dev.Op, kind s2dev.FaultKind, count int) *s2dev.Injected {
	return r.server.Faults().Add(s2dev.Fault{
		Stream: string(id), Op: op, Kind: kind, Count: count,
	})
}

// Under all faults of appends, each accepted append is in the log once, in order.
func TestAppendsUnderFaultsAreWrittenOnce(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	for i, f := range []s2dev.Fault{
		{Kind: s2dev.LoseAck, Probability: 0.1},
		{Kind: s2dev.LoseRequest, Probability: 0.05},
		{Kind: s2dev.DelayAfter, Probability: 0.02, Delay: 50 * time.Millisecond},
		{Kind: s2dev.Refuse, Probability: 0.05, Code: "rate_limited"},
		{Kind: s2dev.Refuse, Probability: 0.05, Code: "hot_server"},
		{Kind: s2dev.Refuse, Probability: 0.05, Code: "transaction_conflict"},
		{Kind: s2dev.Refuse, Probability: 0.03, Code: "unavailable"},
		{Kind: s2dev.Refuse, Probability: 0.03, Code: "seq_num_mismatch"},
	} {
		f.Stream, f.Op, f.Seed = string(id), s2dev.OpAppend, uint64(i+1)
		r.server.Faults().Add(f)
	}
	const writers, writes = 8, 60
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				out, err := h.Do(t.Context(), request(shard.OpAppend, "text/plain", fmt.Sprintf("%d-%d", w, i)))
				if err != nil || out.Code != shard.CodeAppended {
					t.Errorf("append: %d %v", out.Code, err)
				}
			}
		})
	}
	wg.Wait()
	r.server.Faults().Clear()
	next := map[string]int{}
	got := r.readAll(r.newManager())
	for _, m := range got {
		w, i, _ := strings.Cut(m, "-")
		if i != fmt.Sprint(next[w]) {
			t.Fatalf("writer %s: message %s, want %d", w, i, next[w])
		}
		next[w]++
	}
	if len(got) != writers*writes {
		t.Fatalf("%d messages, want %d", len(got), writers*writes)
	}
}

// Under all faults of the read session, a follower sees every record once.
func TestFollowUnderFaultsDeliversOnce(t *testing.T) {
	for _, kind := range []s2dev.FaultKind{s2dev.EndSession, s2dev.CutFrame} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			r := newTestEnv(t)
			h := r.newManager()
			r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
			var want []string
			done := make(chan struct{})
			for i := range 100 {
				want = append(want, fmt.Sprint(i))
			}
			go func() {
				defer close(done)
				for i, m := range want {
					if i%10 == 5 {
						r.addFault(s2dev.OpReadSession, kind, 1)
					}
					r.appendForeign(m) // only the session reports it
				}
			}()
			r.wantEqual("live", r.readLive(h, len(want)), want...)
			<-done
			r.eventually("one session is open", func() bool { return r.log.OpenSessions() == 1 })
		})
	}
}

// A session that falls silent, without heartbeats, is replaced after the SDK's 20 s. Records that
// were written meanwhile arrive.
func TestFollowThroughSilence(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	r.appendForeign("before")
	r.wantEqual("live", r.readLive(h, 1), "before")
	silence := r.addFault(s2dev.OpReadSession, s2dev.Silence, 1)
	r.appendForeign("silent 1")
	if err := silence.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.appendForeign("silent 2")
	r.wantEqual("live", r.readLive(h, 3), "before", "silent 1", "silent 2")
}

func TestFollowThroughRestart(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	info := r.info(h)
	tail, release, err := h.Follow(t.Context(), id, info.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for i := range 3 {
		if err := r.server.Restart(); err != nil {
			t.Fatal(err)
		}
		r.eventually("an append after the restart", func() bool {
			_, err := h.Do(t.Context(), request(shard.OpAppend, "text/plain", fmt.Sprint(i)))
			return err == nil
		})
	}
	r.wantEqual("live", r.readLive(h, 3), "0", "1", "2")
	if tail.EndError() != nil {
		t.Errorf("the Tail ended: %v", tail.EndError())
	}
}

// The session ends after its last follower has ended, at the end of the billed minute.
func TestSessionsFollowFollowers(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain", "one"), shard.CodeCreated)
	if got := r.log.OpenSessions(); got != 0 {
		t.Fatalf("%d sessions without a follower", got)
	}
	info := r.info(h)
	var releases []func()
	for range 10 {
		_, release, err := h.Follow(t.Context(), id, info.Start)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	usage := func() s2dev.StreamUsage { return r.server.Usage().Streams[testBasin+"/"+string(id)] }
	r.eventually("one session", func() bool { return r.log.OpenSessions() == 1 && usage().OpenReadSessions == 1 })
	for _, release := range releases {
		release()
	}
	h.EndSession(id) // the minute is tested in a bubble (shard)
	r.eventually("no session", func() bool { return r.log.OpenSessions() == 0 })
	if n := usage().Ops[s2dev.OpReadSession]; n != 1 {
		t.Errorf("%d sessions were opened", n)
	}
}

// A refusal that repeating cannot change is reported as such, and the append does not count as
// written.
func TestRefusalsAreNotUnknown(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	r.server.Faults().Add(s2dev.Fault{
		Stream: string(id), Op: s2dev.OpAppend, Kind: s2dev.Refuse, Code: "permission_denied", Count: 1,
	})
	_, err := h.Do(t.Context(), request(shard.OpAppend, "text/plain", "no"))
	if err == nil || errors.Is(err, shard.ErrOutcomeUnknown) {
		t.Fatalf("%v", err)
	}
	r.mustDo(h, request(shard.OpAppend, "text/plain", "yes"), shard.CodeAppended)
	r.wantHistory(h, "yes")
}

// While other writers always win, an append ends with a clear error, and is not written.
func TestContendedAppendFailsClearlyAndWritesNothing(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	for _, c := range []struct {
		body  string
		tries int
	}{{"small", 8}, {strings.Repeat("x", 3<<20), 3}} {
		lost := r.server.Faults().Add(s2dev.Fault{
			Stream: string(id), Op: s2dev.OpAppend, Kind: s2dev.Refuse, Code: "seq_num_mismatch",
		})
		_, err := h.Do(t.Context(), request(shard.OpAppend, "text/plain", c.body))
		if !errors.Is(err, shard.ErrContended) || lost.Fired() != c.tries {
			t.Errorf("%d bytes: %v after %d attempts, want %d", len(c.body), err, lost.Fired(), c.tries)
		}
		lost.Remove()
	}
	r.wantHistory(h)
	r.mustDo(h, request(shard.OpAppend, "text/plain", "free again"), shard.CodeAppended)
	r.wantHistory(h, "free again")
}

// An append to an unreachable S2 is certainly not written.
func TestUnreachableIsNotUnknown(t *testing.T) {
	r := newTestEnv(t)
	r.createStream()
	if err := r.server.Close(); err != nil {
		t.Fatal(err)
	}
	r.log.transport.CloseIdleConnections()
	_, err := r.log.Append(t.Context(), id, 0, []shard.Entry{{Body: []byte("x")}})
	if !errors.Is(err, shard.ErrLogBusy) || errors.Is(err, shard.ErrAppendUnknown) {
		t.Errorf("%v", err)
	}
}
