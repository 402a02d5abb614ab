package edge

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// The bounds of tail-N, which counts messages backwards: a position says nothing of how many lie
// before it, because messages have several records and control records have none.
const (
	maxFromEndBytes = 1 << 20 // of the messages; the newest one may be larger
	maxFromEndReads = 4       // pages
	// pageGrid is the distance of the positions at which pages end, unless their bytes end them
	// earlier. All readers ask for pages that begin on this grid, so the cache serves them all.
	pageGrid = shard.MaxBatchRecords
	// fromEndSlack counts the records that are read beyond the messages, for control records among them.
	fromEndSlack = 8
)

// endSearch counts the messages before the end of a stream.
type endSearch struct {
	server *Server
	wanted uint64 // messages that are not taken yet
	taken  int
	bytes  int  // of those that are taken
	full   bool // no more are wanted
	reads  int
	known  []shard.RecordBatch // the pages that were read of the segment
	found  position.Position   // of the oldest that is taken
}

// positionFromEnd returns the position of the last n messages of a stream of these segments, or of the
// last maxFromEndBytes of them if those are fewer, or of the start. It returns errTailTooFar if
// maxFromEndReads pages do not reach that far.
func (s *Server) positionFromEnd(ctx context.Context, segments []position.Segment, n uint64) (position.Position, error) {
	e := endSearch{server: s, wanted: n, found: position.Position{Pos: segments[len(segments)-1].Info.Tail}}
	for i := len(segments) - 1; i >= 0 && !e.full; i-- {
		inherited := segments[i : len(segments)-1]
		if err := e.searchSegment(ctx, segments[i], inherited); err != nil {
			return position.Position{}, err
		}
	}
	return e.found, nil
}

// searchSegment looks through a segment from its end. inherited lists that segment and the
// inherited segments after it.
func (e *endSearch) searchSegment(ctx context.Context, seg position.Segment, inherited []position.Segment) error {
	start, end := seg.Info.Start, seg.Info.Tail
	e.known = nil
	width := min(e.wanted, pageGrid) + fromEndSlack // records
	for end > start && !e.full {
		from := max(start, end-min(end, shard.Pos(width)), (end-1)-(end-1)%pageGrid)
		pages, first, err := e.readWindow(ctx, seg, from, end)
		var trimmed *shard.TrimmedError
		switch {
		case errors.As(err, &trimmed) && trimmed.First > from:
			start = trimmed.First
			continue
		case err != nil:
			return err
		}
		for _, page := range slices.Backward(pages) {
			for i := page.Len() - 1; i >= 0 && !e.full; i-- {
				if m := page.Message(i); m.Pos >= first && m.Pos < end {
					e.take(m, inherited)
					end = m.Pos // pages may overlap: a message of two counts once
				}
			}
		}
		end = first
		width = min(4*width, pageGrid)
	}
	return nil
}

// take counts one more message, if it still fits.
func (e *endSearch) take(m shard.Message, inherited []position.Segment) {
	if e.taken > 0 && e.bytes+len(m.Body) > maxFromEndBytes {
		e.full = true
		return
	}
	e.taken++
	e.bytes += len(m.Body)
	e.wanted--
	e.full = e.wanted == 0
	e.found = position.Position{Inherited: inherited, Pos: m.Pos}
}

// readWindow reads the pages that hold [first, end), where first is from, or higher: the page nearest
// to the end tells about how many records have as many bytes as are wanted, and what lies below those
// is left for later.
func (e *endSearch) readWindow(ctx context.Context, seg position.Segment, from, end shard.Pos) (pages []shard.RecordBatch, first shard.Pos, err error) {
	for pos := from; pos < end; {
		page, err := e.readPage(ctx, seg, pos)
		if err != nil {
			return nil, 0, err
		}
		pages = append(pages, page)
		if pos = page.To(); pos >= end {
			break
		}
		if near := end - min(end, e.recordsOf(max(maxFromEndBytes-e.bytes, 0))); near > pos {
			pages, from, pos = nil, near, near
		}
	}
	return pages, from, nil
}

// readPage returns a page that holds pos. A page that was read before costs nothing.
func (e *endSearch) readPage(ctx context.Context, seg position.Segment, pos shard.Pos) (shard.RecordBatch, error) {
	for _, page := range e.known {
		if page.From() <= pos && pos < page.To() {
			return page, nil
		}
	}
	if e.reads++; e.reads > maxFromEndReads {
		return shard.RecordBatch{}, errTailTooFar
	}
	page, err := e.server.streams.ReadPage(ctx, seg.ID, seg.Info, pos)
	switch {
	case err != nil:
		return page, err
	case page.To() <= pos:
		return page, position.ErrGone // the log ends before what is known of it
	}
	e.known = append(e.known, page)
	return page, nil
}

// recordsOf returns about how many records near the end have so many bytes.
func (e *endSearch) recordsOf(bytes int) shard.Pos {
	page := slices.MaxFunc(e.known, func(a, b shard.RecordBatch) int { return cmp.Compare(a.To(), b.To()) })
	size := max(len(page.Payload())/int(page.To()-page.From()), 1) //nolint:gosec // a page has few records
	return shard.Pos(bytes/size + bytes/size/8 + fromEndSlack)     //nolint:gosec // not negative
}
