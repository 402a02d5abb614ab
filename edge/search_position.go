package edge

import (
	"context"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// searchPosition returns the position that an offset of OffsetTail or OffsetTime names in a stream. It
// waits for a load slot, because a search may read as much as a chunk.
func (s *Server) searchPosition(ctx context.Context, id shard.StreamID, info shard.Info, o position.Offset) (position.Position, error) {
	if err := s.acquireLoadSlot(ctx); err != nil {
		return position.Position{}, err
	}
	defer func() { <-s.loadSlots }()
	segments := append(position.InheritedSegments(info), position.Segment{ID: id, Info: info})
	if o.Kind == position.OffsetTime {
		return s.positionSince(ctx, segments, o.Since)
	}
	return s.positionFromEnd(ctx, segments, o.Count)
}

// positionSince returns the position of the first message of a time or later in a stream of these
// segments, or the end. What a segment holds is not later than what the next one holds, so a binary
// search finds the first segment with such a message: of 65 it asks 8 at the most, and mostly one.
func (s *Server) positionSince(ctx context.Context, segments []position.Segment, since shard.Millis) (position.Position, error) {
	own := len(segments) - 1
	pos, err := s.findTime(ctx, segments[own], since)
	if err != nil || pos > segments[own].Info.Start {
		return position.Position{Pos: pos}, err
	}
	found := position.Position{Pos: pos}
	var filled []int // the inherited segments that are not empty
	for i, seg := range segments[:own] {
		if seg.Info.Start < seg.Info.Tail {
			filled = append(filled, i)
		}
	}
	for len(filled) > 0 {
		half := len(filled) / 2
		i := filled[half]
		if pos, err = s.findTime(ctx, segments[i], since); err != nil {
			return position.Position{}, err
		}
		if pos == segments[i].Info.Tail {
			filled = filled[half+1:]
			continue
		}
		found, filled = position.Position{Inherited: segments[i:own], Pos: pos}, filled[:half]
		if pos > segments[i].Info.Start {
			break
		}
	}
	return found, nil
}

// findTime returns the first position of a segment from which on messages have a time or a later one.
func (s *Server) findTime(ctx context.Context, seg position.Segment, since shard.Millis) (shard.Pos, error) {
	return s.streams.FindTime(ctx, seg.ID, seg.Info, since)
}
