package position

import "github.com/fantail-dev/fantail/shard"

// Segment is a range of positions in one log that belongs to a stream: what it inherited from an
// ancestor, or its own log. Its info holds what ReadPage has to know of an inherited segment: the
// ancestor's generation, where the segment starts, and its bound as the tail. It is made by
// InheritedSegments and does not describe the ancestor itself.
type Segment struct {
	ID   shard.StreamID
	Info shard.Info
}

// Position names a place in a stream: in the first of the inherited segments that a reader
// has not read to the end, or, without any, in the stream's own log.
type Position struct {
	Inherited []Segment
	Pos       shard.Pos // in the log of that segment
}

// InheritedSegments returns what a stream inherited from others, oldest first. A segment may be empty.
func InheritedSegments(info shard.Info) []Segment {
	var out []Segment
	for _, a := range info.Chain {
		if a.Stream == "" { // its own log: an earlier generation that offsets may name, not a segment
			continue
		}
		out = append(out, Segment{a.Stream, shard.Info{
			Exists: true, Generation: a.Generation, Start: a.Start, Tail: a.Bound, LogTail: a.Bound, Type: info.Type,
		}})
	}
	return out
}

// SkipReadSegments returns the same position without the segments that are read to their ends.
// The stream's own log begins at start.
func (p Position) SkipReadSegments(start shard.Pos) Position {
	for len(p.Inherited) > 0 && p.Pos >= p.Inherited[0].Info.Tail {
		p.Inherited, p.Pos = p.Inherited[1:], start
		if len(p.Inherited) > 0 {
			p.Pos = p.Inherited[0].Info.Start
		}
	}
	return p
}

// CurrentSegment returns the segment that holds the position, in the stream that info describes.
func (p Position) CurrentSegment(id shard.StreamID, info shard.Info) Segment {
	if len(p.Inherited) > 0 {
		return p.Inherited[0]
	}
	return Segment{id, info}
}

// AtEnd reports whether the stream has nothing at or above the position.
func (p Position) AtEnd(info shard.Info) bool { return len(p.Inherited) == 0 && p.Pos >= info.Tail }

// OwnLogStart returns the position at which the reader enters the stream's own log.
func (p Position) OwnLogStart(info shard.Info) shard.Pos {
	if len(p.Inherited) > 0 {
		return info.Start
	}
	return p.Pos
}

// OffsetString returns the offset that clients are shown for the position.
func (p Position) OffsetString(info shard.Info) string {
	return FormatOffset(p.CurrentSegment("", info).Info.Generation, p.Pos)
}

// AncestorsAt returns the chain of a fork of stream id, which info describes, at a position.
func AncestorsAt(id shard.StreamID, info shard.Info, at Position) []shard.Ancestor {
	whole := len(InheritedSegments(info)) - len(at.Inherited)
	var chain []shard.Ancestor
	for _, a := range info.Chain {
		switch {
		case a.Stream == "":
			continue
		case len(chain) == whole:
			a.Bound = at.Pos
			return append(chain, a)
		}
		chain = append(chain, a)
	}
	start := info.Start
	for _, a := range info.Chain {
		if a.Stream == "" {
			bound := min(a.Bound, at.Pos)
			chain = append(chain, shard.Ancestor{Stream: id, Generation: a.Generation, Start: a.Start, Bound: bound})
			start = bound
		}
	}
	return append(chain, shard.Ancestor{Stream: id, Generation: info.Generation, Start: start, Bound: at.Pos})
}
