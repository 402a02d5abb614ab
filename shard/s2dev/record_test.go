package s2dev

import (
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// A stored record is, byte for byte, what protobuf makes of the SequencedRecord.
func TestRecordIsEncodedAsProtobufDoes(t *testing.T) {
	bytes := rapid.SliceOfN(rapid.Byte(), 0, 300)
	rapid.Check(t, func(t *rapid.T) {
		in := &pb.AppendRecord{Body: bytes.Draw(t, "body")}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			in.Headers = append(in.Headers, &pb.Header{Name: bytes.Draw(t, "name"), Value: bytes.Draw(t, "value")})
		}
		seq, time := rapid.Uint64().Draw(t, "seq"), rapid.Uint64().Draw(t, "time")
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(&pb.SequencedRecord{
			SeqNum: seq, Timestamp: time, Headers: in.Headers, Body: in.Body,
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := newRecord(in, seq, time, 0).encoded; string(got) != string(want) || cap(got) > len(got)+len(got)/4+16 {
			t.Fatalf("%x, with room for %d, want %x", got, cap(got), want)
		}
	})
}
