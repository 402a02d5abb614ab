package shard_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

const forked = shard.StreamID("default/fork")

// forkOf is the create request of a fork of a whole stream, as an edge makes it.
func forkOf(t testing.TB, h *shard.Manager, source, name shard.StreamID, msgs ...string) *shard.Request {
	t.Helper()
	info, err := h.Info(t.Context(), source, 0)
	if err != nil {
		t.Fatal(err)
	}
	q := create("", msgs...)
	q.Stream, q.Fork = name, &shard.Fork{Source: source}
	q.Source = &shard.ForkSource{Generation: info.Generation, Type: info.Type, HasTTL: info.HasTTL, TTL: info.TTL}
	q.Source.Chain = append(append([]shard.Ancestor(nil), info.Chain...),
		shard.Ancestor{Stream: source, Generation: info.Generation, Start: info.Start, Bound: info.Tail})
	return q
}

func deleteReq(id shard.StreamID) *shard.Request {
	return &shard.Request{
		Stream: id, Op: shard.OpDelete, ID: shard.NewAppendID(), MintedMillis: shard.MillisOf(time.Now()),
	}
}

// stateOf is "live", "gone" or "none".
func stateOf(t testing.TB, h *shard.Manager, id shard.StreamID) string {
	t.Helper()
	info, err := h.Info(t.Context(), id, 0)
	switch {
	case err != nil:
		t.Fatal(err)
		return ""
	case info.Exists:
		return "live"
	case info.Gone:
		return "gone"
	default:
		return "none"
	}
}

// waitForState waits until the stream's state is want, within d.
func waitForState(t testing.TB, h *shard.Manager, id shard.StreamID, want string, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); stateOf(t, h, id) != want; advance(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("%s is %s after %v, want %s", id, stateOf(t, h, id), d, want)
		}
	}
}

// A deleted source stays for its forks, and goes immediately with the last one, up the whole chain.
func TestSourceStaysForItsForks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h, other := node(t, log), node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		do(t, h, forkOf(t, h, stream, forked, "b"), shard.CodeCreated)
		do(t, h, forkOf(t, h, forked, "default/grandchild"), shard.CodeCreated)
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		do(t, h, deleteReq(forked), shard.CodeDeleted)
		for _, n := range []*shard.Manager{h, other, node(t, log)} {
			if a, b, c := stateOf(t, n, stream), stateOf(t, n, forked), stateOf(t, n, "default/grandchild"); a+b+c != "gonegonelive" {
				t.Fatalf("%s, %s, %s", a, b, c)
			}
		}
		do(t, h, create("text/plain"), shard.CodeNameTaken)
		do(t, h, appendReq("text/plain", "x"), shard.CodeGone)
		do(t, h, deleteReq(stream), shard.CodeGone)
		if _, _, err := h.Follow(t.Context(), stream, 0); !errors.Is(err, shard.ErrGone) {
			t.Errorf("follow: %v", err)
		}
		if q := forkOf(t, h, stream, "default/late"); q != nil {
			q.Source.Refused, q.Source.Generation = 0, 1 // an edge that knows an old state
			do(t, h, q, shard.CodeSourceGone)
		}
		do(t, h, deleteReq("default/grandchild"), shard.CodeDeleted)
		waitForState(t, h, forked, "none", 2*time.Second)
		waitForState(t, h, stream, "none", 2*time.Second)
		do(t, h, create("text/plain", "new"), shard.CodeCreated)
		equal(t, history(t, h), []string{"new"})
	})
}

// The records of a source that is gone are there for its forks.
func TestInheritedRecordsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain", "a", "b"), shard.CodeCreated)
		q := forkOf(t, h, stream, forked)
		do(t, h, q, shard.CodeCreated)
		do(t, h, appendReq("text/plain", "later"), shard.CodeAppended)
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		fresh := node(t, log)
		info, err := fresh.Info(t.Context(), forked, 0)
		if err != nil || len(info.Chain) != 1 {
			t.Fatal(info, err)
		}
		a := info.Chain[0]
		past := shard.Info{Exists: true, Generation: a.Generation, Start: a.Start, Tail: a.Bound, Type: info.Type}
		for _, n := range []*shard.Manager{h, fresh} {
			r, err := n.ReadPage(t.Context(), a.Stream, past, a.Start)
			if err != nil || r.Len() != 2 || r.To() != a.Bound {
				t.Errorf("%d messages to %d, %v", r.Len(), r.To(), err)
			}
		}
	})
}

// Of two PUTs that race for one name, the loser gives back its own reference and not the winner's.
func TestLosingForkReleasesItsOwnReference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 10 * time.Millisecond
		hosts := []*shard.Manager{node(t, log), node(t, log)}
		do(t, hosts[0], create("text/plain", "a"), shard.CodeCreated)
		for i := range 20 {
			name := shard.StreamID(fmt.Sprint("default/fork-", i))
			waits := []func() (shard.Outcome, error){}
			for _, h := range hosts {
				q := forkOf(t, h, stream, name)
				waits = append(waits, doLater(t.Context(), h, q))
			}
			codes := map[shard.Code]int{}
			for _, wait := range waits {
				out, err := wait()
				if err != nil {
					t.Fatal(err)
				}
				codes[out.Code]++
			}
			if codes[shard.CodeCreated] != 1 || codes[shard.CodeExists] != 1 {
				t.Fatalf("verdicts %v", codes)
			}
		}
		do(t, hosts[0], deleteReq(stream), shard.CodeDeleted)
		for i := range 20 {
			if s := stateOf(t, hosts[0], stream); s != "gone" {
				t.Fatalf("source %s with %d forks", s, 20-i)
			}
			do(t, hosts[i%2], deleteReq(shard.StreamID(fmt.Sprint("default/fork-", i))), shard.CodeDeleted)
			synctest.Wait()
		}
		waitForState(t, hosts[0], stream, "none", time.Second)
	})
}

// A fork that is refused leaves no reference behind.
func TestRefusedForkLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, logtest.NewMemory(1))
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		taken := create("text/plain")
		taken.Stream = forked
		do(t, h, taken, shard.CodeCreated)
		do(t, h, forkOf(t, h, stream, forked), shard.CodeConfigDiffers)
		bad := forkOf(t, h, stream, "default/bad")
		bad.BodyError = "no JSON"
		do(t, h, bad, shard.CodeBadBody)
		old := forkOf(t, h, stream, "default/old")
		old.Source.Generation--
		do(t, h, old, shard.CodeSourceChanged)
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		if s := stateOf(t, h, stream); s != "none" {
			t.Errorf("source is %s", s)
		}
	})
}

// A source that expires stays for its forks; a fork that expires releases its source.
func TestExpiredSourceStaysForItsForks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, logtest.NewMemory(1))
		do(t, h, withTTL(10, "a"), shard.CodeCreated)
		q := forkOf(t, h, stream, forked)
		q.HasTTL, q.TTL = true, 30
		do(t, h, q, shard.CodeCreated)
		inherits := forkOf(t, h, stream, "default/inherits")
		if out := do(t, h, inherits, shard.CodeCreated); !out.Info.HasTTL || out.Info.TTL != 10 {
			t.Errorf("inherited %+v", out.Info)
		}
		advance(11 * time.Second)
		if a, b, c := stateOf(t, h, stream), stateOf(t, h, forked), stateOf(t, h, "default/inherits"); a+b+c != "gonelivenone" {
			t.Fatalf("%s, %s, %s", a, b, c)
		}
		advance(20 * time.Second)
		if s := stateOf(t, h, forked); s != "none" {
			t.Fatalf("fork is %s", s)
		}
		waitForState(t, h, stream, "none", 2*time.Second)
	})
}

// dyingLog is a Log that one process uses: after some appends it hears nothing any
// more, as if it had been killed.
type dyingLog struct {
	*logtest.Memory
	left int
}

var errDead = errors.New("dead")

func (l *dyingLog) Append(
	ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry,
) (shard.Ack, error) {
	if l.left--; l.left < 0 {
		return shard.Ack{}, errors.Join(shard.ErrLogDenied, errDead)
	}
	ack, err := l.Memory.Append(ctx, id, at, batch)
	if l.left == 0 && err == nil { // written, and no answer comes
		return shard.Ack{}, errors.Join(shard.ErrLogDenied, errDead)
	}
	return ack, err
}

func (l *dyingLog) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	if l.left <= 0 {
		return 0, errDead
	}
	return l.Memory.Tail(ctx, id)
}

// The process is killed after each append of making and deleting a fork. Whatever the new owner
// finds, the fork is whole or not there. Once both are deleted nothing is left, and no deleted
// source goes while its fork lives.
func TestForkIsWholeOrAbsentAfterACrash(t *testing.T) {
	for steps := range 12 {
		synctest.Test(t, func(t *testing.T) {
			log := logtest.NewMemory(1)
			do(t, node(t, log), create("text/plain", "a"), shard.CodeCreated)
			life := &dyingLog{Memory: log, left: steps}
			h := shard.NewManager(life, shard.NewTailBuffers(0, 0), inMode(shard.Config{}))
			q := forkOf(t, node(t, log), stream, forked)
			for _, r := range []*shard.Request{q, deleteReq(stream), deleteReq(forked)} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				_, _ = h.Do(ctx, r) // until it dies
				cancel()
				synctest.Wait()
			}
			_ = h.Close()
			heir := node(t, log)
			source, fork := stateOf(t, heir, stream), stateOf(t, heir, forked)
			t.Logf("%d: source %s, fork %s", steps, source, fork)
			if fork == "live" && source == "none" {
				t.Fatal("the source went while its fork lives")
			}
			if source == "live" {
				do(t, heir, deleteReq(stream), shard.CodeDeleted)
			}
			if fork == "live" {
				if s := stateOf(t, heir, stream); s != "gone" {
					t.Fatalf("deleted, with a fork: %s", s)
				}
				advance(time.Hour) // the source asks its fork, and stays
				if s := stateOf(t, heir, stream); s != "gone" {
					t.Fatalf("an hour later: %s", s)
				}
				do(t, heir, deleteReq(forked), shard.CodeDeleted)
			}
			waitForState(t, heir, stream, "none", 20*time.Minute)
			waitForState(t, heir, forked, "none", 0)
		})
	}
}

// The owner of a deleted source removes a reference of a fork that was never created, though no
// client asks for the stream again.
func TestOrphanedReferenceIsSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		life := do(t, h, create("text/plain", "a"), shard.CodeCreated).Info.Generation
		do(t, h, &shard.Request{
			Stream: stream, Op: shard.OpHold, ID: shard.NewAppendID(),
			Ref: shard.NewAppendID(), Name: forked, Generation: life,
		}, shard.CodeAppended)
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		if s := stateOf(t, node(t, log), stream); s != "gone" {
			t.Fatalf("deleted, and held: %s", s)
		}
		// Half a minute, one round of the sweeper, and its writes.
		advance(42 * time.Second)
		if s := stateOf(t, node(t, log), stream); s != "none" {
			t.Fatalf("three quarters of a minute later: %s", s)
		}
	})
}

// slowLog is a Log that delays each append to one stream by minutes, and never answers it.
type slowLog struct {
	*logtest.Memory
	stream shard.StreamID
}

func (l slowLog) Append(
	ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry,
) (shard.Ack, error) {
	if id != l.stream {
		return l.Memory.Append(ctx, id, at, batch)
	}
	time.AfterFunc(5*time.Minute, func() { _, _ = l.Memory.Append(context.Background(), id, at, batch) })
	return shard.Ack{}, shard.ErrAppendUnknown
}

// A create record may arrive long after its attempt was given up, and name its source: it makes a
// fork without a past, which reads nothing of a log that does not hold it.
func TestLateForkInheritsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		maker := node(t, slowLog{log, forked})
		if _, err := maker.Do(t.Context(), forkOf(t, h, stream, forked)); !errors.Is(err, shard.ErrUnavailable) {
			t.Fatal(err)
		}
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		if s := stateOf(t, h, stream); s != "gone" {
			t.Fatalf("deleted, with a fork on its way: %s", s)
		}
		advance(4 * time.Minute)
		if s := stateOf(t, node(t, log), stream); s != "none" {
			t.Fatalf("given up: %s", s)
		}
		advance(4 * time.Minute)
		info, err := node(t, log).Info(t.Context(), forked, 0)
		if err != nil || !info.Exists || len(info.Chain) > 0 {
			t.Fatalf("a fork without its source: %+v, %v", info, err)
		}
		do(t, h, forkOf(t, h, stream, "default/other"), shard.CodeSourceMissing)
	})
}

// The table of a stream's forks is bounded, and so is a fork's chain.
func TestForksAndChainsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h := node(t, log)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		at := stream
		for i := range shard.MaxChain {
			name := shard.StreamID(fmt.Sprint("default/chain-", i))
			do(t, h, forkOf(t, h, at, name, "m"), shard.CodeCreated)
			at = name
		}
		do(t, h, forkOf(t, h, at, forked), shard.CodeForkLimit)
		q := forkOf(t, h, stream, "")
		n, last := 0, shard.CodeCreated
		for ; last == shard.CodeCreated && n < 10_000; n++ {
			next := *q
			next.ID, next.Stream = shard.NewAppendID(), shard.StreamID(fmt.Sprintf("default/%0300d", n))
			out, err := h.Do(t.Context(), &next)
			if err != nil {
				t.Fatal(err)
			}
			last = out.Code
		}
		if last != shard.CodeForkLimit || n < 90 {
			t.Fatalf("code %d after %d forks", last, n)
		}
		do(t, h, appendReq("text/plain", "still works"), shard.CodeAppended)
		equal(t, history(t, node(t, log)), []string{"a", "still works"})
	})
}

// leavingFleet is a fleet with a client that leaves once the source is held.
type leavingFleet struct {
	shard.StreamOwners
	leave context.CancelFunc
}

func (p *leavingFleet) Do(ctx context.Context, q *shard.Request) (shard.Outcome, error) {
	out, err := p.StreamOwners.Do(ctx, q)
	if q.Op == shard.OpHold && p.leave != nil {
		p.leave()
	}
	return out, err
}

// References that were left behind do not fill the table of a source that lives.
func TestAbandonedReferencesOfALiveSourceAreSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, logtest.NewMemory(1))
		fleet := &leavingFleet{StreamOwners: h}
		h.UseOwners(fleet)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		name := func(i int) shard.StreamID { return shard.StreamID(fmt.Sprintf("default/%0490d", i)) }
		full := false
		for i := 0; i < 400 && !full; i++ {
			ctx, leave := context.WithCancel(t.Context())
			fleet.leave = leave
			out, err := h.Do(ctx, forkOf(t, h, stream, name(i)))
			full = err == nil && out.Code == shard.CodeForkLimit
			leave()
		}
		if !full {
			t.Fatal("none was left behind")
		}
		fleet.leave = nil
		synctest.Wait()
		do(t, h, forkOf(t, h, stream, name(0)), shard.CodeForkLimit)
		advance(5 * time.Minute)
		do(t, h, forkOf(t, h, stream, name(0)), shard.CodeCreated)
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		if s := stateOf(t, h, stream); s != "gone" {
			t.Errorf("source is %s", s)
		}
	})
}

// asked is a fleet that counts the questions to forks, none of which can be reached.
type asked struct {
	shard.StreamOwners
	times []time.Time
}

func (f *asked) Do(ctx context.Context, q *shard.Request) (shard.Outcome, error) {
	if q.Op == shard.OpCancelFork {
		f.times = append(f.times, time.Now())
		return shard.Outcome{}, shard.ErrUnavailable
	}
	return f.StreamOwners.Do(ctx, q)
}

// A stream that is gone asks its forks at the pace of its node, and less and less often where they
// do not answer.
func TestQuestionsToForksArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const forks = 250
		h := node(t, logtest.NewMemory(1))
		fleet := &asked{StreamOwners: h}
		h.UseOwners(fleet)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		for i := range forks {
			do(t, h, forkOf(t, h, stream, numberedStream(i)), shard.CodeCreated)
		}
		do(t, h, deleteReq(stream), shard.CodeDeleted)
		advance(24 * time.Hour)
		if n := len(fleet.times); n < 2*forks || n > 10*forks {
			t.Errorf("%d questions to %d forks in a day", n, forks)
		}
		for i := range fleet.times {
			if i >= 140 && fleet.times[i].Sub(fleet.times[i-140]) < time.Second {
				t.Fatalf("140 questions within %v", fleet.times[i].Sub(fleet.times[i-140]))
			}
		}
	})
}
