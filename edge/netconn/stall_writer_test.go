package netconn

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// writeRecorder looks at a StallWriter whenever something is written.
type writeRecorder struct {
	*httptest.ResponseRecorder
	p   *StallWriter
	got []bool
}

func (b *writeRecorder) SetWriteDeadline(time.Time) error { return nil }

func (b *writeRecorder) Write(data []byte) (int, error) {
	b.got = append(b.got, b.p.writeBegan.Load() != 0)
	return len(data), nil
}

// A reader may get stuck at any of its writes, not only at the first of a piece: it is
// seen at each.
func TestStallIsSeenAtEveryWrite(t *testing.T) {
	t.Parallel()
	w := &writeRecorder{ResponseRecorder: httptest.NewRecorder()}
	w.p = NewStallWriter(w, httptest.NewRequest(http.MethodGet, "/", nil), time.Second)
	for range 3 {
		if _, err := w.p.Write([]byte("data: x\n\n")); err != nil {
			t.Fatal(err)
		}
	}
	for i, seen := range w.got {
		if !seen {
			t.Errorf("write %d is not seen", i)
		}
	}
	if w.p.writeBegan.Load() != 0 {
		t.Error("a write under way when all are over")
	}
}
