// Package position says where in a stream a reader is, and how clients are told.
//
// An Offset is what a client sends (ParseOffset, ParseEventID); Resolve finds the Position that it
// names in a stream, and a Position shows itself as an offset (Position.OffsetString, FormatOffset).
// A Position lies in one Segment: a range of positions in one log, inherited from an ancestor of a
// fork, or the stream's own log. A reader reads CurrentSegment to its end, SkipReadSegments moves it
// on to the next one, and AtEnd reports that the stream has nothing more. AncestorsAt returns the
// chain of ancestors of a fork that begins at a position. ParseCursor and NextCursor are the
// protocol's Stream-Cursor (CursorAt), which keeps shared caches apart in time.
//
// The package is pure: it does no I/O, reads no clock and has no goroutine, and its values are
// immutable and may be used by any goroutine. Only edge and its parts know client offsets;
// everything behind them speaks log positions.
//
// The files refer one way: resolve to position and offset, position to offset; cdn_cursor stands
// alone.
//
// # Invariants
//
//  1. As strings, the offsets of one stream sort in the order of its messages.
//  2. The offsets of inherited messages are those of the ancestors' generations, so an offset names
//     the same message in a stream and in its forks.
//  3. A Stream-Cursor that a client is given is never below the one it has sent.
package position
