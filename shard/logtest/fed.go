package logtest

import (
	"context"
	"sync"

	"github.com/fantail-dev/fantail/shard"
)

// Fed returns a log whose Follow runs on log's Feed; nil: log has none.
func Fed(log shard.Log) shard.Log {
	feeder, ok := log.(shard.Feeder)
	if !ok {
		return nil
	}
	end := &waitingFollower{ended: make(chan struct{})}
	feed, ok := feeder.Feed("logtest/none", end)
	if !ok {
		return nil
	}
	feed.Stop()
	<-end.ended
	return fed{log, feeder}
}

type fed struct {
	shard.Log
	feeder shard.Feeder
}

// Follow implements shard.Log. It calls fn on its own goroutine, where fn may wait.
func (l fed) Follow(ctx context.Context, id shard.StreamID, from shard.Pos, fn func(shard.Page) error) error {
	f := &waitingFollower{next: from, news: make(chan struct{}, 1), ended: make(chan struct{})}
	feed, _ := l.feeder.Feed(id, f)
	defer func() {
		feed.Stop()
		<-f.ended
	}()
	for {
		for _, p := range f.takePages() {
			if err := fn(p); err != nil {
				return err
			}
		}
		select {
		case <-f.news:
		case <-f.ended:
			for _, p := range f.takePages() {
				if err := fn(p); err != nil {
					return err
				}
			}
			return f.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// waitingFollower keeps what it gets until it is taken.
type waitingFollower struct {
	news  chan struct{}
	ended chan struct{} // closed when err is set
	err   error

	mu    sync.Mutex
	next  shard.Pos
	pages []shard.Page
}

// WantedPos implements shard.Follower.
func (f *waitingFollower) WantedPos() (pos shard.Pos, soon bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next, false
}

// TakePage implements shard.Follower.
func (f *waitingFollower) TakePage(p shard.Page) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(p.Records); n > 0 {
		f.next = p.Records[n-1].Pos + 1
	}
	f.pages = append(f.pages, p)
	select {
	case f.news <- struct{}{}:
	default:
	}
	return nil
}

// NoteEnd implements shard.Follower.
func (f *waitingFollower) NoteEnd(err error) {
	f.err = err
	close(f.ended)
}

func (f *waitingFollower) takePages() []shard.Page {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.pages
	f.pages = nil
	return all
}

// skippingFollower wants nothing below a position, and stops its feed when it sees the end.
type skippingFollower struct {
	waitingFollower
	want, end shard.Pos
	seen      []shard.Pos
	feed      chan shard.Feed
	caughtUp  chan struct{} // closed when the first records have come
	afterEnd  bool
}

// WantedPos implements shard.Follower.
func (f *skippingFollower) WantedPos() (pos shard.Pos, soon bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.want, false
}

// TakePage implements shard.Follower.
func (f *skippingFollower) TakePage(p shard.Page) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.ended:
		f.afterEnd = true
	default:
	}
	for _, r := range p.Records {
		f.seen = append(f.seen, r.Pos)
		if f.want = max(f.want, r.Pos+1); r.Pos == 2 {
			close(f.caughtUp)
		}
	}
	if f.want >= f.end {
		feed := <-f.feed
		feed.Stop() // from within a call
		feed.Stop()
		f.feed <- feed
	}
	return nil
}

// testFeed checks what Feed has beside Follow.
func testFeed(e *testCase) {
	feeder, ok := e.Log.(shard.Feeder)
	if !ok || Fed(e.Log) == nil {
		e.Skip("its sessions need goroutines")
	}
	e.create()
	e.append(0, entries("a", "b", "c"))
	f := &skippingFollower{want: 1, end: 6, feed: make(chan shard.Feed, 1), caughtUp: make(chan struct{}), waitingFollower: waitingFollower{ended: make(chan struct{})}}
	feed, _ := feeder.Feed(e.id, f)
	f.feed <- feed
	<-f.caughtUp
	f.mu.Lock()
	f.want = 5 // as if it knew what is about to come
	f.mu.Unlock()
	e.append(3, entries("d", "e", "f"))
	<-f.ended
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, pos := range f.seen {
		if pos < 1 || i > 0 && pos <= f.seen[i-1] {
			e.Errorf("records at %d", f.seen)
		}
	}
	if f.seen[len(f.seen)-1] != 5 || f.afterEnd {
		e.Errorf("records at %d; %t", f.seen, f.afterEnd)
	}
}
