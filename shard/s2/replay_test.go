package s2

import (
	"bytes"
	"fmt"
	"testing"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// manyForeign appends more than one page straight to S2.
func (r *rig) manyForeign() {
	for i := range 3 {
		b := make([]string, 900)
		for j := range b {
			b[j] = fmt.Sprint(i, "-", j)
		}
		r.foreign(b...)
	}
}

// A session that ends early and cleanly is no proof that the log ends there.
func TestTakeoverThroughEndedSessions(t *testing.T) {
	for n := 1; n <= 4; n++ {
		r := newRig(t)
		h := r.host()
		want := r.do(h, request(shard.OpCreate, "text/plain", "first"), shard.CodeCreated)
		r.manyForeign()
		_ = h.Close()
		f := r.fault(s2dev.OpReadSession, s2dev.EndSession, n)
		heir := r.host()
		info, err := heir.State(t.Context(), id, 0)
		if err == nil && (info.Life != want.Info.Life || info.Tail != info.Start+2701) {
			t.Errorf("%d ended sessions (%d fired): %+v", n, f.Fired(), info)
		}
		f.Remove()
		r.eventually("the heir knows the stream", func() bool {
			info, err := heir.State(t.Context(), id, 0)
			return err == nil && info.Life == want.Info.Life && info.Tail == info.Start+2701
		})
	}
}

func TestCatchUpThroughAnEndedSession(t *testing.T) {
	r := newRig(t)
	h := r.host()
	r.do(h, request(shard.OpCreate, "text/plain", "first"), shard.CodeCreated)
	r.manyForeign()
	r.fault(s2dev.OpReadSession, s2dev.EndSession, 1)
	r.eventually("an append", func() bool {
		out, err := h.Do(t.Context(), request(shard.OpAppend, "text/plain", "last"))
		return err == nil && out.Code == shard.CodeAppended
	})
	if got := r.history(h); len(got) != 2702 || got[2701] != "last" {
		t.Errorf("%d messages", len(got))
	}
}

// Somebody trims everything straight in S2: the stream goes on above it.
func TestNativeTrim(t *testing.T) {
	for _, look := range []bool{false, true} {
		r := newRig(t)
		h := r.host()
		r.do(h, request(shard.OpCreate, "text/plain", "first"), shard.CodeCreated)
		r.raw(sdk.AppendRecord{
			Headers: []sdk.Header{sdk.NewHeader("", "trim")}, Body: bytes.Repeat([]byte{0xff}, 8),
		})
		if look {
			r.state(h)
		}
		r.do(h, request(shard.OpAppend, "text/plain", "after"), shard.CodeAppended)
		r.do(h, request(shard.OpAppend, "text/plain", "more"), shard.CodeAppended)
	}
}
