package s2dev

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// countKept returns how many records of the stream are on disk.
func countKept(t *testing.T, s *Server) int {
	t.Helper()
	st, bad := s.catalogue.findStream(testBasin, "s")
	if bad != nil {
		t.Fatal(bad)
	}
	recs, err := st.log.read(0, 1000, 1000, maxBatchBytes)
	if err != nil {
		t.Fatal(err)
	}
	return len(recs)
}

// A sync that runs during an append does not cover it. The next sync must.
func TestIntervalSyncsRecordsThatCameDuringASync(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s, d := openDirect(t, Config{Dir: "data", fs: fs, Sync: SyncInterval, SyncEvery: time.Hour})
	disk := s.catalogue.storage.(*diskStorage)
	disk.applyBatch = func(b *pebble.Batch, o *pebble.WriteOptions) error {
		if err := disk.syncUnsynced(); err != nil {
			return err
		}
		return disk.db.Apply(b, o)
	}
	mustAppend(t, d, textRecords("a"))
	if err := disk.syncUnsynced(); err != nil {
		t.Fatal(err)
	}
	again := open(t, Config{Dir: "data", fs: fs.CrashClone(vfs.CrashCloneCfg{})})
	if got := countKept(t, again); got != 1 {
		t.Fatalf("%d records after the sync and a power cut", got)
	}
}

// Close keeps all records, without any fsync before it.
func TestCloseSyncs(t *testing.T) {
	for _, mode := range []SyncMode{SyncInterval, SyncNever} {
		fs := vfs.NewCrashableMem()
		s, d := openDirect(t, Config{Dir: "data", fs: fs, Sync: mode, SyncEvery: time.Hour})
		mustAppend(t, d, textRecords("a"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again := open(t, Config{Dir: "data", fs: fs.CrashClone(vfs.CrashCloneCfg{})})
		if got := countKept(t, again); got != 1 {
			t.Errorf("%s: %d records", mode, got)
		}
	}
}

// A trim's point is durable with its append. The deletion of the records is not.
func TestTrimIsRepeatedAfterACrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s, d := openDirect(t, Config{Dir: "data", fs: fs})
	mustAppend(t, d, textRecords("a", "b", "c"))
	mustAppend(t, d, withTrim(3, textRecords("d")))
	if got := countKept(t, s); got != 2 {
		t.Fatalf("%d records before the crash", got)
	}
	again := open(t, Config{Dir: "data", fs: fs.CrashClone(vfs.CrashCloneCfg{})})
	if got := countKept(t, again); got != 2 {
		t.Fatalf("%d records after it", got)
	}
}
