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
	WaitForNews                 // watch the TailBuffer for news, and wait
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
//   - A reader that has accepted nothing for Times.Heartbeat gets a comment.
func (c *Session) Next(now Instant, cursor uint64, budget int) Action {
	if c.HasOutput() {
		return Action{Do: Write}
	}
	switch {
	case c.leaving != 0:
		return Action{Do: End, Why: c.leaving}
	case c.status == stateClosed, c.status == stateGone:
		return Action{Do: End, Why: EndOfStream}
	}
	why, until := c.departure.Next(now)
	if why != 0 {
		return c.leave(why)
	}
	if !c.fetching && c.status != stateBehind {
		if a, ok := c.renderNews(now, cursor, budget); ok {
			return a
		}
	}
	switch {
	case c.status == stateGone:
		return Action{Do: End, Why: EndOfStream}
	case c.fetching:
		return c.heartbeatOr(now, Action{Do: Wait, Until: until})
	case c.status == stateBehind && now < c.pauseUntil:
		return c.heartbeatOr(now, Action{Do: Wait, Until: min(until, c.pauseUntil)})
	case c.status == stateBehind:
		c.fetching = true
		return Action{Do: Fetch}
	case len(c.heldMessages) > 0:
		until = min(until, c.pauseUntil)
	}
	return c.heartbeatOr(now, Action{Do: WaitForNews, Until: until})
}

// renderNews renders what is new; false: nothing is.
func (c *Session) renderNews(now Instant, cursor uint64, budget int) (a Action, ok bool) {
	fresh := c.announcedUpToDate
	c.prepareBuffer()
	c.render(now, cursor, budget)
	if !c.HasOutput() {
		return Action{}, false
	}
	if a.Do = Write; fresh {
		a.Newest = c.out.newestTime()
	}
	return a, true
}

// leave renders the last output, if there is any.
func (c *Session) leave(why EndReason) Action {
	c.leaving = why
	if !why.tellsToReconnect() {
		return Action{Do: End, Why: why}
	}
	c.prepareBuffer()
	c.out.pending = append(c.out.pending, c.departure.rules.retryEvent())
	return Action{Do: Write, Why: why}
}

// heartbeatOr returns a with the moment of the next heartbeat, or renders one that is due. Its moment
// is drawn each time, so readers that were written to together do not stay together.
func (c *Session) heartbeatOr(now Instant, a Action) Action {
	rules := c.departure.rules
	if now.Sub(c.activeAt) >= rules.Heartbeat {
		c.prepareBuffer()
		c.out.pending = append(c.out.pending, heartbeat)
		return Action{Do: Write}
	}
	next := c.activeAt.Add(rules.Heartbeat + rules.random(rules.Heartbeat/4+1))
	a.Coarse, a.Until = next.Add(rules.Heartbeat/coarseness) < a.Until, min(next, a.Until)
	return a
}

// Begin puts what the executor writes before the first event, as a response's header, before the output.
func (c *Session) Begin(head []byte) {
	if len(head) == 0 {
		return
	}
	c.prepareBuffer()
	c.out.pending = slices.Insert(c.out.pending, c.out.written, head)
}

// Leave has the reader go after the present event.
func (c *Session) Leave(why EndReason) { c.departure.asked = why }

// MayMove reports whether the reader may be asked to go to another node now.
func (c *Session) MayMove(now Instant) bool {
	return c.leaving == 0 && c.departure.asked == 0 && now.Sub(c.departure.openedAt) >= c.departure.rules.MinMoveAge
}

// Changed returns the channel that is closed when Next is to be asked again: see Orders.
func (c *Session) Changed() <-chan struct{} { return c.departure.Changed() }

// IsFetching reports whether the executor was told to fetch a page, and has not called AcceptPage.
func (c *Session) IsFetching() bool { return c.fetching }

// EndNow has Next return End, without any more output.
func (c *Session) EndNow() {
	if c.leaving == 0 {
		c.leaving = EndOfStream
	}
}
