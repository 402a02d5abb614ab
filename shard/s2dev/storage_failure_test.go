package s2dev

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/s2-streamstore/s2-sdk-go/s2"
)

// A full disk ends the storage. The process is told once, with the cause. Health is not OK. Nothing
// more is acknowledged, even if there is room again. After opening the folder again, all that was
// acknowledged is there.
func TestFullDiskStopsAcknowledging(t *testing.T) {
	for _, where := range []string{"write", "sync"} {
		t.Run(where, func(t *testing.T) {
			var full atomic.Bool
			mem := vfs.NewCrashableMem()
			disk := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				hit := op.Kind == errorfs.OpFileWrite && where == "write" ||
					(op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo) && where == "sync"
				if full.Load() && hit && strings.HasSuffix(op.Path, ".log") {
					return syscall.ENOSPC
				}
				return nil
			}))
			told := make(chan error, 8)
			s, err := Open(Config{Dir: "data", fs: disk, Basins: []string{testBasin}, Fatal: func(err error) { told <- err }})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			b := dialBasin(s.URL())
			c, other := mustCreate(t, b, "s"), mustCreate(t, b, "other")
			const acked = 20
			for i := range acked {
				if _, err := c.Append(t.Context(), bodyRecords(fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
			}
			if code := healthStatus(t, s); code != 200 {
				t.Errorf("health is %d before", code)
			}
			full.Store(true)
			if _, err := c.Append(t.Context(), bodyRecords("beyond")); err == nil {
				t.Error("an append was acknowledged that is not on the disk")
			}
			if err := <-told; !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
				t.Errorf("the process was told %v", err)
			}
			full.Store(false)
			for _, c := range []*s2.StreamClient{c, other} {
				if _, err := c.Append(t.Context(), bodyRecords("later")); err == nil {
					t.Error("an append was acknowledged afterwards")
				}
			}
			if _, err := b.Streams.Create(t.Context(), s2.CreateStreamArgs{Stream: "new"}); err == nil {
				t.Error("a stream was made afterwards")
			}
			if code := healthStatus(t, s); code != 503 {
				t.Errorf("health is %d afterwards", code)
			}
			if n := len(told); n != 0 {
				t.Errorf("the process was told %d times more", n)
			}
			again := open(t, Config{Dir: "data", fs: mem.CrashClone(vfs.CrashCloneCfg{}), Basins: []string{testBasin}})
			got := readAllRecords(t, dialBasin(again.URL()).Stream("s"))
			if len(got) < acked || string(got[acked-1].Body) != fmt.Sprint(acked-1) {
				t.Errorf("%d records are there, of %d that were acknowledged", len(got), acked)
			}
		})
	}
}

func healthStatus(t *testing.T, s *Server) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL()+"/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// An error says that the folder is in use, in these words.
func TestFolderInUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	c := spawnServer(t, dir)
	_, err := Open(Config{Dir: dir})
	c.kill()
	if err == nil || !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), dir) {
		t.Errorf("by a process: %v", err)
	}
	open(t, Config{Dir: dir})
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("by this one: %v", err)
	}
}

// writeLog creates a folder, with acknowledged records of three
// streams in its log, and returns the log.
func writeLog(t *testing.T, dir string) (path string, raw []byte, number uint32) {
	t.Helper()
	s, err := Open(Config{Dir: dir, Basins: []string{testBasin}})
	if err != nil {
		t.Fatal(err)
	}
	d := s.Direct(testBasin)
	for i := range 60 {
		name := fmt.Sprint("s", i%3)
		if err := d.EnsureStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := d.Append(t.Context(), name, textRecords(strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatal(logs, err)
	}
	path = logs[len(logs)-1]
	if raw, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	var n uint32
	if _, err := fmt.Sscanf(filepath.Base(path), "%d.log", &n); err != nil {
		t.Fatal(err)
	}
	return path, raw, n
}

// Damage in acknowledged records is never taken for the log's end, however short the log is.
func TestDamageInAcknowledgedRecordsIsRefused(t *testing.T) {
	for name, damage := range map[string]func(raw []byte) []byte{
		"the middle": func(raw []byte) []byte { copy(raw[len(raw)/2:], "garbage, garbage"); return raw },
		"the start":  func(raw []byte) []byte { raw[2]++; return raw },
		"a hole":     func(raw []byte) []byte { clear(raw[len(raw)/3 : len(raw)/2]); return raw },
		"a bit":      func(raw []byte) []byte { raw[len(raw)/4] ^= 4; return raw },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, raw, number := writeLog(t, dir)
			if len(raw) > walBlock {
				t.Fatalf("the log has %d bytes: Pebble would see the damage", len(raw))
			}
			if d := findDamage(raw, number); d != nil {
				t.Fatalf("a whole log: %v", d)
			}
			if err := os.WriteFile(path, damage(raw), 0o644); err != nil {
				t.Fatal(err)
			}
			s, err := Open(Config{Dir: dir})
			if err == nil {
				_ = s.Close()
				t.Fatal("it was passed over")
			}
			if !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), path) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A torn end after a crash is no damage, and neither are remains of an earlier log.
func TestTornEndOfTheLogIsNoDamage(t *testing.T) {
	for name, tear := range map[string]func(raw []byte, number uint32) []byte{
		"in a record":  func(raw []byte, _ uint32) []byte { return raw[:len(raw)-30] },
		"zeros behind": func(raw []byte, _ uint32) []byte { return append(raw[:len(raw)/2], make([]byte, 4096)...) },
		"another log's": func(raw []byte, n uint32) []byte {
			return append(raw[:len(raw)/2], renumbered(raw[len(raw)/2:len(raw)-11], n)...)
		},
		"garbage behind": func(raw []byte, _ uint32) []byte { return append(raw, "garbage, garbage"...) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, raw, number := writeLog(t, dir)
			if err := os.WriteFile(path, tear(raw, number), 0o644); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			open(t, Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if strings.Contains(log.String(), "not whole") {
				t.Errorf("%s", log.String())
			}
		})
	}
}

// renumbered changes the number of the log in all its chunks.
func renumbered(raw []byte, number uint32) []byte {
	old := binary.LittleEndian.AppendUint32(nil, number)
	return bytes.ReplaceAll(bytes.Clone(raw), old, binary.LittleEndian.AppendUint32(nil, number+1000))
}
