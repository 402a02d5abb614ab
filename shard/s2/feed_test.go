package s2

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// feeding is a Follower that counts.
type feeding struct {
	mu     sync.Mutex
	cond   *sync.Cond
	next   shard.Pos
	bodies []string
	tails  int // pages that told the tail
	losses int
	ended  int
	err    error
}

func newFeeding() *feeding {
	f := &feeding{}
	f.cond = sync.NewCond(&f.mu)
	return f
}

func (f *feeding) WantedPos() (pos shard.Pos, soon bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next, false
}

func (f *feeding) TakePage(p shard.Page) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.cond.Broadcast()
	for _, r := range p.Records {
		if r.Pos != f.next {
			return fmt.Errorf("record %d where %d is next", r.Pos, f.next)
		}
		f.next++
		f.bodies = append(f.bodies, string(r.Body))
	}
	switch {
	case p.HasTail:
		f.tails++
	case len(p.Records) == 0:
		f.losses++
	}
	return nil
}

func (f *feeding) NoteEnd(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended, f.err = f.ended+1, err
	f.cond.Broadcast()
}

// wait waits until done, which is called under mu.
func (f *feeding) wait(done func() bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !done() {
		f.cond.Wait()
	}
}

// newFeedLog returns a Log with sessions of our own, on r's S2, with the stream.
func newFeedLog(r *testEnv) *Log {
	log := openForTest(r.T, Config{Endpoint: r.server.URL(), Basin: testBasin, backoff: 50 * time.Millisecond})
	if err := log.Create(r.Context(), id); err != nil {
		r.Fatal(err)
	}
	return log
}

func startFeed(t *testing.T, log *Log, f shard.Follower) shard.Feed {
	t.Helper()
	feed, ok := log.Feed(id, f)
	if !ok {
		t.Fatal("no feed")
	}
	return feed
}

// A thousand feeds at rest have no goroutine in this package or in s2s, beside those of their few
// connections.
func TestFeedsAtRestHaveNoGoroutines(t *testing.T) {
	r := newTestEnv(t)
	log := newFeedLog(r)
	const n = 1000
	all := make([]*feeding, n)
	feeds := make([]shard.Feed, n)
	for i := range all {
		all[i] = newFeeding()
		feeds[i] = startFeed(t, log, all[i])
	}
	for _, f := range all {
		f.wait(func() bool { return f.tails > 0 })
	}
	log.feeds.workers.wait()
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	ours := 0
	for g := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		for _, pkg := range []string{"fantail/shard/s2.", "fantail/shard/s2/s2s."} {
			if bytes.Contains(g, []byte(pkg)) && !bytes.Contains(g, []byte("testing.tRunner(")) {
				ours++
				break
			}
		}
	}
	if ours > n/50 || log.OpenSessions() != n {
		t.Errorf("%d goroutines for %d sessions of %d feeds", ours, log.OpenSessions(), n)
	}
	for _, f := range feeds {
		f.Stop()
	}
	for _, f := range all {
		f.wait(func() bool { return f.ended > 0 })
		if f.ended != 1 || !errors.Is(f.err, errFeedStopped) {
			t.Fatalf("ended %d times: %v", f.ended, f.err)
		}
	}
	if n := log.OpenSessions(); n != 0 {
		t.Errorf("%d sessions are open", n)
	}
}

// However sessions end, a feed goes on from where it is, without a gap and without a repetition.
func TestFeedSurvivesLosses(t *testing.T) {
	r := newTestEnv(t)
	log := newFeedLog(r)
	f := newFeeding()
	feed := startFeed(t, log, f)
	want := []string{}
	for i := range 20 {
		losses := 0
		f.wait(func() bool { losses = f.losses; return f.tails > 0 })
		switch i % 3 {
		case 0:
			r.server.Faults().Add(s2dev.Fault{Op: s2dev.OpReadSession, Kind: s2dev.EndSession, Count: 1})
			f.wait(func() bool { return f.losses > losses })
		case 1:
			if err := r.server.Restart(); err != nil {
				t.Fatal(err)
			}
			f.wait(func() bool { return f.losses > losses })
		}
		body := fmt.Sprint(i)
		r.appendForeign(body)
		want = append(want, body)
		f.wait(func() bool { return len(f.bodies) == len(want) })
	}
	feed.Stop()
	f.wait(func() bool { return f.ended == 1 })
	if got := strings.Join(f.bodies, " "); got != strings.Join(want, " ") {
		t.Errorf("got %s", got)
	}
}

// Feeds that are lost together are not opened again together, and each of them is.
func TestLostFeedsAreReopenedInTurn(t *testing.T) {
	r := newTestEnv(t)
	log := newFeedLog(r)
	const n = reopensPerSecond
	all := make([]*feeding, n)
	for i := range all {
		all[i] = newFeeding()
		defer startFeed(t, log, all[i]).Stop()
	}
	for _, f := range all {
		f.wait(func() bool { return f.tails > 0 })
	}
	began := time.Now()
	if err := r.server.Restart(); err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		f.wait(func() bool { return f.tails > 1 })
	}
	if took, least := time.Since(began), (n-reopensPerSecond/4)*time.Second/reopensPerSecond; took < least*9/10 {
		t.Errorf("%d sessions were opened again in %v", n, took)
	}
}

// A follower that fails ends its feed, and an S2 that refuses for good ends it, too.
func TestFeedEnds(t *testing.T) {
	r := newTestEnv(t)
	log := newFeedLog(r)
	failing := &failingFollower{feeding: newFeeding()}
	startFeed(t, log, failing)
	failing.wait(func() bool { return failing.ended > 0 })
	if !errors.Is(failing.err, errSessionDone) {
		t.Error(failing.err)
	}
	none := newFeeding()
	if _, ok := log.Feed("default/none", none); !ok {
		t.Fatal("no feed")
	}
	none.wait(func() bool { return none.ended > 0 })
	if !errors.Is(none.err, shard.ErrNoLog) {
		t.Error(none.err)
	}
	nowhere := newFeeding()
	if _, ok := log.Feed("noproject", nowhere); !ok {
		t.Fatal("no feed")
	}
	nowhere.wait(func() bool { return nowhere.ended > 0 })
	if !errors.Is(nowhere.err, shard.ErrNoBasin) {
		t.Error(nowhere.err)
	}
	open := newFeeding()
	feed := startFeed(t, log, open)
	open.wait(func() bool { return open.tails > 0 })
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	feed.Stop()
	if open.wait(func() bool { return open.ended > 0 }); log.OpenSessions() != 0 {
		t.Errorf("%d sessions are open", log.OpenSessions())
	}
}

type failingFollower struct{ *feeding }

func (f *failingFollower) TakePage(shard.Page) error { return errSessionDone }
