package edge

import "iter"

// connTable holds the connections of a loop in rows, one next to the other, so that readers
// that came and went while many came leave no holes in the heap between them. A seat is used
// again; rows stay for as long as the loop does, 264 bytes for each of the most readers
// that there ever were.
type connTable struct {
	rows []*[connsPerRow]conn
	free []uint32
	used int
}

const connsPerRow = 64

// connRef names a connection that may be gone.
type connRef struct{ slot, gen uint32 }

// allocate is a free seat, cleared but for its ref.
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

// release frees a seat: no ref that was taken of it finds a reader.
func (s *connTable) release(r *conn) {
	*r = conn{connRef: connRef{r.slot, r.gen + 1}, state: connClosed}
	s.free, s.used = append(s.free, r.slot), s.used-1
}

func (s *connTable) at(slot uint32) *conn { return &s.rows[slot/connsPerRow][slot%connsPerRow] }

// lookup is the connection, if it is still there.
func (s *connTable) lookup(f connRef) *conn {
	if int(f.slot) < len(s.rows)*connsPerRow {
		if r := s.at(f.slot); r.gen == f.gen && r.state != connClosed {
			return r
		}
	}
	return nil
}

// all is every connection; they may leave meanwhile.
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
