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

// allocate returns a free slot, cleared but for its connRef.
func (t *connTable) allocate() *conn {
	if len(t.free) == 0 {
		first := uint32(len(t.rows) * connsPerRow)
		row := &[connsPerRow]conn{}
		for i := range row {
			row[i].connRef, row[i].state = connRef{slot: first + uint32(i)}, connClosed
			t.free = append(t.free, first+connsPerRow-1-uint32(i))
		}
		t.rows = append(t.rows, row)
	}
	last := len(t.free) - 1
	c := t.at(t.free[last])
	t.free, t.used = t.free[:last], t.used+1
	*c = conn{connRef: c.connRef}
	return c
}

// release frees a slot: lookup finds nothing by its old connRef.
func (t *connTable) release(c *conn) {
	*c = conn{connRef: connRef{c.slot, c.gen + 1}, state: connClosed}
	t.free, t.used = append(t.free, c.slot), t.used-1
}

func (t *connTable) at(slot uint32) *conn { return &t.rows[slot/connsPerRow][slot%connsPerRow] }

// lookup returns the connection, or nil if it is closed.
func (t *connTable) lookup(f connRef) *conn {
	if int(f.slot) < len(t.rows)*connsPerRow {
		if c := t.at(f.slot); c.gen == f.gen && c.state != connClosed {
			return c
		}
	}
	return nil
}

// all yields every connection; the caller may close connections meanwhile.
func (t *connTable) all() iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for _, row := range t.rows {
			for i := range row {
				if row[i].state != connClosed && !yield(&row[i]) {
					return
				}
			}
		}
	}
}
