package edge

import (
	"slices"

	"github.com/fantail-dev/fantail/shard"
)

// segment is a range of positions in one log that belongs to a stream: what it inherited
// from an ancestor, or its own log. info is what ReadPage has to know of an inherited segment:
// the ancestor's generation, where the segment starts, and its bound as the tail. It is made by
// inheritedSegments and does not describe the ancestor itself.
type segment struct {
	id   shard.StreamID
	info shard.Info
}

// position names a place in a stream: in the first of the inherited segments that a reader
// has not read to the end, or, without any, in the stream's own log.
type position struct {
	inherited []segment
	pos       shard.Pos // in the log of that segment
}

// inheritedSegments returns what a stream inherited from others, oldest first. A segment may be empty.
func inheritedSegments(info shard.Info) []segment {
	var out []segment
	for _, a := range info.Chain {
		if a.Stream == "" { // its own log: an earlier generation that offsets may name, not a segment
			continue
		}
		out = append(out, segment{a.Stream, shard.Info{
			Exists: true, Generation: a.Generation, Start: a.Start, Tail: a.Bound, LogTail: a.Bound, Type: info.Type,
		}})
	}
	return out
}

// startPosition returns the position where a stream starts.
func startPosition(info shard.Info) position {
	if past := inheritedSegments(info); len(past) > 0 {
		return position{past, past[0].info.Start}.skipReadSegments(info.Start)
	}
	return position{pos: info.Start}
}

// skipReadSegments returns the same position without the segments that are read to their ends.
// start is where the stream's own log starts.
func (p position) skipReadSegments(start shard.Pos) position {
	for len(p.inherited) > 0 && p.pos >= p.inherited[0].info.Tail {
		p.inherited, p.pos = p.inherited[1:], start
		if len(p.inherited) > 0 {
			p.pos = p.inherited[0].info.Start
		}
	}
	return p
}

// currentSegment returns the segment that holds the position, in the stream that info describes.
func (p position) currentSegment(id shard.StreamID, info shard.Info) segment {
	if len(p.inherited) > 0 {
		return p.inherited[0]
	}
	return segment{id, info}
}

// atEnd reports whether the stream has nothing at or above the position.
func (p position) atEnd(info shard.Info) bool { return len(p.inherited) == 0 && p.pos >= info.Tail }

// ownLogStart returns the position at which the reader enters the stream's own log.
func (p position) ownLogStart(info shard.Info) shard.Pos {
	if len(p.inherited) > 0 {
		return info.Start
	}
	return p.pos
}

// offsetString returns the offset that clients are shown for the position.
func (p position) offsetString(info shard.Info) string {
	return formatOffset(p.currentSegment("", info).info.Generation, p.pos)
}

// inheritedPosition returns the position that an offset of another generation names in a
// stream; ok is false if the stream inherited nothing of that generation.
func inheritedPosition(generation shard.Generation, pos shard.Pos, info shard.Info) (position, bool, error) {
	past := inheritedSegments(info)
	i := slices.IndexFunc(past, func(l segment) bool { return l.info.Generation == generation })
	switch {
	case i < 0:
		return position{}, false, nil
	case pos > past[i].info.Tail:
		return position{}, true, errOffsetBeyond
	}
	// A generation that began in a log with earlier records has offsets for those records, too.
	for pos < past[i].info.Start && i > 0 && past[i-1].id == past[i].id {
		i--
	}
	return position{past[i:], max(pos, past[i].info.Start)}.skipReadSegments(info.Start), true, nil
}

// ancestorsAt returns the chain of a fork of stream id, which info describes, at a position.
func ancestorsAt(id shard.StreamID, info shard.Info, at position) []shard.Ancestor {
	whole := len(inheritedSegments(info)) - len(at.inherited)
	var chain []shard.Ancestor
	for _, a := range info.Chain {
		switch {
		case a.Stream == "":
			continue
		case len(chain) == whole:
			a.Bound = at.pos
			return append(chain, a)
		}
		chain = append(chain, a)
	}
	start := info.Start
	for _, a := range info.Chain {
		if a.Stream == "" {
			bound := min(a.Bound, at.pos)
			chain = append(chain, shard.Ancestor{Stream: id, Generation: a.Generation, Start: a.Start, Bound: bound})
			start = bound
		}
	}
	return append(chain, shard.Ancestor{Stream: id, Generation: info.Generation, Start: start, Bound: at.pos})
}
