package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2"
)

// `fantail s2 --data` on a disk that becomes full ends with one line at ERROR and status 1. When
// there is room again, it has all that was acknowledged.
func TestFullDiskEndsTheEmbeddedS2AndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*exec.Cmd, *syncBuffer, *s2.Log) {
		at := freePorts(t, 1)[0]
		cmd, log := exec.Command(path, "--log-format=json", "s2", "--listen="+at, "--data="+dir), new(syncBuffer)
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		l, err := s2.Open(s2.Config{Endpoint: "http://" + at, Basin: devBasin})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		eventually(t, 20*time.Second, "S2 answers", func() bool { return l.Create(t.Context(), "p/s") == nil })
		return cmd, log, l
	}
	cmd, log, l := start()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var acked uint64
	body := bytes.Repeat([]byte("x"), 512<<10)
	for {
		ack, err := l.Append(ctx, "p/s", shard.Pos(acked), []shard.Entry{{Body: body}})
		if err != nil {
			break
		}
		acked = uint64(ack.End)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the process ended with %v", err)
	}
	failures := 0
	for line := range strings.Lines(log.String()) {
		var l struct{ Level, Msg, Err string }
		if json.Unmarshal([]byte(line), &l) != nil {
			t.Errorf("no line of the log: %s", line)
		}
		if strings.HasPrefix(l.Msg, "storage has failed") {
			failures++
			if l.Level != "ERROR" || !strings.Contains(l.Err, syscall.ENOSPC.Error()) {
				t.Errorf("%s", line)
			}
		}
	}
	if failures != 1 {
		t.Errorf("%d lines say that it failed:\n%s", failures, log.String())
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=256m"); err != nil {
		t.Fatal(err)
	}
	cmd, log, l = start()
	tail, err := l.Tail(ctx, "p/s")
	if err != nil || tail < shard.Pos(acked) || acked < 20 {
		t.Errorf("the tail is %d, %d were acknowledged (%v)\n%s", tail, acked, err, log.String())
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it stops with %v", err)
	}
}

// An address in use is reported with the setting that named it, and a folder in use in these words.
func TestAddressOrFolderInUseIsNamed(t *testing.T) {
	t.Parallel()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := spawn(t, "embedded S2", "s2", "--listen=127.0.0.1:0", "--data="+dir)
	taken := strings.TrimPrefix(p.addr("url"), "http://")
	port := taken[strings.LastIndexByte(taken, ':')+1:]
	serve := []string{"serve", "--s2-endpoint=http://127.0.0.1:1", "--s2-basin=fantail-dev"}
	for want, args := range map[string][]string{
		"--listen: ":                       {"s2", "--listen=" + taken},
		dir + " is in use by another proc": {"s2", "--listen=127.0.0.1:0", "--data=" + dir},
		"--s2-port: ":                      {"dev", "--port=0", "--admin-port=0", "--s2-port=" + port},
		"--port: ":                         {"dev", "--admin-port=0", "--s2-port=0", "--port=" + port},
		"--http (FANTAIL_HTTP): ":          append(serve, "--admin=127.0.0.1:0", "--http="+taken),
		"--admin (FANTAIL_ADMIN): ":        append(serve, "--http=127.0.0.1:0", "--admin="+taken),
	} {
		out, err := exec.Command(path, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "another process") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}
