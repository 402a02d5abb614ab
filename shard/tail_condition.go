package shard

// Place is a place in a stream, as an offset names it: a position of a generation. The zero Place is
// the stream's start.
type Place struct {
	Generation Generation
	Pos        Pos
}

// TailCondition is the condition of an append that is to be written only while the stream ends at one
// of its places. No place meets it if it has none.
type TailCondition struct {
	// Places are at most MaxTailPlaces.
	Places []Place
}

// MaxTailPlaces is the largest number of places of a TailCondition.
const MaxTailPlaces = 16

// holds reports whether a stream ends at one of the places.
func (c *TailCondition) holds(s *State) bool {
	for _, p := range c.Places {
		if s.endsAt(p) {
			return true
		}
	}
	return false
}

// endsAt reports whether readers see nothing at or above a place of the stream. Records that readers
// never see may follow the visible tail, and a reader may be told the place after them.
func (s *State) endsAt(p Place) bool {
	switch {
	case p == Place{}:
		return s.tail == s.start && s.inheritsNothingFrom(0)
	case p.Generation == s.generation:
		return s.tail <= p.Pos && p.Pos <= s.Next
	}
	for i, a := range s.chain {
		switch {
		case a.Generation != p.Generation:
		case a.Stream == "": // the stream's own log, before the generation began
			if s.tail <= p.Pos && p.Pos <= a.Bound {
				return true
			}
		case p.Pos == a.Bound && s.tail == s.start && s.inheritsNothingFrom(i+1):
			return true
		}
	}
	return false
}

// inheritsNothingFrom reports whether the ancestors from the i-th on have no records for the stream.
func (s *State) inheritsNothingFrom(i int) bool {
	for _, a := range s.chain[i:] {
		if a.Stream != "" && a.Start < a.Bound {
			return false
		}
	}
	return true
}
