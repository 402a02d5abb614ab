package edge

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// fork reads what a PUT says of a stream that it forks, and finds out about that
// (PROTOCOL 4.2).
func (s *Server) fork(r *http.Request, req *shard.Request) error {
	h := r.Header
	if !has(h, hForkedFrom) {
		if has(h, hForkOffset) || has(h, hForkSub) {
			return badHeader(hForkedFrom, "is needed with an offset or a sub-offset")
		}
		return nil
	}
	source, err := parseName(h.Get(hForkedFrom))
	if err != nil {
		return badHeader(hForkedFrom, "want the path of a stream: "+err.Error())
	}
	if source.Project() != req.Stream.Project() {
		return errForkProject
	}
	at := offset{kind: offsetNow}
	if has(h, hForkOffset) {
		if at, err = parseOffset(h.Get(hForkOffset)); err != nil {
			return badHeader(hForkOffset, err.Error())
		}
	}
	var sub uint64
	if v := h.Get(hForkSub); has(h, hForkSub) {
		if sub, err = integer(h, hForkSub); err != nil || len(v) > 1 && v[0] == '0' {
			return badHeader(hForkSub, "want digits, without sign or leading zero")
		}
	}
	req.Fork = &shard.Fork{Source: source, Offset: at.String(), SubOffset: sub}
	return s.source(r.Context(), req, at)
}

// String is an offset in one spelling; empty: the tail, as if none were given.
func (o offset) String() string {
	switch o.kind {
	case offsetStart:
		return "-1"
	case offsetMinted:
		return formatOffset(o.life, o.pos)
	case offsetBare:
		return strconv.FormatUint(o.pos, 10)
	default:
		return ""
	}
}

// source finds out what a fork needs to know of its source: what it inherits, or
// why it cannot. A sub-offset that ends inside a message makes that part of it the
// fork's own first message.
func (s *Server) source(ctx context.Context, req *shard.Request, at offset) error {
	id := req.Fork.Source
	info, err := s.streams.Info(ctx, id, 0)
	if err != nil {
		return err
	}
	src := &shard.Source{}
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
	from, err := at.resolve(info)
	if err != nil {
		return refuse(shard.CodeForkOffset, err.Error())
	}
	if len(from.past) == 0 { // what stands above the tail may come to be seen later
		from.pos = min(from.pos, info.Tail)
	}
	from, prefix, err := s.refine(ctx, id, info, from, req.Fork.SubOffset)
	switch {
	case errors.Is(err, errSub):
		return refuse(shard.CodeForkOffset, err.Error())
	case err != nil:
		return err
	case len(prefix) > 0:
		if !s.copies.AllowN(time.Now(), min(len(prefix), copyBurst)) {
			return shard.ErrOverloaded
		}
		req.Messages = shard.NewMessages(prefix)
	}
	src.Chain = ancestry(id, info, from)
	return nil
}

// A sub-offset inside a message has the node write that part of it once more: up to a whole
// body for a request of a few hundred bytes. They count among what writes hold, and
// a node copies so many a second; ErrOverloaded beyond.
const (
	copyPerSecond = 2 << 20
	copyBurst     = 2 * shard.MaxBody
)

// errForkProject: a fork reads its source and keeps it from being deleted, so without rights
// to grant it stays within its project.
var errForkProject = errors.New("a fork and its source have to be in the same project")

var errSub = errors.New("the sub-offset lies beyond the next message")

// refine moves a place on by a sub-offset: so many messages of a JSON stream, or
// bytes of the next message of another. prefix is the part of a message that lies
// before it.
func (s *Server) refine(
	ctx context.Context, id shard.StreamID, info shard.Info, at place, sub uint64,
) (_ place, prefix []byte, err error) {
	isJSON := shard.IsJSON(info.Type)
	if isJSON && sub > shard.MaxMessages {
		return at, nil, errSub // an append has no more
	}
	var near page
	for sub > 0 {
		m, next, err := s.message(ctx, id, info, at, &near)
		switch {
		case err != nil:
			return at, nil, err
		case isJSON:
			sub--
		case sub < uint64(len(m)):
			return at, m[:sub], nil
		case sub > uint64(len(m)):
			return at, nil, errSub
		default:
			sub = 0
		}
		at = next
	}
	return at, nil, nil
}

// page is what was read last of a stream, and how many legs were ahead there.
type page struct {
	shard.RecordBatch
	past int
}

func (p *page) holds(at place) bool {
	return !p.IsZero() && p.past == len(at.past) && p.From() <= at.pos && at.pos < p.To()
}

// message is the next message at a place, and the place after it. errSub: there
// is none. near is the page that the last call read.
func (s *Server) message(
	ctx context.Context, id shard.StreamID, info shard.Info, at place, near *page,
) ([]byte, place, error) {
	for !at.atEnd(info) {
		if !near.holds(at) {
			l := at.leg(id, info)
			r, err := s.streams.ReadPage(ctx, l.id, l.info, at.pos)
			if err != nil {
				return nil, at, err
			}
			*near = page{r, len(at.past)}
		}
		if i := near.Search(at.pos); i < near.Len() {
			m := near.Message(i)
			at.pos = m.Next
			return m.Body, at.normal(info.Start), nil
		}
		at.pos = max(at.pos, near.To())
		at = at.normal(info.Start)
	}
	return nil, at, errSub
}
