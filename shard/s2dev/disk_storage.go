package s2dev

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A key is a kind, then a basin's name or 8 bytes of stream id, then for records 8 bytes of
// sequence number, both big-endian.
const (
	kindBasin  = 'b' // basinMeta in JSON
	kindStream = 's' // streamMeta in JSON
	kindHead   = 'h' // head
	kindRecord = 'r' // record
	kindLastID = 'i' // the highest stream id ever used
)

const (
	memTableBytes   = 16 << 20
	cacheBytes      = 64 << 20
	recordHeaderLen = 4 + 8 + 8
	headFixedLen    = 4 * 8
)

// diskStorage keeps the data in a folder with Pebble. An append is one Pebble batch of its records
// and the stream's head, so that all of it is there or nothing. Pebble shares one fsync among
// concurrent batches.
type diskStorage struct {
	db       *pebble.DB
	failure  *storageFailure
	logger   *slog.Logger
	syncMode SyncMode
	ids      atomic.Uint64

	applyBatch func(*pebble.Batch, *pebble.WriteOptions) error // db.Apply; tests run a sync before it

	unsynced atomic.Bool // acknowledged records may not be covered by an fsync
	stop     chan struct{}
	syncer   sync.WaitGroup
}

func openDisk(cfg Config) (*diskStorage, error) {
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref()
	opts := &pebble.Options{
		Cache: cache, MemTableSize: memTableBytes, Logger: pebbleLog{cfg.Logger, cfg.failure},
		FormatMajorVersion: pebble.FormatNewest, FS: vfs.Default,
	}
	if cfg.fs != nil {
		opts.FS = cfg.fs
	}
	if err := checkNewestLog(opts.FS, cfg.Dir, cfg.Logger); err != nil {
		return nil, fmt.Errorf("s2dev: open %s: %w", cfg.Dir, err)
	}
	was, peeked := pebble.Peek(cfg.Dir, opts.FS)
	db, err := pebble.Open(cfg.Dir, opts)
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	if peeked != nil || !was.Exists { // a new folder: its first log has the oldest format, which does not tell what an fsync covered
		if err := db.Flush(); err != nil {
			return nil, errors.Join(openError(cfg.Dir, err), db.Close())
		}
	}
	d := &diskStorage{db: db, failure: cfg.failure, logger: cfg.Logger, syncMode: cfg.Sync, applyBatch: db.Apply, stop: make(chan struct{})}
	if d.syncMode == SyncInterval {
		d.syncer.Go(func() { d.runSyncer(cfg.SyncEvery, cfg.Logger) })
	}
	return d, nil
}

func (d *diskStorage) runSyncer(every time.Duration, log *slog.Logger) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-d.stop:
			return
		}
		if err := d.syncUnsynced(); err != nil {
			log.Error("sync", "error", err)
		}
	}
}

func (d *diskStorage) syncUnsynced() error {
	if !d.unsynced.Swap(false) {
		return nil
	}
	return d.failure.report(d.db.LogData(nil, pebble.Sync))
}

func (d *diskStorage) close() error {
	close(d.stop)
	d.syncer.Wait()
	d.failure.closing.Store(true)
	if err := d.failure.err(); err != nil {
		return errors.Join(err, d.closeFailed())
	}
	var err error
	if d.syncMode == SyncInterval {
		err = d.db.LogData(nil, pebble.Sync)
	}
	return errors.Join(err, d.db.Close())
}

// closeFailed closes a failed database, as far as possible.
func (d *diskStorage) closeFailed() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("s2dev: close: %v", p)
		}
	}()
	return d.db.Close()
}

func idKey(kind byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, id)
}

func recordKey(id, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(idKey(kindRecord, id), seq)
}

func basinKey(name string) []byte { return append([]byte{kindBasin}, name...) }

func (d *diskStorage) putJSON(b *pebble.Batch, key []byte, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Set(key, raw, nil)
}

// commitSync commits the batch that fill writes. It is durable when commitSync returns.
func (d *diskStorage) commitSync(fill func(*pebble.Batch) error) error {
	if err := d.failure.err(); err != nil {
		return err
	}
	b := d.db.NewBatch()
	defer func() { _ = b.Close() }()
	if err := fill(b); err != nil {
		return err
	}
	return d.failure.report(b.Commit(pebble.Sync))
}

func (d *diskStorage) putBasin(m basinMeta) error {
	return d.commitSync(func(b *pebble.Batch) error { return d.putJSON(b, basinKey(m.Name), m) })
}

func (d *diskStorage) dropBasin(name string) error {
	return d.commitSync(func(b *pebble.Batch) error { return b.Delete(basinKey(name), nil) })
}

func (d *diskStorage) putStream(m streamMeta) error {
	return d.commitSync(func(b *pebble.Batch) error {
		last := binary.BigEndian.AppendUint64(nil, d.ids.Load())
		if err := b.Set([]byte{kindLastID}, last, nil); err != nil {
			return err
		}
		return d.putJSON(b, idKey(kindStream, m.ID), m)
	})
}

// dropStream writes a range tombstone: the space becomes free as Pebble compacts.
func (d *diskStorage) dropStream(m streamMeta) error {
	return d.commitSync(func(b *pebble.Batch) error {
		return errors.Join(
			b.Delete(idKey(kindStream, m.ID), nil),
			b.Delete(idKey(kindHead, m.ID), nil),
			b.DeleteRange(recordKey(m.ID, 0), idKey(kindRecord, m.ID+1), nil),
		)
	})
}

func (d *diskStorage) newID() (uint64, error) { return d.ids.Add(1), nil }

// getCopy returns a copy of a value; nil if there is none.
func (d *diskStorage) getCopy(key []byte) ([]byte, error) {
	v, done, err := d.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), v...), done.Close()
}

func (d *diskStorage) loadCatalogue() ([]basinMeta, []streamMeta, error) {
	last, err := d.getCopy([]byte{kindLastID})
	if err != nil {
		return nil, nil, err
	}
	if len(last) == 8 {
		d.ids.Store(binary.BigEndian.Uint64(last))
	}
	basins, err := loadRows[basinMeta](d.db, kindBasin)
	if err != nil {
		return nil, nil, err
	}
	streams, err := loadRows[streamMeta](d.db, kindStream)
	return basins, streams, err
}

func loadRows[T any](db *pebble.DB, kind byte) (out []T, err error) {
	it, err := db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{kind}, UpperBound: []byte{kind + 1},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		var v T
		if err := json.Unmarshal(it.Value(), &v); err != nil {
			return nil, fmt.Errorf("s2dev: row %q: %w", it.Key(), err)
		}
		out = append(out, v)
	}
	return out, it.Error()
}

func (d *diskStorage) openLog(id uint64) (recordLog, head, error) {
	raw, err := d.getCopy(idKey(kindHead, id))
	if err != nil {
		return nil, head{}, err
	}
	h, err := decodeHead(raw)
	l := &diskLog{storage: d, id: id}
	if err == nil && h.trim > 0 {
		err = l.repeatTrim(h)
	}
	return l, h, err
}

func (h head) encode() []byte {
	b := make([]byte, 0, headFixedLen+len(h.fence))
	for _, n := range []uint64{h.next.Seq, h.next.Time, h.lastArrival, h.trim} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return append(b, h.fence...)
}

func decodeHead(b []byte) (head, error) {
	if len(b) == 0 {
		return head{}, nil
	}
	if len(b) < headFixedLen {
		return head{}, fmt.Errorf("s2dev: head of %d bytes", len(b))
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return head{
		next: position{Seq: n(0), Time: n(1)}, lastArrival: n(2), trim: n(3),
		fence: string(b[headFixedLen:]),
	}, nil
}

func (r record) encode() []byte {
	b := make([]byte, 0, recordHeaderLen+len(r.encoded))
	b = binary.BigEndian.AppendUint32(b, uint32(r.size))
	b = binary.BigEndian.AppendUint64(b, r.time)
	b = binary.BigEndian.AppendUint64(b, r.arrived)
	return append(b, r.encoded...)
}

func decodeRecord(key, b []byte) (record, error) {
	if len(key) != 17 || len(b) < recordHeaderLen {
		return record{}, fmt.Errorf("s2dev: record of %d bytes at %x", len(b), key)
	}
	return record{
		seq: binary.BigEndian.Uint64(key[9:]), size: int(binary.BigEndian.Uint32(b)),
		time: binary.BigEndian.Uint64(b[4:]), arrived: binary.BigEndian.Uint64(b[12:]),
		encoded: append([]byte(nil), b[recordHeaderLen:]...),
	}, nil
}

type diskLog struct {
	storage *diskStorage
	id      uint64
}

func (l *diskLog) startAppend(recs []record, h head, _ bool) (func() error, error) {
	d := l.storage
	if err := d.failure.err(); err != nil {
		return nil, err
	}
	b := d.db.NewBatch()
	for _, r := range recs {
		if err := b.Set(recordKey(l.id, r.seq), r.encode(), nil); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	if err := b.Set(idKey(kindHead, l.id), h.encode(), nil); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if d.syncMode != SyncAlways {
		err := d.failure.report(errors.Join(d.applyBatch(b, pebble.NoSync), b.Close()))
		// After the commit: a sync between the two would reset the mark and not cover the batch.
		d.unsynced.Store(true)
		return alreadyDurable, err
	}
	// The order is decided here, under the stream's lock. The caller waits for the fsync outside
	// the lock, so that one fsync serves many batches of a stream.
	if err := d.failure.report(d.db.ApplyNoSyncWait(b, pebble.Sync)); err != nil {
		return nil, err
	}
	return func() error { return d.failure.report(errors.Join(b.SyncWait(), b.Close())) }, nil
}

func (l *diskLog) read(from, to uint64, count, bytes int) (out []record, err error) {
	it, err := l.storage.db.NewIter(&pebble.IterOptions{
		LowerBound: recordKey(l.id, from), UpperBound: recordKey(l.id, to),
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, it.Close()); err != nil {
			l.storage.logger.Error("records cannot be read", "stream_id", l.id, "from", from, "err", err)
		}
	}()
	size := 0
	for ok := it.First(); ok && len(out) < count; ok = it.Next() {
		r, err := decodeRecord(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		if size += r.size; len(out) > 0 && size > bytes {
			break
		}
		out = append(out, r)
	}
	return out, it.Error()
}

// repeatTrim repeats a trim that a crash undid. A trim deletes all records below its point, so the
// record just below shows whether it was undone. Without this check, every opening would leave a
// range tombstone for each stream.
func (l *diskLog) repeatTrim(h head) error {
	left, err := l.storage.getCopy(recordKey(l.id, h.trim-1))
	if err != nil || left == nil {
		return err
	}
	return l.trim(h.trim, h)
}

// trim deletes the records below seq. It need not be durable: the head with its trim point is,
// and opening the stream repeats the trim.
func (l *diskLog) trim(seq uint64, h head) error {
	if err := l.storage.failure.err(); err != nil {
		return err
	}
	b := l.storage.db.NewBatch()
	defer func() { _ = b.Close() }()
	return l.storage.failure.report(errors.Join(
		b.Set(idKey(kindHead, l.id), h.encode(), nil),
		b.DeleteRange(recordKey(l.id, 0), recordKey(l.id, seq), nil),
		b.Commit(pebble.NoSync),
	))
}

func (l *diskLog) drop() {}
