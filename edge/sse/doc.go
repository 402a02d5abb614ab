// Package sse is one reader's event stream without its connection: what the reader gets next, in
// which bytes.
//
// A Session holds the position of a reader in a tail buffer, its pending output, and what is to happen
// when. An executor asks it what to do (Next), does that, and reports what came of it:
//
//	Write        write Pending; MarkWritten
//	Fetch        read the page that WantedPage names; AcceptPage
//	WaitForNews  Watch the tail buffer, and wait for news until the moment that the Action names
//	Wait         wait until then; news does not matter
//	End          end the response
//
// There are two executors: a goroutine (edge's eventStream.run), which writes with blocking calls, and
// the loop of package reactor, which serves many sessions. Heartbeats, pauses before a page is read
// again, the release of held text, and why and when a reader has to go are rules of the session
// (next.go, departure.go), so both serve by the same. An executor that serves many readers of one stream
// renders a SharedWrite for all that are in the same state: Covers, Render, MarkWritten.
//
// The package is pure: it does no I/O, reads no clock and has no goroutine. An executor says what
// time it is (Instant). Frames are charged to a sendbudget.Budget while they are being written.
//
// # When a reader has to go
//
// Departure alone decides that, for a session and for a long-poll: in a drain at a moment that is drawn
// within its window, by its Permit, or because it was asked to leave (Leave, for balance). Orders are
// what a server tells all its readers. They never change: Rules.Change and Rules.RecheckPermits make
// others, and close Orders.Changed of those before, which wakes every goroutine that waits for a
// reader; loops are told by their server. Each session then compares its orders with the present ones.
//
// # From records to bytes
//
// Next renders RecordBatches from the tail buffer, or from the page (renderNews, readBatches). Each
// becomes a frame (frameBatches, FrameSet.frameFor, frame.render): one data event, shared by all readers that
// need exactly these messages. A data event is followed by its control event (frame.controlEvent),
// which says where the stream goes on, and whether it has ended.
//
// A reader that asked for the number of the stream's readers is shown it in each control event that says
// "up to date" (counted_control.go), and gets such an event in the place of a heartbeat. A change of the
// number sends nothing.
//
// A reader of text is shown the same text whichever messages share an event (text.go): an LF after a
// CR is no second line break, even if the two are in two events, and no event ends inside a
// character. Messages that end inside one are held back (heldMessages), for MaxHeldTime at most.
// A reader that begins in the middle of a stream looks back for what precedes its position, and only
// if that matters (beginLookBack).
//
// # The files
//
// Each file refers to files of lower rows only:
//
//	shared_write                 one rendering for many readers
//	next, pages                  what an executor calls
//	render                       what a reader gets next
//	held_messages, look_back     text that is split between messages
//	append_events                events into the output
//	session                      a reader's state
//	frame_cache, counted_control, output_buffer
//	frame, departure
//	rules, text, wake_signal
//
// # Invariants
//
//  1. A reader never skips messages: it accepts only a RecordBatch that joins its position, and
//     asks for a page otherwise. Batches that do not join are counted (TakeCounts).
//  2. Readers in equal states (readerState) get equal bytes.
//  3. No message can end its event or begin another field: each line break begins a data line.
//  4. Output consists of whole events, and the Stream-Cursor of a reader never decreases.
//  5. An event stream ends between two events: what was begun is finished first. A reader that has to
//     go gets nothing new, and nothing follows the end of a stream.
//
// # Bounds
//
// Output: about the budget of one turn, and one append. Frames: maxSetBytes for each FrameSet, and
// the limit of the FrameCache, the oldest are dropped first; frames that are being written stay, and
// count in the Budget. Held messages: maxHeldBytes beyond one message. A SharedWrite: MaxSharedBytes.
//
// # Goroutines
//
// A Session and a SharedWrite belong to one executor. Rules are shared by all goroutines: orders are
// read without a lock, and changed under Rules.mu. A FrameCache is shared by all goroutines:
// FrameCache.mu is locked before FrameSet.mu. A rendered frame never changes, except for its cached
// control events, which are atomic.
//
// # Decisions
//
// An event's id is its last line. Some clients (eventsource 1 and 2, fetch-event-source) store
// an id when its line arrives and not when the event is complete, so a connection that broke below
// that line would lose them the event. Only one byte is left below it, the line end of the empty
// line, because one byte cannot end both lines. The control event after a data event has no id: the
// data event has it, so a connection that breaks between the two resumes behind the data. That saves
// 38 of the 475 bytes of an event of 256 bytes. A control event without a data event has an id, or a
// reader that is told only where the stream ends would resume where it began.
//
// A client removes one space after "data:". Text that begins with a space therefore
// gets another (appendSpareSpace), so that SSE gives what catch-up gives. The reference
// servers write the bytes unchanged, and their readers see " brave" as "brave".
// The one case of the protocol's client suites that counts on that loss
// (sse-strips-single-leading-space) fails with Fantail.
package sse
