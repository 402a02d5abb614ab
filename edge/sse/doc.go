// Package sse is one reader's event stream without its connection: what the reader gets next, in
// which bytes.
//
// A Session holds the position of a reader in a TailBuffer, and its pending output. Its executor
// gets the output (Output), writes it, and reports how much was accepted (MarkWritten). When there
// is no output, State says what the executor has to do: wait for news (Watch), fetch the page that
// WantedPage names (AcceptPage), or end the response. An executor that serves many readers of one
// stream renders a SharedWrite for all that are in the same state: Covers, Render, MarkWritten.
//
// The package is pure: it does no I/O, reads no clock and has no goroutine. Frames are charged to a
// sendbudget.Budget while they are being written.
//
// # From records to bytes
//
// Output reads RecordBatches from the TailBuffer, or from the page (readBatches). Each becomes a
// frame (frameBatches, FrameSet.frameFor, frame.render): one data event, shared by all readers that
// need exactly these messages. A data event is followed by its control event (frame.controlEvent),
// which says where the stream goes on, and whether it has ended.
//
// A reader of text is shown the same text whichever messages share an event (text.go): an LF after a
// CR is no second line break, even if the two are in two events, and no event ends inside a
// character. Messages that end inside one are held back (heldMessages), for MaxHeldTime at most.
// A reader that begins in the middle of a stream looks back for what precedes its position, and only
// if that matters (beginLookBack).
//
// # Invariants
//
//  1. A reader never skips messages: it accepts only a RecordBatch that joins its position, and
//     asks for a page otherwise. Batches that do not join are counted (TakeCounts).
//  2. Readers in equal states (readerState) get equal bytes.
//  3. No message can end its event or begin another field: each line break begins a data line.
//  4. Output consists of whole events, and the Stream-Cursor of a reader never decreases.
//
// # Bounds
//
// Output: about the budget of one turn, and one append. Frames: maxSetBytes for each FrameSet, and
// the limit of the FrameCache, the oldest are dropped first; frames that are being written stay, and
// count in the Budget. Held messages: maxHeldBytes beyond one message. A SharedWrite: MaxSharedBytes.
//
// # Goroutines
//
// A Session and a SharedWrite belong to one executor. A FrameCache is shared by all goroutines:
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
