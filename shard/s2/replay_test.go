package s2

import (
	"bytes"
	"fmt"
	"testing"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// appendManyForeign appends more than one page straight to S2.
func (r *testEnv) appendManyForeign() {
	for i := range 3 {
		b := make([]string, 900)
		for j := range b {
			b[j] = fmt.Sprint(i, "-", j)
		}
		r.appendForeign(b...)
	}
}

// A session that ends early and cleanly is no proof that the log ends there.
func TestTakeoverSurvivesEndedSessions(t *testing.T) {
	for n := 1; n <= 4; n++ {
		r := newTestEnv(t)
		h := r.newManager()
		want := r.mustDo(h, request(shard.OpCreate, "text/plain", "first"), shard.CodeCreated)
		r.appendManyForeign()
		_ = h.Close()
		f := r.addFault(s2dev.OpReadSession, s2dev.EndSession, n)
		heir := r.newManager()
		info, err := heir.Info(t.Context(), id, 0)
		if err == nil && (info.Generation != want.Info.Generation || info.Tail != info.Start+2701) {
			t.Errorf("%d ended sessions (%d fired): %+v", n, f.Fired(), info)
		}
		f.Remove()
		r.eventually("the heir knows the stream", func() bool {
			info, err := heir.Info(t.Context(), id, 0)
			return err == nil && info.Generation == want.Info.Generation && info.Tail == info.Start+2701
		})
	}
}

func TestCatchUpSurvivesAnEndedSession(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain", "first"), shard.CodeCreated)
	r.appendManyForeign()
	r.addFault(s2dev.OpReadSession, s2dev.EndSession, 1)
	r.eventually("an append", func() bool {
		out, err := h.Do(t.Context(), request(shard.OpAppend, "text/plain", "last"))
		return err == nil && out.Code == shard.CodeAppended
	})
	if got := r.readAll(h); len(got) != 2702 || got[2701] != "last" {
		t.Errorf("%d messages", len(got))
	}
}

// After another program has trimmed all records in S2, the stream continues above the trim.
func TestStreamGoesOnAboveANativeTrim(t *testing.T) {
	for _, look := range []bool{false, true} {
		r := newTestEnv(t)
		h := r.newManager()
		r.mustDo(h, request(shard.OpCreate, "text/plain", "first"), shard.CodeCreated)
		r.appendRaw(sdk.AppendRecord{
			Headers: []sdk.Header{sdk.NewHeader("", "trim")}, Body: bytes.Repeat([]byte{0xff}, 8),
		})
		if look {
			r.info(h)
		}
		r.mustDo(h, request(shard.OpAppend, "text/plain", "after"), shard.CodeAppended)
		r.mustDo(h, request(shard.OpAppend, "text/plain", "more"), shard.CodeAppended)
	}
}
