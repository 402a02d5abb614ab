package shard_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// An operator sets a retention age on a stream in S2. While there is a checkpoint the stream is
// what it was. Without one its generations are lost, and known to be, also to later owners.
func TestRetentionAgeInS2IsNoticed(t *testing.T) { synctest.Test(t, testRetentionAge) }

func testRetentionAge(t *testing.T) {
	log := logtest.NewMemory(1)
	maker := node(t, log)
	do(t, maker, create("text/plain"), shard.CodeCreated)
	for i := range 1200 {
		do(t, maker, appendReq("text/plain", fmt.Sprint(i)), shard.CodeAppended)
	}
	_ = maker.Close()

	log.DropBelow(stream, 900) // a checkpoint is above
	kept, reg, lines := newNodeWithClockOff(t, log, 0)
	info, err := kept.Info(t.Context(), stream, 0)
	if err != nil || info.Type != "text/plain" || info.Generation == 0 || info.Truncated {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, err := kept.ReadPage(t.Context(), stream, info, info.Start); err == nil {
		t.Error("what is gone is read")
	}
	if metric(t, reg, "fantail_cut_logs_total") == 0 || !strings.Contains(lines.String(), "retention age") {
		t.Errorf("nobody is told:\n%s", lines)
	}
	_ = kept.Close()

	tail := log.Records(stream)[len(log.Records(stream))-1].Pos
	log.DropBelow(stream, tail-20) // and now none is
	for round := range 2 {
		lost, reg, lines := newNodeWithClockOff(t, log, 0)
		info, err = lost.Info(t.Context(), stream, 0)
		if err != nil || !info.Truncated || info.Generation != 0 || info.LogTail <= tail {
			t.Fatalf("round %d: %+v, %v", round, info, err)
		}
		told := strings.Contains(lines.String(), `"identity lost"=true`) && metric(t, reg, "fantail_cut_logs_total") == 1
		if round == 0 && !told {
			t.Errorf("nobody is told:\n%s", lines)
		}
		for range 600 { // so many that there is a checkpoint again
			do(t, lost, appendReq(shard.OctetStream, "x"), shard.CodeAppended)
		}
		_ = lost.Close()
	}
	log.DropBelow(stream, 1<<40)
	gone, _, _ := newNodeWithClockOff(t, log, 0)
	if info, err = gone.Info(t.Context(), stream, 0); err != nil || !info.Truncated {
		t.Errorf("all is gone: %+v, %v", info, err)
	}
	if out := do(t, gone, create("text/plain", "anew"), shard.CodeCreated); out.Info.Truncated {
		t.Error("a new life is cut")
	}
}

// A log that only others write to may be trimmed as they like: nothing is reported.
func TestForeignLogMayBeTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.AppendForeign(stream, "a", "b", "c")
		log.DropBelow(stream, 1)
		h, _, lines := newNodeWithClockOff(t, log, 0)
		equal(t, func() []string {
			info, err := h.Info(t.Context(), stream, 0)
			if err != nil {
				t.Fatal(err)
			}
			r, err := h.ReadPage(t.Context(), stream, info, 1)
			if err != nil {
				t.Fatal(err)
			}
			return []string{string(r.Message(0).Body), string(r.Message(1).Body)}
		}(), []string{"b", "c"})
		if lines.Len() > 0 {
			t.Errorf("%s", lines)
		}
	})
}

// Records that S2 has lost are reported, with the positions: after the restore of an older backup,
// and with an empty store.
func TestLostRecordsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		h, reg, lines := newNodeWithClockOff(t, log, 0)
		do(t, h, create("text/plain", "a", "b", "c"), shard.CodeCreated)
		log.RollBack(stream, 2)
		advance(time.Second)
		if info, err := h.Info(t.Context(), stream, 0); err != nil || info.LogTail != 2 {
			t.Fatalf("%+v, %v", info, err)
		}
		if !strings.Contains(lines.String(), "level=ERROR") || !strings.Contains(lines.String(), `"log ends at"=2 "acknowledged up to"=4`) {
			t.Errorf("it is not said:\n%s", lines)
		}
		_, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		synctest.Wait()
		log.Wipe()
		advance(time.Minute)
		if n := metric(t, reg, "fantail_lost_logs_total"); n != 2 {
			t.Errorf("%v losses are counted:\n%s", n, lines)
		}
	})
}
