package edge

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// parseFork reads the fork headers of a PUT and inspects the source (PROTOCOL 4.2).
func (s *Server) parseFork(r *http.Request, req *shard.Request) error {
	h := r.Header
	if !hasHeader(h, hForkedFrom) {
		if hasHeader(h, hForkOffset) || hasHeader(h, hForkSub) {
			return badHeader(hForkedFrom, "is needed with an offset or a sub-offset")
		}
		return nil
	}
	source, err := s.roots.parseStreamPath(h.Get(hForkedFrom))
	if err != nil {
		return badHeader(hForkedFrom, "want the path of a stream: "+err.Error())
	}
	if source.Project() != req.Stream.Project() {
		return errForkProject
	}
	at := position.Offset{Kind: position.OffsetNow}
	if hasHeader(h, hForkOffset) {
		if at, err = position.ParseOffset(h.Get(hForkOffset)); err != nil {
			return badHeader(hForkOffset, err.Error())
		}
	}
	var sub uint64
	if v := h.Get(hForkSub); hasHeader(h, hForkSub) {
		if sub, err = parseInteger(h, hForkSub); err != nil || len(v) > 1 && v[0] == '0' {
			return badHeader(hForkSub, "want digits, without sign or leading zero")
		}
	}
	req.Fork = &shard.Fork{Source: source, Offset: at.String(), SubOffset: sub}
	return s.inspectSource(r.Context(), req, at)
}

// inspectSource finds out what a fork inherits from its source, or why it cannot be made.
// A sub-offset that ends inside a message makes the part before it the fork's own first message.
func (s *Server) inspectSource(ctx context.Context, req *shard.Request, at position.Offset) error {
	id := req.Fork.Source
	info, err := s.streams.Info(ctx, id, 0)
	if err != nil {
		return err
	}
	src := &shard.ForkSource{}
	req.Source, req.Messages = src, shard.Messages{}
	refuse := func(c shard.Code, why string) error {
		src.Refused, src.Why = c, why
		return nil
	}
	switch {
	case info.Gone:
		return refuse(shard.CodeSourceGone, "the source was deleted")
	case !info.Exists:
		return refuse(shard.CodeSourceMissing, "no such source")
	case req.Type != "" && shard.MediaType(req.Type) != shard.MediaType(info.Type):
		return refuse(shard.CodeSourceType, "the source's type is "+info.Type)
	}
	src.Generation, src.Type = info.Generation, info.Type
	src.HasTTL, src.TTL = info.HasTTL, info.TTL
	src.Expires, src.ExpiresRaw = info.Expires, info.ExpiresRaw
	from, err := at.Resolve(info)
	if err != nil {
		return refuse(shard.CodeForkOffset, err.Error())
	}
	if len(from.Inherited) == 0 { // records above the tail may become visible later
		from.Pos = min(from.Pos, info.Tail)
	}
	from, prefix, err := s.applySubOffset(ctx, id, info, from, req.Fork.SubOffset)
	switch {
	case errors.Is(err, errSubOffset):
		return refuse(shard.CodeForkOffset, err.Error())
	case err != nil:
		return err
	case len(prefix) > 0:
		if !s.forkCopyLimiter.AllowN(time.Now(), min(len(prefix), copyBurst)) {
			return shard.ErrOverloaded
		}
		req.Messages = shard.NewMessages(prefix)
	}
	src.Chain = position.AncestorsAt(id, info, from)
	return nil
}

// For a sub-offset inside a message the node writes a part of the message once more: up to a whole
// body for a request of a few hundred bytes. The copy is charged to the budget of writes, and a
// node copies at most copyPerSecond bytes; ErrOverloaded beyond.
const (
	copyPerSecond = 2 << 20
	copyBurst     = 2 * shard.MaxBody
)

var errSubOffset = errors.New("the sub-offset lies beyond the next message")

// applySubOffset moves a position on by a sub-offset: a number of messages of a JSON stream, or
// of bytes of the next message of another. prefix is the part of a message before the sub-offset.
func (s *Server) applySubOffset(
	ctx context.Context, id shard.StreamID, info shard.Info, at position.Position, sub uint64,
) (_ position.Position, prefix []byte, err error) {
	isJSON := shard.IsJSON(info.Type)
	if isJSON && sub > shard.MaxMessages {
		return at, nil, errSubOffset // an append has no more
	}
	var near lastPage
	for sub > 0 {
		m, next, err := s.nextMessage(ctx, id, info, at, &near)
		switch {
		case err != nil:
			return at, nil, err
		case isJSON:
			sub--
		case sub < uint64(len(m)):
			return at, m[:sub], nil
		case sub > uint64(len(m)):
			return at, nil, errSubOffset
		default:
			sub = 0
		}
		at = next
	}
	return at, nil, nil
}

// lastPage is the page of a stream that was read last, and the number of inherited segments that were
// not passed yet.
type lastPage struct {
	shard.RecordBatch
	inheritedLeft int
}

func (p *lastPage) contains(at position.Position) bool {
	return !p.IsZero() && p.inheritedLeft == len(at.Inherited) && p.From() <= at.Pos && at.Pos < p.To()
}

// nextMessage returns the next message at a position, and the position after it; errSubOffset if
// there is none. near is the page that the last call read.
func (s *Server) nextMessage(
	ctx context.Context, id shard.StreamID, info shard.Info, at position.Position, near *lastPage,
) ([]byte, position.Position, error) {
	for !at.AtEnd(info) {
		if !near.contains(at) {
			seg := at.CurrentSegment(id, info)
			batch, err := s.streams.ReadPage(ctx, seg.ID, seg.Info, at.Pos)
			if err != nil {
				return nil, at, err
			}
			*near = lastPage{batch, len(at.Inherited)}
		}
		if i := near.Search(at.Pos); i < near.Len() {
			m := near.Message(i)
			at.Pos = m.Next
			return m.Body, at.SkipReadSegments(info.Start), nil
		}
		at.Pos = max(at.Pos, near.To())
		at = at.SkipReadSegments(info.Start)
	}
	return nil, at, errSubOffset
}
