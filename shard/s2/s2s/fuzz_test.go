package s2s

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	sdk "github.com/s2-streamstore/s2-sdk-go/s2"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"
)

// FuzzFrames checks that frames come out alike however the bytes are cut, and that nothing grows
// beyond what has arrived.
func FuzzFrames(f *testing.F) {
	f.Add(append(batchFrame(3, "a", "b"), heartbeat(5)...), uint8(3))
	f.Add(terminal(412, `{"seq_num_mismatch":7}`), uint8(1))
	f.Add([]byte{0x1f, 0xff, 0xff, 0, 1, 2, 3}, uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		cut := func(step int) (frames [][]byte, rest int, failed bool) {
			var r frameReader
			for len(data)-rest > 0 {
				part := data[rest:min(rest+step, len(data))]
				rest += len(part)
				for len(part) > 0 {
					frame, _, left, err := r.next(part)
					if err != nil {
						return frames, 0, true
					}
					if cap(r.part) > max(2*len(r.part), partChunk) {
						t.Fatalf("%d bytes for %d", cap(r.part), len(r.part))
					}
					if part = left; frame == nil {
						break
					}
					frames = append(frames, bytes.Clone(frame))
				}
			}
			return frames, len(r.part), false
		}
		whole, rest, failed := cut(max(len(data), 1))
		parts, restToo, failedToo := cut(int(step) + 1)
		if diff := cmp.Diff(whole, parts); diff != "" || rest != restToo || failed != failedToo {
			t.Fatalf("%s %d %d %t %t", diff, rest, restToo, failed, failedToo)
		}
		for _, frame := range whole {
			_, _, _, _ = openFrame(frame)
		}
	})
}

// FuzzReadBatch checks that read batches decode as the protobuf library decodes them.
func FuzzReadBatch(f *testing.F) {
	f.Add(batchFrame(3, "a", "b")[4:])
	f.Add(heartbeat(9)[4:])
	f.Add([]byte{0x12, 2, 8, 1, 0x12, 2, 16, 2}) // a tail in two parts
	f.Add([]byte("\x80\xff\xff\x8000"))          // a field's number is too high
	header, _ := proto.Marshal(&pb.ReadBatch{Records: []*pb.SequencedRecord{{SeqNum: 1, Timestamp: 2, Headers: []*pb.Header{{Value: []byte("trim")}}, Body: make([]byte, 8)}}})
	f.Add(header)
	f.Fuzz(func(t *testing.T, data []byte) {
		var want pb.ReadBatch
		var got Batch
		bad := proto.Unmarshal(data, &want)
		err := got.decode(data, 0, func(uint64) error { return nil })
		if (bad == nil) != (err == nil) {
			t.Fatalf("%v, and protobuf: %v", err, bad)
		}
		if err != nil {
			return
		}
		tail, hasTail, hasRecords, err := scanBatch(data)
		if err != nil || hasTail != got.HasTail || tail != got.Tail || hasRecords != (len(got.Records) > 0) {
			t.Fatalf("%v %v %v %v of %+v", tail, hasTail, hasRecords, err, got)
		}
		if hasTail != (want.Tail != nil) || tail != (Position{want.GetTail().GetSeqNum(), want.GetTail().GetTimestamp()}) || len(got.Records) != len(want.Records) {
			t.Fatalf("%+v, want %s", got, &want)
		}
		for i := range got.Records {
			compareRecord(t, &got.Records[i], want.Records[i])
		}
	})
}

func compareRecord(t *testing.T, got *Record, want *pb.SequencedRecord) {
	t.Helper()
	one := sdk.SequencedRecord{SeqNum: want.GetSeqNum(), Timestamp: want.GetTimestamp(), Body: want.GetBody()}
	for _, h := range want.GetHeaders() {
		one.Headers = append(one.Headers, sdk.Header{Name: h.GetName(), Value: h.GetValue()})
	}
	same := got.SeqNum == one.SeqNum && got.Timestamp == one.Timestamp && bytes.Equal(got.Body, one.Body) &&
		len(got.Headers) == len(one.Headers) && got.IsCommand() == one.IsCommandRecord() && got.MeteredSize() == int(sdk.MeteredSequencedRecordBytes(one))
	for i := 0; same && i < len(one.Headers); i++ {
		same = bytes.Equal(got.Headers[i].Name, one.Headers[i].Name) && bytes.Equal(got.Headers[i].Value, one.Headers[i].Value)
	}
	if !same {
		t.Fatalf("%+v, want %+v", got, one)
	}
}

// FuzzAck checks that acknowledgements decode as the protobuf library decodes them.
func FuzzAck(f *testing.F) {
	f.Add(ackFrame(3, 5)[4:])
	f.Add([]byte("\x80\x80\x80\x8000"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var want pb.AppendAck
		bad := proto.Unmarshal(data, &want)
		got, err := decodeAck(data)
		if (bad == nil) != (err == nil) {
			t.Fatalf("%v, and protobuf: %v", err, bad)
		}
		at := func(p *pb.StreamPosition) Position { return Position{p.GetSeqNum(), p.GetTimestamp()} }
		if err == nil && got != (Ack{at(want.Start), at(want.End), at(want.Tail)}) {
			t.Fatalf("%+v, want %s", got, &want)
		}
	})
}

// A batch encodes as the protobuf library would decode it.
func FuzzInput(f *testing.F) {
	f.Add(uint64(7), []byte("name"), []byte("value"), []byte("body"))
	f.Fuzz(func(t *testing.T, match uint64, name, value, body []byte) {
		frame := encodeInput(match, []AppendRecord{{Headers: []Header{{name, value}, {nil, value}}, Body: body}, {Body: body}})
		if n, err := frameLength(frame); err != nil || n != len(frame) || cap(frame) != len(frame) {
			t.Fatalf("frame of %d bytes says %d: %v", len(frame), n, err)
		}
		var got pb.AppendInput
		if err := proto.Unmarshal(frame[4:], &got); err != nil {
			t.Fatal(err)
		}
		first := got.Records[0]
		if got.GetMatchSeqNum() != match || got.MatchSeqNum == nil || len(got.Records) != 2 || len(first.Headers) != 2 || first.Timestamp != nil ||
			!bytes.Equal(first.Headers[0].Name, name) || !bytes.Equal(first.Headers[1].Value, value) || !bytes.Equal(got.Records[1].Body, body) {
			t.Fatalf("%s", &got)
		}
	})
}

// FuzzConnection sends bytes as a server: both sessions end when the connection does, whatever they
// are, and their ends account for all batches.
func FuzzConnection(f *testing.F) {
	var b bytes.Buffer
	w := http2.NewFramer(&b, nil)
	seed := func(what ...error) {
		if err := errors.Join(what...); err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(b.Bytes()))
	}
	seed(w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}))
	ok := []byte{0x88} // :status 200
	headers := func(id uint32) error {
		return w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: ok, EndHeaders: true})
	}
	seed(headers(1), headers(3), w.WriteData(1, false, batchFrame(0, "a")), w.WriteData(3, false, ackFrame(0, 1)))
	seed(w.WriteData(1, true, heartbeat(1)), w.WriteWindowUpdate(0, 5), w.WriteWindowUpdate(3, 5), w.WritePing(false, [8]byte{}))
	seed(w.WriteGoAway(1, http2.ErrCodeNo, nil), w.WriteRSTStream(3, http2.ErrCodeCancel))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		dialled := false
		c := NewClient(Config{Token: "x", Window: 1000, Dial: func(context.Context, string, string) (net.Conn, error) {
			if dialled {
				return nil, errors.New("only once")
			}
			dialled = true
			return ours, nil
		}})
		defer func() { _ = c.Close() }()
		r := openReader(t.Context(), t, c, peerTarget, ReadOptions{})
		a := openAppender(t.Context(), t, c, peerTarget, AppendOptions{})
		a.mustSubmit(0, "a")
		a.mustSubmit(1, "b")
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		_, _ = theirs.Write(data)
		_ = theirs.Close()
		_ = r.end()
		acks, end := a.take(3)
		refused := 0
		if end.Refused {
			refused = 1
		}
		if end.Acknowledged+refused+end.Unknown+end.Unsent != 2 || len(acks) != end.Acknowledged {
			t.Fatalf("%d acks, %+v", len(acks), end)
		}
	})
}
