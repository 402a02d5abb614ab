package s2dev

import (
	"errors"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// reserveFraction sets the reserve for commands and trims: MaxBytes divided by it, beyond MaxBytes.
const reserveFraction = 16

// errMemoryFull refuses an append because MaxBytes is reached.
var errMemoryFull = errors.New("s2dev: memory is full")

// head holds what a stream remembers beside its records. It is written with every append.
type head struct {
	next        position
	lastArrival uint64 // of the last record, in milliseconds since 1970
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
	Key     string       `json:"key,omitempty"` // of the request token and configuration at its creation
}

// basinMeta is a basin's row in the catalogue.
type basinMeta struct {
	Name    string      `json:"name"`
	Config  basinConfig `json:"config"`
	Created time.Time   `json:"created"`
	Key     string      `json:"key,omitempty"`
}

// storage keeps the catalogue and the records. A change of the catalogue is durable when the call
// returns.
type storage interface {
	loadCatalogue() ([]basinMeta, []streamMeta, error)
	putBasin(basinMeta) error
	dropBasin(name string) error
	putStream(streamMeta) error
	// dropStream deletes the row immediately and the records in the background. An id is never used
	// again.
	dropStream(streamMeta) error
	newID() (uint64, error)
	openLog(id uint64) (recordLog, head, error)
	close() error
}

// recordLog holds one stream's records.
type recordLog interface {
	// startAppend orders the batch and returns a function that waits for its durability. The caller
	// holds the stream's lock. spare: the batch may use the reserve of a full memory.
	startAppend(recs []record, h head, spare bool) (wait func() error, err error)
	// read returns records of [from, to): up to count records and about bytes metered bytes, and at
	// least one if there is one.
	read(from, to uint64, count, bytes int) ([]record, error)
	// trim deletes the records below seq, now or later. h is the head with that trim point.
	trim(seq uint64, h head) error
	// drop deletes all records of a deleted stream.
	drop()
}

// memoryStorage keeps the data in memory only.
type memoryStorage struct {
	maxBytes int64
	used     atomic.Int64
	ids      atomic.Uint64
}

func (m *memoryStorage) loadCatalogue() ([]basinMeta, []streamMeta, error) { return nil, nil, nil }
func (m *memoryStorage) putBasin(basinMeta) error                          { return nil }
func (m *memoryStorage) dropBasin(string) error                            { return nil }
func (m *memoryStorage) putStream(streamMeta) error                        { return nil }
func (m *memoryStorage) dropStream(streamMeta) error                       { return nil }
func (m *memoryStorage) newID() (uint64, error)                            { return m.ids.Add(1), nil }
func (m *memoryStorage) close() error                                      { return nil }

func (m *memoryStorage) openLog(uint64) (recordLog, head, error) {
	return &memoryLog{storage: m}, head{}, nil
}

type memoryLog struct {
	storage       *memoryStorage
	mu            sync.RWMutex
	records       []record
	roomCountedTo uint64 // the trim point up to which room was counted; the trim itself may still follow
}

func memorySize(recs []record) int64 {
	var n int64
	for _, r := range recs {
		n += int64(len(r.encoded)) + recordOverhead
	}
	return n
}

func alreadyDurable() error { return nil }

// startAppend accepts a batch that makes room even if memory is full: a stream ends with a trim and
// a record, and if those were refused it could never be emptied. The reserve is for the end of a
// stream that holds less than that batch. The reserve is bounded, since a trim may free nothing.
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
	l.records = append(l.records, recs...)
	return alreadyDurable, nil
}

// roomFromTrim returns the bytes that a trim frees, without those that an earlier batch's trim
// frees.
func (l *memoryLog) roomFromTrim(trim uint64) int64 {
	if trim <= l.roomCountedTo {
		return 0
	}
	return memorySize(recordsBelow(l.records, trim)) - memorySize(recordsBelow(l.records, l.roomCountedTo))
}

// recordsBelow returns the records before a sequence number. recs is in order.
func recordsBelow(recs []record, seq uint64) []record {
	return recs[:sort.Search(len(recs), func(i int) bool { return recs[i].seq >= seq })]
}

func (l *memoryLog) read(from, to uint64, count, bytes int) ([]record, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i := sort.Search(len(l.records), func(i int) bool { return l.records[i].seq >= from })
	j, size := i, 0
	for ; j < len(l.records) && l.records[j].seq < to && j-i < count; j++ {
		size += l.records[j].size
		if j > i && size > bytes {
			break
		}
	}
	return l.records[i:j:j], nil
}

// trim copies the kept records: a subslice would keep the memory of the deleted ones.
func (l *memoryLog) trim(seq uint64, _ head) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := recordsBelow(l.records, seq)
	if len(gone) == 0 {
		return nil
	}
	l.storage.used.Add(-memorySize(gone))
	l.records = append([]record(nil), l.records[len(gone):]...)
	return nil
}

func (l *memoryLog) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.storage.used.Add(-memorySize(l.records))
	l.records = nil
}
