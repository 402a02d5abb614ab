package edge

import (
	"slices"

	"github.com/fantail-dev/fantail/shard"
)

// leg is a run of positions in one log that belongs to a stream: what it inherited
// from an ancestor. info is what ReadPage has to know: the ancestor's life, where
// the leg starts, and its bound as the tail.
type leg struct {
	id   shard.StreamID
	info shard.Info
}

// place is where a reader stands: in the first of the inherited legs that are
// still before it, or, without any, in the stream's own log.
type place struct {
	past []leg
	pos  uint64 // in the log of that leg
}

// legs are what a stream inherited from others, oldest first. A leg may be empty.
func legs(info shard.Info) []leg {
	var out []leg
	for _, a := range info.Chain {
		if a.Stream == "" { // its own log: not a leg, only a life that offsets may name
			continue
		}
		out = append(out, leg{a.Stream, shard.Info{
			Exists: true, Generation: a.Generation, Start: a.Start, Tail: a.Bound, LogTail: a.Bound, Type: info.Type,
		}})
	}
	return out
}

// first is where a stream starts.
func first(info shard.Info) place {
	if past := legs(info); len(past) > 0 {
		return place{past, past[0].info.Start}.normal(info.Start)
	}
	return place{pos: info.Start}
}

// normal is the same place, past the legs that are read to their ends. start is
// where the stream's own log starts.
func (p place) normal(start uint64) place {
	for len(p.past) > 0 && p.pos >= p.past[0].info.Tail {
		p.past, p.pos = p.past[1:], start
		if len(p.past) > 0 {
			p.pos = p.past[0].info.Start
		}
	}
	return p
}

// leg is the log in which the place lies, of a stream that info describes.
func (p place) leg(id shard.StreamID, info shard.Info) leg {
	if len(p.past) > 0 {
		return p.past[0]
	}
	return leg{id, info}
}

// atEnd reports whether nothing of the stream stands at or above the place.
func (p place) atEnd(info shard.Info) bool { return len(p.past) == 0 && p.pos >= info.Tail }

// own is where the reader enters the stream's own log.
func (p place) own(info shard.Info) uint64 {
	if len(p.past) > 0 {
		return info.Start
	}
	return p.pos
}

func (p place) offset(info shard.Info) string {
	return formatOffset(p.leg("", info).info.Generation, p.pos)
}

// inherited finds the place that an offset of another life names in a stream.
func inherited(life, pos uint64, info shard.Info) (place, bool, error) {
	past := legs(info)
	i := slices.IndexFunc(past, func(l leg) bool { return l.info.Generation == life })
	switch {
	case i < 0:
		return place{}, false, nil
	case pos > past[i].info.Tail:
		return place{}, true, errOffsetBeyond
	}
	// A life that began in a log which others had written to has offsets for what they
	// wrote as well.
	for pos < past[i].info.Start && i > 0 && past[i-1].id == past[i].id {
		i--
	}
	return place{past[i:], max(pos, past[i].info.Start)}.normal(info.Start), true, nil
}

// ancestry is the chain of a fork of stream id, which info describes, at a place.
func ancestry(id shard.StreamID, info shard.Info, at place) []shard.Ancestor {
	whole := len(legs(info)) - len(at.past)
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
