package edge

import "iter"

// seats is the connections of a loop, in rows: one next to the other, so that those who
// came and went while many came leave no holes in the heap between them. A seat is used
// again; rows stay for as long as the loop does, 264 bytes for each of the most readers
// that there ever were.
type seats struct {
	rows  []*[rowSeats]conn
	free  []uint32
	taken int
}

const rowSeats = 64

// ref names a connection that may be gone.
type ref struct{ slot, gen uint32 }

// take is a free seat, cleared but for its ref.
func (s *seats) take() *conn {
	if len(s.free) == 0 {
		first := uint32(len(s.rows) * rowSeats)
		row := &[rowSeats]conn{}
		for i := range row {
			row[i].ref, row[i].state = ref{slot: first + uint32(i)}, connGone
			s.free = append(s.free, first+rowSeats-1-uint32(i))
		}
		s.rows = append(s.rows, row)
	}
	last := len(s.free) - 1
	r := s.at(s.free[last])
	s.free, s.taken = s.free[:last], s.taken+1
	*r = conn{ref: r.ref}
	return r
}

// leave makes a seat free: no ref that was taken of it finds anybody.
func (s *seats) leave(r *conn) {
	*r = conn{ref: ref{r.slot, r.gen + 1}, state: connGone}
	s.free, s.taken = append(s.free, r.slot), s.taken-1
}

func (s *seats) at(slot uint32) *conn { return &s.rows[slot/rowSeats][slot%rowSeats] }

// lookup is the connection, if it is still there.
func (s *seats) lookup(f ref) *conn {
	if int(f.slot) < len(s.rows)*rowSeats {
		if r := s.at(f.slot); r.gen == f.gen && r.state != connGone {
			return r
		}
	}
	return nil
}

// all is every connection; they may leave meanwhile.
func (s *seats) all() iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for _, row := range s.rows {
			for i := range row {
				if row[i].state != connGone && !yield(&row[i]) {
					return
				}
			}
		}
	}
}
