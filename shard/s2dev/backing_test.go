package s2dev

import (
	"strings"
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
)

const fullAt = 10_000

// full is a server whose memory one stream of two records fills.
func full(t *testing.T) (*Server, *Direct) {
	t.Helper()
	s, d := direct(t, Config{MaxBytes: fullAt})
	for range 2 {
		write(t, d, texts(strings.Repeat("x", 4800)))
	}
	_, _, _, err := d.Append(t.Context(), "s", texts(strings.Repeat("x", 300)))
	wantRefusal(t, err, 403, "quota_exhausted")
	return s, d
}

// A stream's end is a trim and the record that says so.
func TestFullMemoryCanBeEmptied(t *testing.T) {
	s, d := full(t)
	write(t, d, trimming(3, texts(strings.Repeat("x", 4000))))
	if used := s.store.back.(*memory).used.Load(); used > 4200 {
		t.Fatalf("%d bytes used", used)
	}
	write(t, d, texts(strings.Repeat("x", 4800)))
}

// A trim that trims nothing is no way around the bound.
func TestFullMemoryStaysBounded(t *testing.T) {
	for name, in := range map[string]func() *pb.AppendInput{
		"a trim and data": func() *pb.AppendInput { return trimming(0, texts("data")) },
		"a trim":          func() *pb.AppendInput { return trimming(0, texts()) },
	} {
		t.Run(name, func(t *testing.T) {
			s, d := full(t)
			var err error
			for i := 0; err == nil && i < 100; i++ {
				_, _, _, err = d.Append(t.Context(), "s", in())
			}
			wantRefusal(t, err, 403, "quota_exhausted")
			if used := s.store.back.(*memory).used.Load(); used > fullAt+fullAt/reserveShare {
				t.Fatalf("%d bytes used", used)
			}
			write(t, d, trimming(1, texts(strings.Repeat("x", 4000))))
		})
	}
}

// What a trim makes is counted once, also while it has yet to come.
func TestRoomIsMadeOnce(t *testing.T) {
	s, _ := full(t)
	st, bad := s.store.find(testBasin, "s")
	if bad != nil {
		t.Fatal(bad)
	}
	in, bad := checkInput(trimming(2, texts(strings.Repeat("x", 4800))))
	if bad != nil {
		t.Fatal(bad)
	}
	first, second := st.begin(in, s.cfg.Now()), st.begin(in, s.cfg.Now())
	if _, err := first.settle(); err != nil {
		t.Fatal(err)
	}
	_, err := second.settle()
	wantRefusal(t, asDirect(false, err), 403, "quota_exhausted")
}
