package edge

import (
	"bufio"
	"context"
	"errors"
	"iter"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// A catch-up chunk ends before the message that would exceed one of these limits, and
// holds at least one message. The rule does not depend on pages, so the same offset gives
// the same bytes on every node.
const (
	maxChunkMessages = 10_000
	maxChunkBytes    = 4 << 20
)

// catchUpChunk is a run of consecutive messages for one answer.
type catchUpChunk struct {
	runs     []pageRun
	messages int
	bytes    int               // of message bodies
	next     position.Position // after the last message
	full     bool              // it ended at a limit, and not at the tail
}

// pageRun is the messages [from, to) of a page.
type pageRun struct {
	page     shard.RecordBatch
	from, to int
}

// payloads yields the memory of the pages.
func payloads(runs []pageRun) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, r := range runs {
			if !yield(r.page.Payload()) {
				return
			}
		}
	}
}

// At most maxChunkLoads chunks are loaded at a time. While the budget is exceeded, loads wait
// for room. So a crowd of clients that each read another stream holds no more than the budget
// and one chunk for each load. A client that waits longer than maxBudgetWait is told to retry:
// a client that accepts data, however slowly, is never disconnected for a newcomer.
const (
	maxChunkLoads = 128
	maxBudgetWait = 20 * time.Second
)

// loadChunk reads the messages from a position up to the tail in info, as far as a
// chunk goes. They are charged until releaseChunk. It returns errCatchUpFull if there is no room.
func (s *Server) loadChunk(ctx context.Context, id shard.StreamID, info shard.Info, at position.Position, fromStart bool) (c catchUpChunk, err error) {
	if err := s.acquireLoadSlot(ctx); err != nil {
		return c, err
	}
	defer func() { <-s.loadSlots }()
	if c, err = s.readChunk(ctx, id, info, at, fromStart); err == nil {
		s.catchUpBudget.CountShared(payloads(c.runs), +1)
	}
	return c, err
}

// acquireLoadSlot takes one of loadSlots once one is free and the budget has room.
func (s *Server) acquireLoadSlot(ctx context.Context) error {
	select {
	case s.loadSlots <- struct{}{}:
		if !s.catchUpBudget.Exceeded() {
			return nil
		}
		<-s.loadSlots
	default:
	}
	s.metrics.waitingForRoom.Inc()
	defer s.metrics.waitingForRoom.Dec()
	ctx, cancel := context.WithTimeoutCause(ctx, maxBudgetWait, errCatchUpFull)
	defer cancel()
	select {
	case s.loadSlots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	err := s.catchUpBudget.WaitForRoom(ctx)
	if err != nil {
		<-s.loadSlots
	}
	return err
}

// releaseChunk returns the charge for the part of a chunk that is not written yet.
func (s *Server) releaseChunk(c *catchUpChunk) { s.catchUpBudget.CountShared(payloads(c.runs), -1) }

// releaseFirstRun returns the charge for the first run, which is written, so that a slow client
// is charged only for what is still to come.
func (s *Server) releaseFirstRun(c *catchUpChunk) {
	s.catchUpBudget.CountShared(payloads(c.runs[:1]), -1)
	c.runs[0] = pageRun{}
	c.runs = c.runs[1:]
}

func (s *Server) readChunk(ctx context.Context, id shard.StreamID, info shard.Info, at position.Position, fromStart bool) (catchUpChunk, error) {
	c := catchUpChunk{next: at}
	for !c.full && !at.AtEnd(info) {
		seg := at.CurrentSegment(id, info)
		page, err := s.streams.ReadPage(ctx, seg.ID, seg.Info, at.Pos)
		var trimmed *shard.TrimmedError
		if errors.As(err, &trimmed) && fromStart && c.messages == 0 && trimmed.First > at.Pos {
			at.Pos = trimmed.First // the first position that is kept
			at = at.SkipReadSegments(info.Start)
			c.next = at
			continue
		}
		if err != nil {
			return c, err
		}
		next := c.addPage(page, at.Pos, seg.Info.Tail)
		if next > 0 {
			c.next = position.Position{Inherited: at.Inherited, Pos: next}.SkipReadSegments(info.Start)
		}
		at.Pos = max(at.Pos, next, min(page.To(), seg.Info.Tail))
		at = at.SkipReadSegments(info.Start)
	}
	if !c.full {
		c.next = position.Position{Pos: max(at.Pos, info.Tail)}
	}
	return c, nil
}

// addPage adds the messages of a page at or above pos and below tail, as far as the chunk
// goes. It returns the position after the last message added, 0 if there was none.
func (c *catchUpChunk) addPage(page shard.RecordBatch, pos, tail shard.Pos) (next shard.Pos) {
	r := pageRun{page: page, from: page.Search(pos)}
	for r.to = r.from; r.to < page.Len(); r.to++ {
		m := page.Message(r.to)
		if m.Pos >= tail {
			break
		}
		if c.messages > 0 && (c.messages == maxChunkMessages || c.bytes+len(m.Body) > maxChunkBytes) {
			c.full = true
			break
		}
		c.messages++
		c.bytes += len(m.Body)
		next = m.Next
	}
	if r.to > r.from {
		c.runs = append(c.runs, r)
	}
	return next
}

// sendChunk answers 200 with a chunk and releases each run that it has written. stale: more may
// have been written by now, so the answer does not claim to be up to date.
func (s *Server) sendChunk(w http.ResponseWriter, r *http.Request, info shard.Info, c *catchUpChunk, old bool) {
	h := w.Header()
	h.Set("Content-Type", safeHeaderValue(info.Type))
	h.Set(hNextOffset, c.next.OffsetString(info))
	if c.next.AtEnd(info) && !old {
		h.Set(hUpToDate, "true")
		if info.Closed {
			h.Set(hClosed, "true")
		}
	}
	size, write := c.bytes, s.writeBodies
	if shard.IsJSON(info.Type) {
		size, write = c.bytes+max(c.messages-1, 0)+len("[]"), s.writeArray
	}
	h.Set("Content-Length", strconv.Itoa(size)) // unless it is compressed
	w.WriteHeader(http.StatusOK)
	out := netconn.NewStallWriter(w, r, s.cfg.Stall)
	s.catchUpBudget.AddReader(out)
	defer s.catchUpBudget.RemoveReader(out)
	if size > netconn.PieceSize { // a smaller answer needs a slot only briefly anyway
		defer s.slotWriting.Use(out, r)()
	}
	if err := write(c, out); err != nil {
		s.metrics.countDisconnect(out, err) // or the client is gone
		return
	}
	s.metrics.deliveries.Add(float64(c.messages))
	s.metrics.delivered.Add(float64(size))
}

// writeBodies writes the messages one after the other, without anything between them.
func (s *Server) writeBodies(c *catchUpChunk, out *netconn.StallWriter) error {
	for ; len(c.runs) > 0; s.releaseFirstRun(c) {
		r := c.runs[0]
		if _, err := out.Write(r.page.Bodies(r.from, r.to)); err != nil {
			return err
		}
	}
	return nil
}

// A JSON array is laid out in a buffer of arrayBufferSize. If maxArrayBuffers of those are in
// use, smallArrayBufferSize has to do: a crowd that catches up shares pages, but not buffers.
const (
	arrayBufferSize      = 256 << 10
	smallArrayBufferSize = 16 << 10
	maxArrayBuffers      = 256
)

var (
	arrayBuffers      = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, arrayBufferSize) }}
	smallArrayBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, smallArrayBufferSize) }}
)

// writeArray writes the messages as one JSON array.
func (s *Server) writeArray(c *catchUpChunk, out *netconn.StallWriter) error {
	pool := &smallArrayBuffers
	select {
	case s.arraySlots <- struct{}{}:
		defer func() { <-s.arraySlots }()
		pool = &arrayBuffers
	default:
	}
	b, _ := pool.Get().(*bufio.Writer)
	defer pool.Put(b)
	s.catchUpBudget.Charge(int64(b.Size()))
	defer s.catchUpBudget.Charge(-int64(b.Size()))
	defer b.Reset(nil)
	b.Reset(out)
	_ = b.WriteByte('[') // Flush returns the error of any of these writes
	for sep := ""; len(c.runs) > 0; s.releaseFirstRun(c) {
		for i := c.runs[0].from; i < c.runs[0].to; i++ {
			_, _ = b.WriteString(sep)
			_, _ = b.Write(c.runs[0].page.Message(i).Body)
			sep = ","
		}
	}
	_ = b.WriteByte(']')
	return b.Flush()
}
