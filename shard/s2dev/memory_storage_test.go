package s2dev

import (
	"strings"
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
)

const fullAt = 10_000

// openFull returns a server with a memory that is full with the two records of one stream.
func openFull(t *testing.T) (*Server, *Direct) {
	t.Helper()
	s, d := openDirect(t, Config{MaxBytes: fullAt})
	for range 2 {
		mustAppend(t, d, textRecords(strings.Repeat("x", 4800)))
	}
	_, _, _, err := d.Append(t.Context(), "s", textRecords(strings.Repeat("x", 300)))
	wantRefusal(t, err, 403, "quota_exhausted")
	return s, d
}

// A stream ends with a trim and a record.
func TestFullMemoryCanBeEmptied(t *testing.T) {
	s, d := openFull(t)
	mustAppend(t, d, withTrim(3, textRecords(strings.Repeat("x", 4000))))
	if used := s.catalogue.storage.(*memoryStorage).used.Load(); used > 4200 {
		t.Fatalf("%d bytes used", used)
	}
	mustAppend(t, d, textRecords(strings.Repeat("x", 4800)))
}

// Trims that free nothing do not get around the bound.
func TestFullMemoryStaysBounded(t *testing.T) {
	for name, in := range map[string]func() *pb.AppendInput{
		"a trim and data": func() *pb.AppendInput { return withTrim(0, textRecords("data")) },
		"a trim":          func() *pb.AppendInput { return withTrim(0, textRecords()) },
	} {
		t.Run(name, func(t *testing.T) {
			s, d := openFull(t)
			var err error
			for i := 0; err == nil && i < 100; i++ {
				_, _, _, err = d.Append(t.Context(), "s", in())
			}
			wantRefusal(t, err, 403, "quota_exhausted")
			if used := s.catalogue.storage.(*memoryStorage).used.Load(); used > fullAt+fullAt/reserveFraction {
				t.Fatalf("%d bytes used", used)
			}
			mustAppend(t, d, withTrim(1, textRecords(strings.Repeat("x", 4000))))
		})
	}
}

// The room that a trim makes is counted once, also before the trim is applied.
func TestRoomFromATrimIsCountedOnce(t *testing.T) {
	s, _ := openFull(t)
	st, bad := s.catalogue.findStream(testBasin, "s")
	if bad != nil {
		t.Fatal(bad)
	}
	in, bad := checkAppend(withTrim(2, textRecords(strings.Repeat("x", 4800))))
	if bad != nil {
		t.Fatal(bad)
	}
	first, second := st.startAppend(in, s.cfg.Now()), st.startAppend(in, s.cfg.Now())
	if _, err := first.complete(); err != nil {
		t.Fatal(err)
	}
	_, err := second.complete()
	wantRefusal(t, toDirectError(false, err), 403, "quota_exhausted")
}
