package sse

import (
	"slices"

	"github.com/fantail-dev/fantail/shard"
)

// Action says what an executor has to do next for a reader. Executors know no other rules: when a
// reader hears something and when it has to go is decided here.
type Action struct {
	Do Verb
	// Why is the reason to end, with End; with Write, why the reader is told to reconnect by this output.
	Why EndReason
	// Coarse says that Until may pass by Times.Heartbeat/coarseness: it is the next heartbeat's, and
	// nothing else is due by then.
	Coarse bool
	// Until is the moment at which to ask again if nothing happens before, with WaitForNews and Wait.
	Until Instant
	// Newest is S2's time (ms) of the newest message that this output is the first to have; 0: it has
	// none, or the reader was not up to date before.
	Newest shard.Millis
}

// coarseness bounds by which fraction of its time a heartbeat may be late.
const coarseness = 8

// Verb says what to do.
type Verb uint8

// What an executor has to do.
const (
	Write       Verb = iota + 1 // write Pending, and call MarkWritten with how much was accepted
	Fetch                       // read the page that WantedPage names, and call AcceptPage; Next may be asked meanwhile
	WaitForNews                 // watch the tail buffer for news, and wait
	Wait                        // wait; news does not matter
	End                         // end the response
)

// Next returns what to do now. cursor is the present Stream-Cursor, budget is about how many bytes of
// messages may be rendered. The rules, in this order:
//
//   - What was begun is finished: an event stream ends between two events.
//   - Nothing follows the end of the stream, or what was the last output.
//   - A reader that has to go (Departure) gets nothing new, but a retry event if it is to reconnect.
//   - A reader that is behind gets its page; if that could not be read, after a pause.
//   - Otherwise it gets what is new; and messages that it held back for MaxHeldTime.
//   - A reader that has accepted nothing for Times.Heartbeat gets a comment, or a control event if it
//     asked for the number of readers.
func (s *Session) Next(now Instant, cursor uint64, budget int) Action {
	if s.HasOutput() {
		return Action{Do: Write}
	}
	switch {
	case s.leaving != 0:
		return Action{Do: End, Why: s.leaving}
	case s.status == stateClosed, s.status == stateGone:
		return Action{Do: End, Why: EndOfStream}
	}
	why, until := s.departure.Next(now)
	if why != 0 {
		return s.leave(why)
	}
	if !s.fetching && s.status != stateBehind {
		if a, ok := s.renderNews(now, cursor, budget); ok {
			return a
		}
	}
	switch {
	case s.status == stateGone:
		return Action{Do: End, Why: EndOfStream}
	case s.fetching:
		return s.heartbeatOr(now, cursor, Action{Do: Wait, Until: until})
	case s.status == stateBehind && now < s.pauseUntil:
		return s.heartbeatOr(now, cursor, Action{Do: Wait, Until: min(until, s.pauseUntil)})
	case s.status == stateBehind:
		s.fetching = true
		return Action{Do: Fetch}
	case len(s.heldMessages) > 0:
		until = min(until, s.pauseUntil)
	}
	return s.heartbeatOr(now, cursor, Action{Do: WaitForNews, Until: until})
}

// renderNews renders what is new; false: nothing is.
func (s *Session) renderNews(now Instant, cursor uint64, budget int) (a Action, ok bool) {
	fresh := s.announcedUpToDate
	s.prepareBuffer()
	s.render(now, cursor, budget)
	if !s.HasOutput() {
		return Action{}, false
	}
	if a.Do = Write; fresh {
		a.Newest = s.out.newestTime()
	}
	return a, true
}

// leave renders the last output, if there is any.
func (s *Session) leave(why EndReason) Action {
	s.leaving = why
	if !why.tellsToReconnect() {
		return Action{Do: End, Why: why}
	}
	s.prepareBuffer()
	s.out.pending = append(s.out.pending, s.departure.rules.retryEvent())
	return Action{Do: Write, Why: why}
}

// heartbeatOr returns a with the moment of the next heartbeat, or renders a heartbeat that is due.
// Its moment is drawn each time, so readers that were written to together do not stay together.
func (s *Session) heartbeatOr(now Instant, cursor uint64, a Action) Action {
	rules := s.departure.rules
	if now.Sub(s.activeAt) >= rules.Heartbeat {
		s.prepareBuffer()
		s.out.pending = append(s.out.pending, s.heartbeatOutput(now, cursor))
		return Action{Do: Write}
	}
	next := s.activeAt.Add(rules.Heartbeat + rules.random(rules.Heartbeat/4+1))
	a.Coarse, a.Until = next.Add(rules.Heartbeat/coarseness) < a.Until, min(next, a.Until)
	return a
}

// heartbeatOutput returns what a reader gets that has accepted nothing for a while.
func (s *Session) heartbeatOutput(now Instant, cursor uint64) []byte {
	if s.countsReaders && s.IsUpToDate() && len(s.heldMessages) == 0 {
		if s.prepareCount(now); s.out.readers != readersUnknown {
			s.out.cursor = cursor
			return s.controlEvent(nil, endUpToDate)
		}
	}
	return heartbeat
}

// Begin puts what the executor writes before the first event, as a response's header, before the output.
func (s *Session) Begin(head []byte) {
	if len(head) == 0 {
		return
	}
	s.prepareBuffer()
	s.out.pending = slices.Insert(s.out.pending, s.out.written, head)
}

// Leave has the reader go after the present event.
func (s *Session) Leave(why EndReason) { s.departure.asked = why }

// MayMove reports whether the reader may be asked to go to another node now.
func (s *Session) MayMove(now Instant) bool {
	return s.leaving == 0 && s.departure.asked == 0 && now.Sub(s.departure.openedAt) >= s.departure.rules.MinMoveAge
}

// Changed returns the channel that is closed when Next is to be asked again: see Orders.
func (s *Session) Changed() <-chan struct{} { return s.departure.Changed() }

// HasOverstayed reports whether the reader is to be cut off in the middle of what it is sent: see
// Departure.HasOverstayed. An executor asks while its connection accepts nothing.
func (s *Session) HasOverstayed(now Instant) bool { return s.departure.HasOverstayed(now) }

// IsFetching reports whether the executor was told to fetch a page, and has not called AcceptPage.
func (s *Session) IsFetching() bool { return s.fetching }

// EndNow has Next return End, without any more output.
func (s *Session) EndNow() {
	if s.leaving == 0 {
		s.leaving = EndOfStream
	}
}
