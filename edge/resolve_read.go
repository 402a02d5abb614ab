package edge

import (
	"context"
	"errors"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// resolveRead returns the stream's Info and the position that the query names in it. A live
// read that names a position may use this node's own tail buffer. If that does not know the
// position yet, resolveRead asks the owner, and finally storage, because there may be two owners.
// While storage does not answer, catch-up is served from what is known; such an answer does
// not claim to be up to date.
func (s *Server) resolveRead(ctx context.Context, id shard.StreamID, q *query) (shard.Info, position.Position, error) {
	ask := shard.InfoTouch
	if q.live != "" && !q.at.IsRelative() {
		ask |= shard.InfoAllowCached
	}
	if q.live != "" {
		ask |= shard.InfoWillFollow
	}
	for {
		info, err := s.streams.Info(ctx, id, ask)
		var at position.Position
		if err == nil {
			err = info.Absent()
		}
		if err == nil {
			at, err = s.resolveOffset(ctx, id, info, q.at)
		}
		switch {
		case errors.Is(err, shard.ErrStoreDown) && q.live == "" && !q.at.IsRelative() && !q.staleInfo:
			q.staleInfo, ask = true, shard.InfoAllowCached
		case q.staleInfo && newerInfoMayHelp(err):
			return info, at, shard.ErrStoreDown
		case ask&shard.InfoRequireFresh != 0 || info.Checked || !newerInfoMayHelp(err):
			return info, at, err
		case ask&shard.InfoAllowCached != 0:
			ask &^= shard.InfoAllowCached
		default:
			ask |= shard.InfoRequireFresh
		}
	}
}

// resolveOffset returns the position that an offset names in a stream, which info describes.
func (s *Server) resolveOffset(ctx context.Context, id shard.StreamID, info shard.Info, o position.Offset) (position.Position, error) {
	if o.IsSearched() {
		return s.searchPosition(ctx, id, info, o)
	}
	return o.Resolve(info)
}

// newerInfoMayHelp reports whether newer information could make the error go away.
func newerInfoMayHelp(err error) bool {
	return shard.IsAbsent(err) ||
		errors.Is(err, position.ErrBeyond) || errors.Is(err, position.ErrGone)
}
