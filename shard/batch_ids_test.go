package shard_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// withBatchIDs returns a Manager that pipelines, in a fleet that reads the ids of batches.
func withBatchIDs(t testing.TB, log shard.Log, to *bytes.Buffer) *shard.Manager {
	t.Helper()
	cfg := shard.Config{Pipelining: shard.PipeliningAuto}.WithBatchIDs()
	if to != nil {
		cfg.Logger = slog.New(slog.NewTextHandler(to, nil))
	}
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), cfg)
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// Each batch on a session carries an id, and each that stands on one in flight names that one. Calls
// carry none, and so does everything while a member of the fleet does not read them.
func TestBatchIDs(t *testing.T) {
	for name, open := range map[string]func(testing.TB, shard.Log) *shard.Manager{
		"level 2": func(t testing.TB, log shard.Log) *shard.Manager { return withBatchIDs(t, log, nil) },
		"level 1": func(t testing.TB, log shard.Log) *shard.Manager { return pipelining(t, log) },
	} {
		synctest.Test(t, func(t *testing.T) {
			log := logtest.NewMemory(1)
			log.Latency = 50 * time.Millisecond
			h := open(t, log)
			do(t, h, create("text/plain"), shard.CodeCreated)
			do(t, h, plain(0), shard.CodeAppended)
			openLoop(t, h, 1000, 2*time.Second, plain)
			do(t, h, appendReq("text/plain", strings.Repeat("x", 3<<20)), shard.CodeAppended)
			openLoop(t, h, 100, time.Second, plain)
			var last shard.AppendID
			lastEnd, ids, bases := shard.Pos(0), 0, 0
			for _, r := range log.Records(stream) {
				id, base := shard.BatchIDs(r)
				if !base.IsZero() {
					if bases++; base != last || lastEnd != r.Pos {
						t.Fatalf("%s: at %d: expects %v, and %v ends at %d", name, r.Pos, base, last, lastEnd)
					}
				}
				if !id.IsZero() {
					ids++
					last, lastEnd = id, r.Pos+1
				}
			}
			onSession, _ := h.BatchesOnSessions()
			switch {
			case name == "level 1" && ids+bases > 0:
				t.Errorf("%s: %d ids, %d bases", name, ids, bases)
			case name == "level 2" && (ids != int(onSession) || bases < ids/2 || bases == ids):
				t.Errorf("%s: %d ids and %d bases in %d batches", name, ids, bases, onSession)
			}
			heir := withBatchIDs(t, log, nil)
			if got := history(t, heir); len(got) != 1+2000+1+100 || h.BrokenLogs()+heir.BrokenLogs() > 0 {
				t.Errorf("%s: %d messages", name, len(got))
			}
		})
	}
}

// Storage that goes on after a refusal breaks its promise: a batch is written on another writer's
// record. All is shown, the node says so, and pipelines no more.
func TestBrokenLogEndsPipelining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency, log.GoesOn = 50*time.Millisecond, true
		var said bytes.Buffer
		h := withBatchIDs(t, log, &said)
		do(t, h, create("text/plain"), shard.CodeCreated)
		openLoop(t, h, 100, time.Second, plain)
		done := make(chan struct{})
		go func() {
			defer close(done)
			advance(203 * time.Millisecond)
			log.AppendForeign(stream, "foreign")
		}()
		openLoop(t, h, 100, time.Second, plain)
		<-done
		if n := h.BrokenLogs(); n == 0 || !strings.Contains(said.String(), "level=ERROR") || !strings.Contains(said.String(), "expects batch") {
			t.Errorf("%d broken logs: %s", n, said.String())
		}
		before, _ := h.BatchesOnSessions()
		openLoop(t, h, 200, time.Second, plain)
		if after, _ := h.BatchesOnSessions(); after != before || h.AppendSessions() > 0 {
			t.Errorf("%d more batches on sessions, %d sessions", after-before, h.AppendSessions())
		}
		if records, messages := len(log.Records(stream)), len(history(t, h)); messages < records-20 {
			t.Errorf("%d messages of %d records", messages, records)
		}
	})
}

// What a handover and a gap leave open is no finding, and neither is a record that only looks like one
// of a session.
func TestBaseBelowIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := withBatchIDs(t, log, nil)
		do(t, h, create("text/plain"), shard.CodeCreated)
		openLoop(t, h, 1000, 3*time.Second, plain)
		handed, ok := h.HandOver(stream, 0)
		heir := withBatchIDs(t, log, nil)
		if err := heir.InstallHandover(stream, handed); !ok || err != nil {
			t.Fatal(ok, err)
		}
		openLoop(t, heir, 1000, time.Second, plain)
		late := withBatchIDs(t, log, nil)
		openLoop(t, late, 100, time.Second, plain)
		log.DropBelow(stream, shard.Pos(len(log.Records(stream))-7)) // in the middle of what is there
		cut := withBatchIDs(t, log, nil)
		if _, err := cut.Info(t.Context(), stream, 0); err != nil {
			t.Fatal(err)
		}
		if n := h.BrokenLogs() + heir.BrokenLogs() + late.BrokenLogs() + cut.BrokenLogs(); n > 0 {
			t.Errorf("%d broken logs", n)
		}
	})
}

// A stream is released while only some parts of an append are on their way: the append is certainly
// not written, or written, and nothing waits for more parts.
func TestHandoverInTheMiddleOfParts(t *testing.T) {
	for _, after := range []time.Duration{time.Millisecond, 40 * time.Millisecond, 52 * time.Millisecond, 90 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			log := logtest.NewMemory(1)
			log.Latency = 50 * time.Millisecond
			h := withBatchIDs(t, log, nil)
			do(t, h, create("text/plain"), shard.CodeCreated)
			do(t, h, plain(0), shard.CodeAppended)
			big := appendReq("text/plain", strings.Repeat("x", 15<<20))
			wait := doLater(t.Context(), h, big)
			advance(after)
			began := time.Now()
			h.HandOver(stream, 0)
			if d := time.Since(began); d > time.Second {
				t.Errorf("%v: handed over after %v", after, d)
			}
			out, err := wait()
			heir := withBatchIDs(t, log, nil)
			switch {
			case err == nil && out.Code == shard.CodeAppended:
			case !errors.Is(err, shard.ErrNotOwner) || errors.Is(err, shard.ErrOutcomeUnknown):
				t.Errorf("%v: %+v, %v", after, out, err)
			default:
				do(t, heir, big, shard.CodeAppended)
			}
			if got := history(t, heir); len(got) != 2 || len(got[1]) != 15<<20 {
				t.Errorf("%v: %d messages", after, len(got))
			}
		})
	}
}

// A log is deleted, or the node pipelines no more, in the middle of an append in parts.
func TestPartsAreDecidedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.Latency = 50 * time.Millisecond
		h := withBatchIDs(t, log, nil)
		do(t, h, create("text/plain"), shard.CodeCreated)
		do(t, h, plain(0), shard.CodeAppended)
		wait := doLater(t.Context(), h, appendReq("text/plain", strings.Repeat("x", 15<<20)))
		advance(10 * time.Millisecond)
		h.StopPipelining()
		if out, err := wait(); err != nil || out.Code != shard.CodeAppended {
			t.Errorf("%+v, %v", out, err)
		}
		if got := fmt.Sprint(len(history(t, h))); got != "2" {
			t.Error(got, "messages")
		}
	})
}
