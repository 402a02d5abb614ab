package shard_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/shard"
)

// A panic while a page is read fails the callers that wait for the page, and is counted.
func TestPanicInAPageFailsItsReaders(t *testing.T) { synctest.Test(t, testPanicInAPage) }

func testPanicInAPage(t *testing.T) {
	log, reg := newHooked(), prometheus.NewRegistry()
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), inMode(shard.Config{Metrics: reg}))
	defer h.Close()
	do(t, h, create("text/plain"), shard.CodeCreated)
	out := do(t, h, appendReq("text/plain", "a"), shard.CodeAppended)
	h.Drop(stream)  // and with it what memory has
	synctest.Wait() // all reads of its opening are over
	log.set(hooks{read: func() error { panic("boom") }})
	if _, err := h.ReadPage(t.Context(), stream, out.Info, out.Info.Start); !errors.Is(err, shard.ErrPanic) {
		t.Fatalf("%v", err)
	}
	want := `
# HELP fantail_panics_total Panics that cost one reader, call or link, by where they were caught.
# TYPE fantail_panics_total counter
fantail_panics_total{where="page"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "fantail_panics_total"); err != nil {
		t.Error(err)
	}
	log.set(hooks{})
	if r, err := h.ReadPage(t.Context(), stream, out.Info, out.Info.Start); err != nil || r.Len() != 1 {
		t.Errorf("%v: %d messages once it is mended", err, r.Len())
	}
	_ = shard.NewPanicHandler(nil, reg) // a second one of the same registry
}

// A caller that asks for a page where none can be gets an error.
func TestPageAboveTheTailIsAnError(t *testing.T) {
	log := newHooked()
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), inMode(shard.Config{}))
	defer h.Close()
	do(t, h, create("text/plain"), shard.CodeCreated)
	out := do(t, h, appendReq("text/plain", "a"), shard.CodeAppended)
	for _, info := range []shard.Info{
		{Exists: true, Generation: 2},
		{Exists: true, Generation: out.Info.Generation},
		{Exists: true, Generation: 2, Start: 5, Tail: 1},
		{},
		{Exists: true, Generation: 2, Start: 1 << 63, Tail: 1 << 62, LogTail: 1},
	} {
		for _, from := range []uint64{0, 1, 7, 1 << 62, ^uint64(0)} {
			if r, err := h.ReadPage(t.Context(), stream, info, shard.Pos(from)); err == nil && (r.IsZero() || r.To() <= shard.Pos(from)) {
				t.Errorf("%+v from %d: a page of nothing", info, from)
			}
		}
	}
}

// A panic while a lock may be held ends the process, though a caller recovers above it.
func TestPanicUnderALockEndsTheProcess(t *testing.T) {
	if os.Getenv("TEST_PANIC") != "" {
		log := newHooked()
		h := shard.NewManager(log, shard.NewTailBuffers(0, 0), inMode(shard.Config{}))
		log.set(hooks{read: func() error { panic("boom") }})
		defer func() {
			if v := recover(); v != nil {
				_ = shard.NewPanicHandler(nil, nil).Handle("test", v)
			}
		}()
		_, _ = h.Info(context.Background(), stream, 0)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicUnderALockEndsTheProcess$")
	cmd.Env = append(os.Environ(), "TEST_PANIC=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: boom") || !strings.Contains(string(out), "(*Stream)") {
		t.Fatalf("%v\n%s", err, out)
	}
}
