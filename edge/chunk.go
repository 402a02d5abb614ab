package edge

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// A catch-up chunk ends before the message that would take it over these; it
// holds at least one. The rule knows nothing of pages, so the same offset gives
// the same bytes on every node.
const (
	chunkMessages = 10_000
	chunkBytes    = 4 << 20
)

// chunk is messages in a row, for one answer.
type chunk struct {
	runs     []run
	messages int
	bytes    int   // of bodies
	next     place // after the last one
	full     bool  // it ends by its own rule, and not at the tail
}

// run is the messages [from, to) of a page.
type run struct {
	page     shard.RecordBatch
	from, to int
}

// collectors is how many chunks are collected at once. While what others hold is over its
// bound, they wait for room: so a crowd, each of whom reads another stream, holds no more
// than the bound and a chunk for each collector. Who waits for longer than roomTime is told to
// come back: nobody who takes what it gets is cut for a newcomer, however slow it is.
const (
	collectors = 128
	roomTime   = 20 * time.Second
)

// collect finds the messages from a place up to the tail that info tells, as far as a
// chunk goes. What it found is counted until drop. errCrowd: there is no room.
func (s *Server) collect(ctx context.Context, id shard.StreamID, info shard.Info, at place, fromStart bool) (c chunk, err error) {
	if err := s.turnToCollect(ctx); err != nil {
		return c, err
	}
	defer func() { <-s.collecting }()
	if c, err = s.find(ctx, id, info, at, fromStart); err == nil {
		s.chunks.count(c.runs, +1)
	}
	return c, err
}

// turnToCollect takes a place in collecting when there is one, and room.
func (s *Server) turnToCollect(ctx context.Context) error {
	select {
	case s.collecting <- struct{}{}:
		if !s.chunks.full() {
			return nil
		}
		<-s.collecting
	default:
	}
	s.m.waitRoom.Inc()
	defer s.m.waitRoom.Dec()
	ctx, cancel := context.WithTimeoutCause(ctx, roomTime, errCrowd)
	defer cancel()
	select {
	case s.collecting <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	err := s.chunks.await(ctx)
	if err != nil {
		<-s.collecting
	}
	return err
}

// drop lets go of what collect found, as far as it is not written.
func (s *Server) drop(c *chunk) { s.chunks.count(c.runs, -1) }

// shift lets go of the first run, which is written: a slow client holds what is to come.
func (s *Server) shift(c *chunk) {
	s.chunks.count(c.runs[:1], -1)
	c.runs[0] = run{}
	c.runs = c.runs[1:]
}

func (s *Server) find(ctx context.Context, id shard.StreamID, info shard.Info, at place, fromStart bool) (chunk, error) {
	c := chunk{next: at}
	for !c.full && !at.atEnd(info) {
		l := at.leg(id, info)
		page, err := s.streams.ReadPage(ctx, l.id, l.info, at.pos)
		var trimmed *shard.TrimmedError
		if errors.As(err, &trimmed) && fromStart && c.messages == 0 && trimmed.First > at.pos {
			at.pos = trimmed.First // the first that is kept
			at = at.normal(info.Start)
			c.next = at
			continue
		}
		if err != nil {
			return c, err
		}
		next := c.take(page, at.pos, l.info.Tail)
		if next > 0 {
			c.next = place{at.past, next}.normal(info.Start)
		}
		at.pos = max(at.pos, next, min(page.To(), l.info.Tail))
		at = at.normal(info.Start)
	}
	if !c.full {
		c.next = place{pos: max(at.pos, info.Tail)}
	}
	return c, nil
}

// take takes from a page what lies at or above pos and below tail, as far as the chunk
// goes; next is the position after the last message taken, 0 if there was none.
func (c *chunk) take(page shard.RecordBatch, pos, tail uint64) (next uint64) {
	r := run{page: page, from: page.Search(pos)}
	for r.to = r.from; r.to < page.Len(); r.to++ {
		m := page.Message(r.to)
		if m.Pos >= tail {
			break
		}
		if c.messages > 0 && (c.messages == chunkMessages || c.bytes+len(m.Body) > chunkBytes) {
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

// send answers 200 with a chunk, which it uses up; old: nobody knows whether there is more
// by now.
func (s *Server) send(w http.ResponseWriter, r *http.Request, info shard.Info, c *chunk, old bool) {
	h := w.Header()
	h.Set("Content-Type", stored(info.Type))
	h.Set(hNextOffset, c.next.offset(info))
	if c.next.atEnd(info) && !old {
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
	out := s.pacer(w, r)
	s.chunks.add(out)
	defer s.chunks.remove(out)
	if size > stallPiece { // what is less is a short turn by itself
		defer s.work(out, r)()
	}
	if err := write(c, out); err != nil {
		s.m.countCut(out, err) // or the client is gone
		return
	}
	s.m.deliveries.Add(float64(c.messages))
	s.m.delivered.Add(float64(size))
}

// writeBodies writes the messages one after the other.
func (s *Server) writeBodies(c *chunk, out *pacer) error {
	for ; len(c.runs) > 0; s.shift(c) {
		r := c.runs[0]
		if err := out.write(r.page.Bodies(r.from, r.to)); err != nil {
			return err
		}
	}
	return nil
}

// An array is laid out to be written by arrayPiece in one call; if arrayWriters are at
// that already, by arrayLeast: a crowd that catches up shares pages, but not this room.
const (
	arrayPiece   = 256 << 10
	arrayLeast   = 16 << 10
	arrayWriters = 256
)

var (
	arrayPieces = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, arrayPiece) }}
	arrayLeasts = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, arrayLeast) }}
)

// writeArray writes the messages as one JSON array.
func (s *Server) writeArray(c *chunk, out *pacer) error {
	rooms := &arrayLeasts
	select {
	case s.arrays <- struct{}{}:
		defer func() { <-s.arrays }()
		rooms = &arrayPieces
	default:
	}
	b, _ := rooms.Get().(*bufio.Writer)
	defer rooms.Put(b)
	s.chunks.hold(int64(b.Size()))
	defer s.chunks.hold(-int64(b.Size()))
	defer b.Reset(nil)
	b.Reset(out)
	_ = b.WriteByte('[') // what goes wrong in any of these, Flush tells
	for sep := ""; len(c.runs) > 0; s.shift(c) {
		for i := c.runs[0].from; i < c.runs[0].to; i++ {
			_, _ = b.WriteString(sep)
			_, _ = b.Write(c.runs[0].page.Message(i).Body)
			sep = ","
		}
	}
	_ = b.WriteByte(']')
	return b.Flush()
}
