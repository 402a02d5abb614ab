package s2dev

import (
	"strings"
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
)

const fullAt = 10_000

// openFull is a server whose memory one stream of two records fills.
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

// A stream's end is a trim and the record that says so.
func TestFullMemoryCanBeEmptied(t *testing.T) {
	s, d := openFull(t)
	mustAppend(t, d, withTrim(3, textRecords(strings.Repeat("x", 4000))))
	if used := s.catalogue.storage.(*memoryStorage).used.Load(); used > 4200 {
		t.Fatalf("%d bytes used", used)
	}
	mustAppend(t, d, textRecords(strings.Repeat("x", 4800)))
}

// A trim that trims nothing is no way around the bound.
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

// What a trim makes is counted once, also while it has yet to come.
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
