package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2"
)

// Writers append to several streams while `fantail backup` runs. The copy is served by another `fantail s2`, through a node:
// each stream has all that was acknowledged before the backup began, without a gap, and nothing that was written after its end.
func TestBackupWhileItRuns(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"always", "interval", "never"} {
		t.Run(mode, func(t *testing.T) { backUpWhileItRuns(t, mode) })
	}
}

const backedUpStreams = 4

func backUpWhileItRuns(t *testing.T, mode string) {
	t.Helper()
	const streams = backedUpStreams
	data, copied := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "backup")
	p := spawn(t, "embedded S2", "s2", "--listen=127.0.0.1:0", "--data="+data, "--sync="+mode)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var acked [streams]atomic.Int64
	var writing sync.WaitGroup
	log := openTestLog(t, p.addr("url"))
	for i := range streams {
		name := shard.StreamID(fmt.Sprintf("p/s%d", i))
		if err := log.Create(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		writing.Go(func() {
			for n := int64(0); ctx.Err() == nil; n++ {
				if _, err := log.Append(context.WithoutCancel(ctx), name, shard.Pos(n), []shard.Entry{{Body: fmt.Appendf(nil, "%d", n)}}); err != nil {
					t.Errorf("append %d to %s: %v", n, name, err)
					return
				}
				acked[i].Store(n + 1)
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		for i := range streams {
			was := acked[i].Load()
			eventually(t, 20*time.Second, "writers go on", func() bool { return acked[i].Load() >= was+n })
		}
	}
	counts := func() (c [streams]int64) {
		for i := range streams {
			c[i] = acked[i].Load()
		}
		return c
	}
	more(50)
	before := counts()
	if got := mustPrint(t, "", "backup", "--data="+data, copied); !strings.Contains(got, "while fantail s2 runs") {
		t.Errorf("%q", got)
	}
	after := counts()
	more(50)
	if err := mustExit(t, 1, "backup", "--data="+data, copied); !strings.Contains(err.Error(), "exist") {
		t.Errorf("over another backup: %v", err)
	}
	stop()
	writing.Wait()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.waitForEnd(t, 20*time.Second); err != nil {
		t.Error(err)
	}
	ended := counts()

	offline := filepath.Join(t.TempDir(), "backup")
	if got := mustPrint(t, "", "backup", "--data="+data, offline); !strings.Contains(got, "no process has open") {
		t.Errorf("%q", got)
	}
	if err := os.RemoveAll(data); err != nil { // what a copy shares with it stays
		t.Fatal(err)
	}
	for i := range after {
		after[i]++ // an append may be under way
	}
	wantRestored(t, copied, before, after)
	wantRestored(t, offline, ended, ended)
}

// wantRestored starts `fantail s2` on a copy and a node on that, reads each stream through the node.
func wantRestored(t *testing.T, dir string, least, most [backedUpStreams]int64) {
	t.Helper()
	p := spawn(t, "embedded S2", "s2", "--listen=127.0.0.1:0", "--data="+dir)
	node := spawn(t, "serving", "serve", "--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--s2-endpoint="+p.addr("url"), "--s2-basin="+devBasin)
	for i := range least {
		at := []string{fmt.Sprintf("p/s%d", i), "--url=http://" + node.addr("http")}
		var got string
		eventually(t, 20*time.Second, "the node serves", func() bool {
			out, err := fantail(t, "", append([]string{"tail"}, at...)...)
			got = out
			return err == nil
		})
		n := int64(0)
		for ; strings.HasPrefix(got, fmt.Sprint(n)); n++ {
			got = got[len(fmt.Sprint(n)):]
		}
		if got != "" || n < least[i] || n > most[i] {
			t.Errorf("stream %d has %d messages, then %.40q; want %d to %d", i, n, got, least[i], most[i])
		}
	}
	for _, q := range []*process{node, p} {
		_ = q.cmd.Process.Signal(syscall.SIGTERM)
		if err := q.waitForEnd(t, 30*time.Second); err != nil {
			t.Error(err)
		}
	}
}

func openTestLog(t *testing.T, endpoint string) *s2.Log {
	t.Helper()
	l, err := s2.Open(s2.Config{Endpoint: endpoint, Basin: devBasin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// What is no folder of fantail s2 is not backed up, and is not made one.
func TestBackupOfNothing(t *testing.T) {
	t.Parallel()
	dir, to := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	for _, data := range []string{dir, filepath.Join(dir, "absent")} {
		if err := mustExit(t, 1, "backup", "--data="+data, to); !strings.Contains(err.Error(), "no data of fantail s2") {
			t.Errorf("%s: %v", data, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	mustExit(t, exitUsage, "backup", to)
}

// Only the owner of the folder can ask, and only for a folder to be written.
func TestBackupSocket(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	asked := make(chan string, 1)
	stop, err := serveBackups(data, func(to string) error { asked <- to; return nil })
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(data, backupSocket))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := askForBackup(t.Context(), data, "relative"); err == nil || !strings.Contains(err.Error(), "want POST") {
		t.Error(err)
	}
	if err := askForBackup(t.Context(), data, "/b ü?&"); err != nil || <-asked != "/b ü?&" {
		t.Error(err)
	}
	if again, err := serveBackups(data, func(string) error { return nil }); err != nil {
		t.Errorf("after a process that was killed: %v", err)
	} else if err := again(); err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := askForBackup(t.Context(), data, "/b"); err == nil {
		t.Error("nobody listens, and it is backed up")
	}
}
