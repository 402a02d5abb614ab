package reactor

import "iter"

// connTable holds the connections of a loop in rows of connsPerRow, so that readers that disconnect
// while many others connect leave no holes between those on the heap. Slots are used again. Rows stay
// for the life of the loop: 264 bytes for each of the most readers that it ever had together.
type connTable struct {
	rows []*[connsPerRow]conn
	free []uint32
	used int
}

const connsPerRow = 64

// connRef names a connection that may be closed by now; gen changes with each use of the slot.
type connRef struct{ slot, gen uint32 }

// allocate returns a free slot, cleared but for its connRef.
func (s *connTable) allocate() *conn {
	if len(s.free) == 0 {
		first := uint32(len(s.rows) * connsPerRow)
		row := &[connsPerRow]conn{}
		for i := range row {
			row[i].connRef, row[i].state = connRef{slot: first + uint32(i)}, connClosed
			s.free = append(s.free, first+connsPerRow-1-uint32(i))
		}
		s.rows = append(s.rows, row)
	}
	last := len(s.free) - 1
	r := s.at(s.free[last])
	s.free, s.used = s.free[:last], s.used+1
	*r = conn{connRef: r.connRef}
	return r
}

// release frees a slot: lookup finds nothing by its old connRef.
func (s *connTable) release(r *conn) {
	*r = conn{connRef: connRef{r.slot, r.gen + 1}, state: connClosed}
	s.free, s.used = append(s.free, r.slot), s.used-1
}

func (s *connTable) at(slot uint32) *conn { return &s.rows[slot/connsPerRow][slot%connsPerRow] }

// lookup returns the connection, or nil if it is closed.
func (s *connTable) lookup(f connRef) *conn {
	if int(f.slot) < len(s.rows)*connsPerRow {
		if r := s.at(f.slot); r.gen == f.gen && r.state != connClosed {
			return r
		}
	}
	return nil
}

// all yields every connection; the caller may close connections meanwhile.
func (s *connTable) all() iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for _, row := range s.rows {
			for i := range row {
				if row[i].state != connClosed && !yield(&row[i]) {
					return
				}
			}
		}
	}
}
