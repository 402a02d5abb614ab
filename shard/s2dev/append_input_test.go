package s2dev

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// repeatedField returns a protobuf message with a field n times.
func repeatedField(field protowire.Number, value []byte, n int) []byte {
	one := protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), value)
	return []byte(strings.Repeat(string(one), n))
}

func TestAppendBodiesAreDecodedUnderTheBoundsOfABatch(t *testing.T) {
	jsonOf := func(element, tail string, n int) []byte {
		return []byte(`{"records":[` + strings.Repeat(element+",", n-1) + element + tail + `]}`)
	}
	headers := func(n int) string {
		return `{"headers":[` + strings.Repeat(`["",""],`, n-1) + `["a",""]]}`
	}
	const records, bytes = "must not exceed 1000 records", "must not exceed 1048576 metered bytes"
	for _, c := range []struct {
		name  string
		body  []byte
		proto bool
		want  string // in the refusal; empty: it is decoded
		most  uint64 // bytes allocated
	}{
		{"json, as many records as may be", jsonOf("{}", "", 1000), false, "", 1 << 20},
		{"json, one record more", jsonOf("{}", "", 1001), false, records, 1 << 20},
		{"json, millions of records", jsonOf("{}", "", 2_700_000), false, records, 1 << 20},
		{"json, millions of records, and the last is malformed", jsonOf("{}", "x", 2_700_000), false, "invalid character", 1 << 20},
		{"json, as many headers as may be", []byte(`{"records":[` + headers(maxBatchHeaders) + `]}`), false, "", 256 << 20},
		{"json, one header more", []byte(`{"records":[` + headers(maxBatchHeaders+1) + `]}`), false, bytes, 256 << 20},
		{"json, one header more, over two records", []byte(`{"records":[` + headers(maxBatchHeaders) + "," + headers(1) + `]}`), false, bytes, 256 << 20},
		{"json, no array", []byte(`{"records":{}}`), false, "cannot unmarshal object", 1 << 20},
		{"json, null", []byte(`{"records":null}`), false, "", 1 << 20},
		{"json, null for headers", []byte(`{"records":[{"headers":null}]}`), false, "", 1 << 20},
		{"protobuf, as many records as may be", repeatedField(fieldRecords, nil, 1000), true, "", 1 << 20},
		{"protobuf, one record more", repeatedField(fieldRecords, nil, 1001), true, records, 4 << 10},
		{"protobuf, millions of records", repeatedField(fieldRecords, nil, 4_000_000), true, records, 4 << 10},
		{"protobuf, millions of headers", repeatedField(fieldRecords, repeatedField(fieldRecordHeaders, nil, 2_000_000), 1), true, bytes, 4 << 10},
		{"protobuf, the headers of a thousand records", repeatedField(fieldRecords, repeatedField(fieldRecordHeaders, nil, 600), 1000), true, bytes, 4 << 10},
		{"protobuf, malformed", append(repeatedField(fieldRecords, nil, 10), 0xff), true, "bad_proto", 64 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := decodeForTest(c.body, c.proto)
			runtime.ReadMemStats(&after)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > c.most {
				t.Errorf("%d bytes allocated, want at most %d", n, c.most)
			}
		})
	}
}

func decodeForTest(body []byte, isProto bool) error {
	if isProto {
		_, err := decodeAppendInput(body, "bad_proto")
		return asError(err)
	}
	var a jsonAppend
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	_, err := a.protobuf(false)
	return asError(err)
}

// Within the bounds of a batch, the scan before decoding changes nothing.
func FuzzDecodeAppendInput(f *testing.F) {
	f.Add(repeatedField(fieldRecords, repeatedField(fieldRecordHeaders, []byte("\x0a\x01a"), 3), 2))
	f.Add(append(repeatedField(fieldRecords, nil, 3), 0xff))
	f.Add([]byte("\x0b\x0c\x10\x05"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, bad := decodeAppendInput(raw, "bad_proto")
		want := new(pb.AppendInput)
		err := proto.Unmarshal(raw, want)
		headers := 0
		for _, r := range want.GetRecords() {
			headers += len(r.GetHeaders())
		}
		if err == nil && (len(want.GetRecords()) > maxBatchRecords || headers > maxBatchHeaders) {
			if bad == nil {
				t.Fatalf("%d records and %d headers were decoded", len(want.GetRecords()), headers)
			}
			return
		}
		if (err == nil) != (bad == nil) {
			t.Fatalf("%v, and with the bounds %v", err, bad)
		}
		if bad == nil && !proto.Equal(got, want) {
			t.Fatalf("%v, and with the bounds %v", want, got)
		}
	})
}

func TestTooManyRecordsAreRefusedByEveryAppend(t *testing.T) {
	s, c := openWithStream(t, Config{})
	many := `{"records":[` + strings.Repeat("{},", 1_000_000) + `{}]}`
	ask(t, s, "POST", "/v1/streams/s/records", many).wantAnswer(t, 422, "1000 records")
	raw := string(repeatedField(fieldRecords, nil, 500_000))
	ask(t, s, "POST", "/v1/streams/s/records", raw, "Content-Type", mimeProto).wantAnswer(t, 422, "1000 records")
	framed := string(dataFrame(plain, []byte(raw)))
	ask(t, s, "POST", "/v1/streams/s/records", framed, "Content-Type", mimeS2S).wantAnswer(t, 200, "1000 records")
	if got := tailOf(t, c); got != 0 {
		t.Fatal(fmt.Errorf("%d records were appended", got))
	}
}
