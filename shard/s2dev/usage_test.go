package s2dev

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
)

// Names that do not exist, and deleted streams, count in the total and nowhere else.
func TestUsageDoesNotGrowWithUnknownNames(t *testing.T) {
	s, d := openDirect(t, Config{})
	nothing := func([]*pb.SequencedRecord, uint64) error { return nil }
	for i := range 10 {
		name := fmt.Sprintf("no-%d", i)
		_, err := d.Tail(t.Context(), name)
		wantRefusal(t, err, 404, "stream_not_found")
		_, err = d.Read(t.Context(), name, 0, 1, 0, false)
		wantRefusal(t, err, 404, "stream_not_found")
		_, _, _, err = d.Append(t.Context(), name, textRecords("a"))
		wantRefusal(t, err, 404, "stream_not_found")
		wantRefusal(t, d.Follow(t.Context(), name, 0, nothing), 404, "stream_not_found")
		other := s.Direct("basin-that-" + name + "t")
		wantRefusal(t, other.EnsureStream(t.Context(), "s"), 404, "basin_not_found")
		path := "/v1/streams/" + name
		ask(t, s, "GET", path, "").wantAnswer(t, 404)
		ask(t, s, "DELETE", path, "").wantAnswer(t, 404)
		ask(t, s, "GET", path+"/records?seq_num=x", "").wantAnswer(t, 400)
		ask(t, s, "GET", "/v1/streams", "", "s2-basin", "basin-that-"+name+"t").wantAnswer(t, 404)
	}
	names := func() []string { return slices.Sorted(maps.Keys(s.Usage().Streams)) }
	want := []string{"", testBasin + "/", testBasin + "/s"}
	if got := names(); !slices.Equal(got, want) {
		t.Fatalf("usage of %q", got)
	}
	mustAppend(t, d, textRecords("a"))
	ended := make(chan error, 1)
	go func() { ended <- d.Follow(t.Context(), "s", 0, nothing) }()
	eventually(t, func() bool { return s.Usage().Total.RecordsRead == 1 })
	ask(t, s, "DELETE", "/v1/streams/s", "").wantAnswer(t, 202)
	wantRefusal(t, <-ended, 409, "stream_deletion_pending")
	if got := names(); !slices.Equal(got, want[:2]) {
		t.Fatalf("usage of %q", got)
	}
	u := s.Usage().Total
	for op, n := range map[Op]int64{
		OpCheckTail: 10, OpRead: 20, OpAppend: 11, OpReadSession: 11, OpEnsureStream: 11,
		OpStreamConfig: 10, OpDeleteStream: 11, OpListStreams: 10,
	} {
		if u.Ops[op] != n {
			t.Errorf("%s: %d, want %d", op, u.Ops[op], n)
		}
	}
	if u.RecordsAppended != 1 || u.ReadSessionMinutes != 1 || u.OpenReadSessions != 0 {
		t.Errorf("%+v", u)
	}
}

func TestUsageSurvivesARestart(t *testing.T) {
	s, d := openDirect(t, Config{Dir: t.TempDir()})
	mustAppend(t, d, textRecords("a"))
	ask(t, s, "GET", "/v1/streams", "").wantAnswer(t, 200)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, d, textRecords("b"))
	u := s.Usage().Streams
	if of := u[testBasin+"/s"]; of.Ops[OpAppend] != 2 || of.RecordsAppended != 2 {
		t.Errorf("the stream's: %+v", of)
	}
	if of := u[testBasin+"/"]; of.Ops[OpListStreams] != 1 {
		t.Errorf("the basin's: %+v", of)
	}
}

// A scrape holds the lock of appends for a short time, however many streams there are.
func TestScrapeDoesNotGrowWithStreams(t *testing.T) {
	s, d := openDirect(t, Config{})
	scrape := func() float64 { return testing.AllocsPerRun(10, func() { s.meter.readTotal() }) }
	one := scrape()
	for i := range 1000 {
		if err := d.EnsureStream(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if many := scrape(); many > one {
		t.Errorf("%v allocations with 1001 streams, %v with one", many, one)
	}
}
