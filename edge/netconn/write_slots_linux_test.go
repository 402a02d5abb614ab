package netconn

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A connection that still writes when its turn is over, as TLS may by itself, keeps no slot
// and takes none from others.
func TestEndedSlotWriterTakesNoSlot(t *testing.T) {
	t.Parallel()
	turns := make(chan struct{}, 1)
	out := NewStallWriter(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), time.Minute)
	st := &slotWriter{group: NewWriteSlots(turns, nil), out: out, conn: &Conn{}, progressTimer: time.NewTimer(time.Hour)}
	st.acquireSlot()
	st.acquireSlot()
	if len(turns) != 1 {
		t.Fatalf("%d turns", len(turns))
	}
	st.releaseSlot()
	turns <- struct{}{} // another writer's
	late := make(chan struct{})
	go func() {
		st.acquireSlot()
		close(late)
	}()
	st.end()
	<-turns
	<-late
	if len(turns) != 0 {
		t.Error("a turn is kept when the stint is over")
	}
	turns <- struct{}{}
	st.acquireSlot()
	st.releaseSlot()
	if len(turns) != 1 {
		t.Error("somebody's turn is gone")
	}
}
