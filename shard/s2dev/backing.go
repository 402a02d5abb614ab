package s2dev

import (
	"errors"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// errFull is an append refused because MaxBytes is reached.
var errFull = errors.New("s2dev: memory is full")

// head is what a stream remembers beside its records; it is written with every append.
type head struct {
	next    position
	arrived uint64 // the last record's arrival, milliseconds since 1970
	trim    uint64 // the first sequence number that is kept
	fence   string
}

// streamMeta is a stream's row in the catalogue.
type streamMeta struct {
	ID      uint64       `json:"id"`
	Basin   string       `json:"basin"`
	Name    string       `json:"name"`
	Config  streamConfig `json:"config"`
	Cipher  *string      `json:"cipher"`
	Created time.Time    `json:"created"`
	Key     string       `json:"key,omitempty"` // request token and configuration of its creation
}

// basinMeta is a basin's row in the catalogue.
type basinMeta struct {
	Name    string      `json:"name"`
	Config  basinConfig `json:"config"`
	Created time.Time   `json:"created"`
	Key     string      `json:"key,omitempty"`
}

// backing keeps the catalogue and the records. Changes of the catalogue are durable when the call
// returns.
type backing interface {
	load() ([]basinMeta, []streamMeta, error)
	putBasin(basinMeta) error
	dropBasin(name string) error
	putStream(streamMeta) error
	// dropStream takes the row away at once and the records in the background; an id is never
	// used again.
	dropStream(streamMeta) error
	newID() (uint64, error)
	log(id uint64) (recordLog, head, error)
	close() error
}

// recordLog is one stream's records.
type recordLog interface {
	// begin orders the batch (the caller holds the stream's lock) and returns the wait for its
	// durability. onlyCmds passes a full memory.
	begin(recs []record, h head, onlyCmds bool) (wait func() error, err error)
	// read returns up to count records and about bytes metered bytes of [from, to), at least one
	// if there is one.
	read(from, to uint64, count, bytes int) ([]record, error)
	// trim forgets what is below seq, in its own time; h is the head with that trim.
	trim(seq uint64, h head) error
	// drop forgets everything; the stream is gone.
	drop()
}

// memory is the backing without a disk.
type memory struct {
	max  int64
	used atomic.Int64
	ids  atomic.Uint64
}

func (m *memory) load() ([]basinMeta, []streamMeta, error) { return nil, nil, nil }
func (m *memory) putBasin(basinMeta) error                 { return nil }
func (m *memory) dropBasin(string) error                   { return nil }
func (m *memory) putStream(streamMeta) error               { return nil }
func (m *memory) dropStream(streamMeta) error              { return nil }
func (m *memory) newID() (uint64, error)                   { return m.ids.Add(1), nil }
func (m *memory) close() error                             { return nil }

func (m *memory) log(uint64) (recordLog, head, error) { return &memoryLog{owner: m}, head{}, nil }

type memoryLog struct {
	owner *memory
	mu    sync.RWMutex
	recs  []record
}

func weigh(recs []record) int64 {
	var n int64
	for _, r := range recs {
		n += int64(len(r.wire)) + recordOverhead
	}
	return n
}

func durable() error { return nil }

func (l *memoryLog) begin(recs []record, _ head, onlyCmds bool) (func() error, error) {
	n := weigh(recs)
	if l.owner.used.Add(n) > l.owner.max && !onlyCmds {
		l.owner.used.Add(-n)
		return nil, errFull
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recs = append(l.recs, recs...)
	return durable, nil
}

func (l *memoryLog) read(from, to uint64, count, bytes int) ([]record, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i := sort.Search(len(l.recs), func(i int) bool { return l.recs[i].seq >= from })
	j, size := i, 0
	for ; j < len(l.recs) && l.recs[j].seq < to && j-i < count; j++ {
		size += l.recs[j].size
		if j > i && size > bytes {
			break
		}
	}
	return l.recs[i:j:j], nil
}

// trim copies what is kept: a slice from the middle would hold the forgotten records' memory.
func (l *memoryLog) trim(seq uint64, _ head) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.recs), func(i int) bool { return l.recs[i].seq >= seq })
	if i == 0 {
		return nil
	}
	l.owner.used.Add(-weigh(l.recs[:i]))
	l.recs = append([]record(nil), l.recs[i:]...)
	return nil
}

func (l *memoryLog) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owner.used.Add(-weigh(l.recs))
	l.recs = nil
}
