package position

import (
	"slices"

	"github.com/fantail-dev/fantail/shard"
)

// Resolve returns the position that an offset names in a stream. Both of its errors depend on
// info: with an old info, get a newer one before believing them.
func (o Offset) Resolve(info shard.Info) (Position, error) {
	switch o.Kind {
	case OffsetStart:
		return startPosition(info), nil
	case OffsetNow:
		return Position{Pos: info.Tail}, nil
	case OffsetNumber:
		o.Generation = info.Generation
	}
	if o.Generation == info.Generation {
		if o.Pos > info.LogTail {
			return Position{}, ErrBeyond
		}
		return Position{Pos: max(o.Pos, info.Start)}, nil
	}
	if at, ok, err := inheritedPosition(o.Generation, o.Pos, info); ok {
		return at, err
	}
	for _, a := range info.Chain {
		if a.Generation == o.Generation && a.Stream == "" && o.Pos <= a.Bound {
			return Position{Pos: o.Pos}, nil
		}
	}
	if o.Generation > info.Generation && !info.Truncated {
		return Position{}, ErrBeyond
	}
	return Position{}, ErrGone
}

// startPosition returns the position where a stream starts.
func startPosition(info shard.Info) Position {
	if past := InheritedSegments(info); len(past) > 0 {
		return Position{past, past[0].Info.Start}.SkipReadSegments(info.Start)
	}
	return Position{Pos: info.Start}
}

// inheritedPosition returns the position that an offset of another generation names in a
// stream; ok is false if the stream inherited nothing of that generation.
func inheritedPosition(generation shard.Generation, pos shard.Pos, info shard.Info) (Position, bool, error) {
	past := InheritedSegments(info)
	i := slices.IndexFunc(past, func(l Segment) bool { return l.Info.Generation == generation })
	switch {
	case i < 0:
		return Position{}, false, nil
	case pos > past[i].Info.Tail:
		return Position{}, true, ErrBeyond
	}
	// A generation that began in a log with earlier records has offsets for those records, too.
	for pos < past[i].Info.Start && i > 0 && past[i-1].ID == past[i].ID {
		i--
	}
	return Position{past[i:], max(pos, past[i].Info.Start)}.SkipReadSegments(info.Start), true, nil
}
