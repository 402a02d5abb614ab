package s2dev

import (
	"errors"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// reserveFraction is which part of MaxBytes there is beyond it, for commands and trims.
const reserveFraction = 16

// errMemoryFull is an append refused because MaxBytes is reached.
var errMemoryFull = errors.New("s2dev: memory is full")

// head is what a stream remembers beside its records; it is written with every append.
type head struct {
	next        position
	lastArrival uint64 // the last record's arrival, milliseconds since 1970
	trim        uint64 // the first sequence number that is kept
	fence       string
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

// storage keeps the catalogue and the records. Changes of the catalogue are durable when the call
// returns.
type storage interface {
	load() ([]basinMeta, []streamMeta, error)
	putBasin(basinMeta) error
	dropBasin(name string) error
	putStream(streamMeta) error
	// dropStream takes the row away at once and the records in the background; an id is never
	// used again.
	dropStream(streamMeta) error
	newID() (uint64, error)
	openLog(id uint64) (recordLog, head, error)
	close() error
}

// recordLog is one stream's records.
type recordLog interface {
	// startAppend orders the batch (the caller holds the stream's lock) and returns the wait for its
	// durability. spare may use what a full memory keeps in reserve.
	startAppend(recs []record, h head, spare bool) (wait func() error, err error)
	// read returns up to count records and about bytes metered bytes of [from, to), at least one
	// if there is one.
	read(from, to uint64, count, bytes int) ([]record, error)
	// trim forgets what is below seq, in its own time; h is the head with that trim.
	trim(seq uint64, h head) error
	// drop forgets everything; the stream is gone.
	drop()
}

// memoryStorage is the backing without a disk.
type memoryStorage struct {
	maxBytes int64
	used     atomic.Int64
	ids      atomic.Uint64
}

func (m *memoryStorage) load() ([]basinMeta, []streamMeta, error) { return nil, nil, nil }
func (m *memoryStorage) putBasin(basinMeta) error                 { return nil }
func (m *memoryStorage) dropBasin(string) error                   { return nil }
func (m *memoryStorage) putStream(streamMeta) error               { return nil }
func (m *memoryStorage) dropStream(streamMeta) error              { return nil }
func (m *memoryStorage) newID() (uint64, error)                   { return m.ids.Add(1), nil }
func (m *memoryStorage) close() error                             { return nil }

func (m *memoryStorage) openLog(uint64) (recordLog, head, error) {
	return &memoryLog{storage: m}, head{}, nil
}

type memoryLog struct {
	storage       *memoryStorage
	mu            sync.RWMutex
	recs          []record
	roomCountedTo uint64 // what is below makes room already, for a batch whose trim may yet come
}

func memorySize(recs []record) int64 {
	var n int64
	for _, r := range recs {
		n += int64(len(r.encoded)) + recordOverhead
	}
	return n
}

func alreadyDurable() error { return nil }

// startAppend lets a batch that makes room pass a full memory: a stream's end is a trim and a record, and
// refused it could never be emptied. The reserve is for the end of a stream that holds less than
// that; it is bounded, since a trim may trim nothing.
func (l *memoryLog) startAppend(recs []record, h head, spare bool) (func() error, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var reserve int64
	if spare {
		reserve = l.storage.maxBytes / reserveFraction
	}
	n := memorySize(recs)
	if l.storage.used.Add(n)-l.storage.maxBytes > reserve && n > l.roomFromTrim(h.trim)+memorySize(recordsBelow(recs, h.trim)) {
		l.storage.used.Add(-n)
		return nil, errMemoryFull
	}
	l.roomCountedTo = max(l.roomCountedTo, h.trim)
	l.recs = append(l.recs, recs...)
	return alreadyDurable, nil
}

// roomFromTrim is what a trim makes that no batch before asked for.
func (l *memoryLog) roomFromTrim(trim uint64) int64 {
	if trim <= l.roomCountedTo {
		return 0
	}
	return memorySize(recordsBelow(l.recs, trim)) - memorySize(recordsBelow(l.recs, l.roomCountedTo))
}

// recordsBelow is the records, in order, before a sequence number.
func recordsBelow(recs []record, seq uint64) []record {
	return recs[:sort.Search(len(recs), func(i int) bool { return recs[i].seq >= seq })]
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
	gone := recordsBelow(l.recs, seq)
	if len(gone) == 0 {
		return nil
	}
	l.storage.used.Add(-memorySize(gone))
	l.recs = append([]record(nil), l.recs[len(gone):]...)
	return nil
}

func (l *memoryLog) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.storage.used.Add(-memorySize(l.recs))
	l.recs = nil
}
