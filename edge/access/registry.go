package access

import (
	"errors"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

// row stands for an issuer, a project or a key as a lease refers to it: by its number. A change
// of rights ends the row and begins another, so that leases under the older one are told apart.
type row struct {
	number uint16
	name   string
	hash   uint64        // of the name, seeded
	gone   atomic.Uint32 // the second in which it ended; 0: it holds
}

// ended returns the second in which the row ended, 0 if it holds. No row holds forever.
func (r *row) ended() uint32 {
	if r == nil {
		return 0
	}
	return r.gone.Load()
}

// rowReuse is the time after which the number of an ended row is given to another row: no lease
// lives for that long after its row has ended.
const rowReuse = 3600

// table numbers rows from 1 on. Readers take no lock.
type table struct {
	mu   sync.Mutex
	rows atomic.Pointer[[]*row]
}

var errTableFull = errors.New("there are more than 65,535 of a kind")

// add appends a row, or puts it in the place of a row that ended long before.
func (t *table) add(name string, hash uint64, now uint32) (*row, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := []*row{nil}
	if old := t.rows.Load(); old != nil {
		rows = append(make([]*row, 0, len(*old)+1), *old...)
	}
	number := len(rows)
	for i, r := range rows {
		if gone := r.ended(); gone != 0 && gone+rowReuse < now {
			number = i
			break
		}
	}
	if number > 1<<16-1 {
		return nil, errTableFull
	}
	r := &row{number: uint16(number), name: name, hash: hash} //nolint:gosec // bounded above
	if number == len(rows) {
		rows = append(rows, r)
	} else {
		rows[number] = r
	}
	t.rows.Store(&rows)
	return r, nil
}

// at returns the row of a number; nil for 0.
func (t *table) at(number uint16) *row {
	rows := t.rows.Load()
	if rows == nil || int(number) >= len(*rows) {
		return nil
	}
	return (*rows)[number]
}

// registry holds the rows of one process, and the seed of the hashes in leases.
type registry struct {
	seed                    maphash.Seed
	issuers, projects, keys table
}

func newRegistry() *registry { return &registry{seed: maphash.MakeSeed()} }

// hash returns the seeded hash of a string; 0 for the empty one alone.
func (r *registry) hash(s string) uint64 {
	if s == "" {
		return 0
	}
	return max(1, maphash.String(r.seed, s))
}

// mix joins two hashes. The order counts.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^0x9e3779b97f4a7c15, bits.RotateLeft64(b, 32)^0xd6e8feb86659fd93)
	return hi ^ lo
}

// changes counts what may end open readers: revocations, keys that are withdrawn, and changes of
// the file. Raise comes after the change itself, so a reader of the count sees what it counts.
type changes struct {
	count atomic.Uint32
	mu    sync.Mutex
	next  chan struct{} // closed at the next change, and replaced
}

func newChanges() *changes { return &changes{next: make(chan struct{})} }

func (c *changes) raise() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.Add(1)
	close(c.next)
	c.next = make(chan struct{})
}

func (c *changes) changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}
