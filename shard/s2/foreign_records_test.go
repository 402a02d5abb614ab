package s2

import (
	"fmt"
	"testing"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

// These tests append records straight to S2 through the SDK, as other programs do.

func TestForeignStreamIsReadable(t *testing.T) {
	r := newTestEnv(t)
	r.createStream()
	r.appendForeign("one", "two")
	h := r.newManager()
	info := r.info(h)
	if !info.Exists || info.Generation != 0 || info.Type != shard.OctetStream || info.Tail != 2 {
		t.Fatalf("%+v", info)
	}
	r.wantHistory(h, "one", "two")
	r.appendForeign("three")
	r.wantEqual("live", r.readLive(h, 3), "one", "two", "three")
	r.mustDo(h, request(shard.OpAppend, shard.OctetStream, "four"), shard.CodeAppended)
	r.wantHistory(h, "one", "two", "three", "four")
	r.mustDo(h, request(shard.OpAppend, "text/plain", "five"), shard.CodeTypeDiffers)
}

// The owner of a foreign stream decides how long its records are kept, until a PUT makes it a
// stream of Fantail.
func TestForeignStreamKeepsItsConfiguration(t *testing.T) {
	r := newTestEnv(t)
	r.createStream()
	streams, day := r.basinClient().Streams, int64(86400)
	if _, err := streams.Reconfigure(t.Context(), sdk.ReconfigureStreamArgs{
		Stream: sdk.StreamName(id), Config: sdk.StreamReconfiguration{RetentionPolicy: &sdk.RetentionPolicy{Age: &day}},
	}); err != nil {
		t.Fatal(err)
	}
	age := func() (days int64) {
		t.Helper()
		c, err := streams.GetConfig(t.Context(), sdk.StreamName(id))
		if err != nil {
			t.Fatal(err)
		}
		if p := c.RetentionPolicy; p != nil && p.Age != nil {
			return *p.Age / day
		}
		return 0
	}
	r.appendForeign("one")
	h := r.newManager()
	r.mustDo(h, request(shard.OpAppend, shard.OctetStream, "two"), shard.CodeAppended)
	r.mustDo(h, request(shard.OpAppend, shard.OctetStream, "three"), shard.CodeAppended)
	if n := age(); n != 1 {
		t.Errorf("after appends: %d days", n)
	}
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	if n := age(); n != 0 {
		t.Errorf("after a PUT: %d days", n)
	}
	r.wantHistory(h, "one", "two", "three")
}

func TestFirstPutAdoptsForeignRecords(t *testing.T) {
	r := newTestEnv(t)
	r.createStream()
	r.appendForeign("one", "two")
	h := r.newManager()
	out := r.mustDo(h, request(shard.OpCreate, "text/plain", "three"), shard.CodeCreated)
	if out.Info.Generation == 0 || out.Info.Type != "text/plain" {
		t.Fatalf("%+v", out.Info)
	}
	r.wantHistory(h, "one", "two", "three")
	r.wantHistory(r.newManager(), "one", "two", "three")
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeExists)
}

func TestFirstPutAsJSONWantsJSON(t *testing.T) {
	r := newTestEnv(t)
	r.createStream()
	r.appendForeign(`{"a":1}`, `not json`)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "application/json"), shard.CodeForeignJSON)
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
}

func TestFirstPutAsJSONKeepsJSON(t *testing.T) {
	r := newTestEnv(t)
	r.createStream()
	r.appendForeign(`{"a":1}`, `[2]`)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "application/json"), shard.CodeCreated)
	r.wantHistory(h, `{"a":1}`, `[2]`)
}

func TestInvalidForeignJSONIsSkipped(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "application/json", "1"), shard.CodeCreated)
	r.appendForeign("2", "{oops", "3")
	r.wantHistory(h, "1", "2", "3")
	r.wantEqual("live", r.readLive(r.newManager(), 3), "1", "2", "3")
}

func TestForeignRecordsAfterCloseAreNotShown(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	q := request(shard.OpCreate, "text/plain", "one")
	q.Close = true
	closed := r.mustDo(h, q, shard.CodeCreated)
	r.appendForeign("late")
	for _, h := range []*shard.Manager{h, r.newManager()} {
		if info := r.info(h); !info.Closed || info.Tail != closed.Info.Tail {
			t.Fatalf("%+v after a record behind the end, want tail %d", info, closed.Info.Tail)
		}
		r.wantHistory(h, "one")
	}
}

func TestForeignRecordsBetweenLivesAreNotShown(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	first := r.mustDo(h, request(shard.OpCreate, "text/plain", "one"), shard.CodeCreated)
	r.mustDo(h, request(shard.OpDelete, ""), shard.CodeDeleted)
	r.appendForeign("between")
	if info := r.info(r.newManager()); info.Exists {
		t.Fatalf("%+v: a foreign record brought a deleted stream back", info)
	}
	second := r.mustDo(h, request(shard.OpCreate, "text/plain", "two"), shard.CodeCreated)
	if second.Info.Generation <= first.Info.Generation {
		t.Fatalf("life %d after %d", second.Info.Generation, first.Info.Generation)
	}
	r.wantHistory(h, "two")
	r.wantHistory(r.newManager(), "two")
}

// Records of other writers are not taken for ours: records with their own headers, with our
// header's name and other bytes, with a copy of our header, and S2's own commands.
func TestForeignHeadersAreNotTakenForOurs(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	out := r.mustDo(h, request(shard.OpCreate, "text/plain", "one"), shard.CodeCreated)
	page, err := r.log.Last(t.Context(), id, 1, 0)
	if err != nil || len(page.Records) != 1 || page.Records[0].Header == nil {
		t.Fatalf("%+v %v", page, err)
	}
	ours := page.Records[0].Header
	name := []byte(shard.HeaderName)
	r.appendRaw(
		sdk.AppendRecord{Headers: []sdk.Header{{Name: []byte("x"), Value: []byte("y")}}, Body: []byte("own header")},
		sdk.AppendRecord{Headers: []sdk.Header{{Name: name, Value: []byte("junk")}}, Body: []byte("our name")},
		sdk.AppendRecord{Headers: []sdk.Header{{Name: name, Value: ours}}, Body: []byte("copied")},
		sdk.AppendRecord{Headers: []sdk.Header{{Name: name, Value: nil}}, Body: []byte("no value")},
	)
	if _, err := r.nativeClient().Append(t.Context(), &sdk.AppendInput{
		Records: []sdk.AppendRecord{sdk.NewFenceCommandRecord("", nil)},
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"one", "own header", "our name", "copied", "no value"}
	r.wantHistory(h, want...)
	r.wantHistory(r.newManager(), want...)
	if info := r.info(h); info.Generation != out.Info.Generation || info.Closed {
		t.Fatalf("%+v", info)
	}
	r.mustDo(h, request(shard.OpAppend, "text/plain", "two"), shard.CodeAppended)
	r.wantHistory(h, append(want, "two")...)
}

// With a foreign writer, a node without followers still answers correctly, and never refuses
// because of old state.
func TestForeignRecordsAreSeenThoughNothingIsFollowed(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	var want []string
	for i := range 20 {
		body := fmt.Sprint(i)
		r.appendForeign(body)
		want = append(want, body)
		// An answer may be 250 ms old. After an append of ours it is exact.
		if i%5 == 4 {
			r.mustDo(h, request(shard.OpAppend, "text/plain", "ours"+body), shard.CodeAppended)
			want = append(want, "ours"+body)
			r.wantHistory(h, want...)
		}
	}
	other := r.newManager()
	q := request(shard.OpAppend, "")
	q.Close = true
	r.mustDo(other, q, shard.CodeAppended)
	r.mustDo(h, request(shard.OpAppend, "text/plain", "late"), shard.CodeClosed)
}

// A program that reads S2 directly sees our messages as plain records, with unchanged bodies.
func TestNativeReaderSeesMessages(t *testing.T) {
	r := newTestEnv(t)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "application/json"), shard.CodeCreated)
	r.mustDo(h, request(shard.OpAppend, "application/json", `{"a":1}`, `2`), shard.CodeAppended)
	from, count := uint64(0), uint64(100)
	batch, err := r.nativeClient().Read(t.Context(), &sdk.ReadOptions{SeqNum: &from, Count: &count})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rec := range batch.Records {
		if len(rec.Body) > 0 { // control records have no body
			got = append(got, string(rec.Body))
		}
	}
	r.wantEqual("records", got, `{"a":1}`, `2`)
}
