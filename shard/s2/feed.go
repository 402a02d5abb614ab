package s2

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2/s2s"
)

// feed follows one stream without a goroutine: it runs one read session of package s2s after
// another. Whatever happens to it (something has arrived, a connection is made, a pause is over,
// Stop) calls signal, and a worker carries out a step, never two together.
type feed struct {
	feeds    *feeds
	id       shard.StreamID
	target   s2s.Target
	follower shard.Follower
	signals  atomic.Uint32 // since the last step began, the signal for that step included; not 0: a worker has it
	stopped  atomic.Bool
	due      atomic.Bool           // what the phase waits for has come
	refused  atomic.Pointer[error] // why no connection could be made

	// Only feed.step, of which one runs at a time, uses the fields below.
	phase   feedPhase
	session *s2s.ReadSession // while reading
	opened  bool             // S2 has answered the session
	told    bool             // the session has told something
	held    bool             // what has arrived waits until holdOwn is over
	next    shard.Pos        // of the next record
	got     shard.Pos        // next when the session began
	began   time.Time        // of the session
	tries   int              // sessions since the last that was worth its price
}

type feedPhase uint8

const (
	feedPausing    feedPhase = iota // until the next session may be opened
	feedWaiting                     // for its turn among the sessions that are opened again
	feedConnecting                  // a connection is being made
	feedReading
	feedEnded
)

const (
	// pagesPerStep bounds what one stream delivers while others wait.
	pagesPerStep = 8
	// holdOwn is the time for which records wait that are about to be acknowledged to their writer in
	// this process: then they are skipped, and not decoded and folded for nothing.
	holdOwn = 5 * time.Millisecond
)

// feedBytes is about the memory of an idle feed with its session (bench/sessions).
const feedBytes = 2 << 10

// errFeedStopped is the error of a feed after Stop.
var errFeedStopped = errors.New("s2: no longer followed")

// feeds holds what the feeds of a Log share.
type feeds struct {
	calls   *logCalls
	service *s2sService
	workers *workers
}

func (fs *feeds) start(id shard.StreamID, f shard.Follower) *feed {
	from, _ := f.WantedPos()
	out := &feed{feeds: fs, id: id, follower: f, next: from, got: from, began: time.Now()}
	basin, name, err := fs.calls.cfg.locate(id)
	if err != nil {
		out.refused.Store(&err)
	} else {
		out.target = fs.service.target(basin, name)
	}
	out.proceed()
	return out
}

// Stop implements shard.Feed.
func (f *feed) Stop() {
	if !f.stopped.Swap(true) {
		f.signal()
	}
}

// signal has a worker carry out a step. It may be called with locks held, and never waits.
func (f *feed) signal() {
	if f.signals.Add(1) == 1 {
		f.feeds.workers.add(f)
	}
}

// proceed signals that what the phase waits for has come.
func (f *feed) proceed() {
	f.due.Store(true)
	f.signal()
}

// proceedOn signals that a connection is there, or why there is none.
func (f *feed) proceedOn(err error) {
	if err != nil {
		f.refused.Store(&err)
	}
	f.proceed()
}

// run carries out a step, and queues the feed again if it was signalled meanwhile.
func (f *feed) run() {
	n := f.signals.Load()
	f.step()
	if !f.signals.CompareAndSwap(n, 0) {
		f.feeds.workers.add(f)
	}
}

func (f *feed) step() {
	switch {
	case f.phase == feedEnded:
	case f.stopped.Load():
		f.end(errFeedStopped)
	case f.phase == feedReading:
		f.deliver()
	case !f.due.Swap(false):
	case f.phase == feedPausing && f.told:
		f.phase = feedWaiting
		if d := f.feeds.calls.cfg.reopenLimiter.Reserve().Delay(); d > 0 {
			time.AfterFunc(d, f.proceed)
			return
		}
		f.open()
	default:
		f.open()
	}
}

// open opens a session, or waits for a connection.
func (f *feed) open() {
	if err := f.refused.Swap(nil); err != nil {
		f.lose(*err)
		return
	}
	f.phase, f.told = feedConnecting, false
	wanted, _ := f.follower.WantedPos()
	f.next = max(f.next, wanted)
	session, err := f.feeds.service.sessions.StartRead(f.target, s2s.ReadOptions{SeqNum: new(uint64(f.next))}, f.signal, f.proceedOn)
	switch {
	case err != nil:
		f.lose(err)
	case session != nil:
		f.phase, f.session = feedReading, session
		f.opened, f.got, f.began = false, f.next, time.Now()
	}
}

// deliver takes what has arrived on the session.
func (f *feed) deliver() {
	b, ok := batches.Get().(*s2s.Batch)
	if !ok {
		panic("s2: not a batch")
	}
	defer batches.Put(b)
	for n := 0; n < pagesPerStep && !f.stopped.Load(); n++ {
		wanted, soon := f.follower.WantedPos()
		if soon && !f.held {
			f.held = true
			time.AfterFunc(holdOwn, f.signal)
			return
		}
		f.held = false
		f.session.Skip(uint64(wanted))
		more, err := f.session.TakeBatch(b)
		if !f.opened && (more || errors.Is(err, io.EOF)) {
			f.opened = true
			f.feeds.calls.noteSession(1)
		}
		if !more {
			if err != nil {
				f.lose(sessionError(err))
			}
			return
		}
		f.told, f.next = true, max(f.next, shard.Pos(b.Next))
		if len(b.Records) == 0 && !b.HasTail {
			continue
		}
		if err := f.follower.TakePage(fromBatch(b)); err != nil {
			f.end(err)
			return
		}
	}
	f.signal() // there may be more, after others had their turn
}

// lose handles the end of a session, or that none could be opened.
func (f *feed) lose(err error) {
	calls := f.feeds.calls
	err = f.closeSession(err)
	if err != nil && isFinal(err) || errors.Is(err, s2s.ErrClosed) {
		f.end(err)
		return
	}
	calls.metrics.sessionLosses.Inc()
	calls.cfg.Logger.Debug("read session lost", "stream", f.id, "seq", f.next, "err", err)
	if err := f.follower.TakePage(shard.Page{}); err != nil {
		f.end(err)
		return
	}
	// A session that only told the tail and ended soon is no success: each costs a minute.
	if f.next > f.got || time.Since(f.began) >= minBilledTime {
		f.tries = 0
	}
	pause := time.Duration(0)
	if f.next == f.got || f.tries > 0 {
		pause = shard.JitteredPause(f.tries, minBackoff, calls.cfg.backoff)
	}
	f.tries++
	f.got, f.began, f.phase = f.next, time.Now(), feedPausing
	if pause > 0 {
		time.AfterFunc(pause, f.proceed)
	} else {
		f.proceed()
	}
}

// closeSession ends the session, if there is one, and returns the reason of its end as an error
// of the Log contract.
func (f *feed) closeSession(err error) error {
	calls := f.feeds.calls
	what := "open session"
	if f.opened {
		calls.noteSession(-1)
		what = "read session"
	}
	if f.session != nil {
		f.session.Close()
	}
	f.session, f.opened = nil, false
	if errors.Is(err, errFeedStopped) {
		return err
	}
	err = calls.cfg.classifyError(what, err)
	calls.metrics.recordResult(opSession, time.Now(), err)
	return err
}

// end ends the feed.
func (f *feed) end(err error) {
	if f.session != nil {
		_ = f.closeSession(errFeedStopped)
	}
	f.phase = feedEnded
	f.follower.NoteEnd(err)
}
