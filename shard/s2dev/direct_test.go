package s2dev

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
)

// textRecords returns a batch for Direct.
func textRecords(bodies ...string) *pb.AppendInput {
	in := &pb.AppendInput{}
	for _, b := range bodies {
		in.Records = append(in.Records, &pb.AppendRecord{Body: []byte(b)})
	}
	return in
}

// withTrim puts a trim before a batch.
func withTrim(to uint64, in *pb.AppendInput) *pb.AppendInput {
	trim := &pb.AppendRecord{
		Headers: []*pb.Header{{Value: []byte("trim")}},
		Body:    binary.BigEndian.AppendUint64(nil, to),
	}
	in.Records = append([]*pb.AppendRecord{trim}, in.Records...)
	return in
}

// openDirect returns a server, and a basin of it with a stream.
func openDirect(t *testing.T, cfg Config) (*Server, *Direct) {
	t.Helper()
	cfg.Basins = append(cfg.Basins, testBasin)
	s := open(t, cfg)
	d := s.Direct(testBasin)
	if err := d.EnsureStream(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	return s, d
}

func mustAppend(t *testing.T, d *Direct, in *pb.AppendInput) {
	t.Helper()
	if _, _, _, err := d.Append(t.Context(), "s", in); err != nil {
		t.Fatal(err)
	}
}

func wantRefusal(t *testing.T, err error, status int, code string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != status || e.Code != code {
		t.Fatalf("got %v, want %d %s", err, status, code)
	}
}

// A long Follow ends with its context between batches, and not only at the tail.
func TestFollowEndsBetweenBatchesWithItsContext(t *testing.T) {
	enough := errors.New("enough")
	for name, want := range map[string]error{"cancelled": enough, "closed": ErrNoAnswer} {
		t.Run(name, func(t *testing.T) {
			s, d := openDirect(t, Config{})
			for range 3 {
				mustAppend(t, d, textRecords(make([]string, maxBatchRecords)...))
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			closed := make(chan error, 1)
			calls := 0
			err := d.Follow(ctx, "s", 0, func([]*pb.SequencedRecord, uint64) error {
				if calls++; calls > 1 {
					return nil
				}
				if name == "cancelled" {
					cancel(enough)
					return nil
				}
				go func() { closed <- s.Close() }()
				<-s.stopping.Done()
				return nil
			})
			if !errors.Is(err, want) || calls != 1 {
				t.Errorf("%v after %d batches", err, calls)
			}
			if name == "closed" && <-closed != nil {
				t.Error("close")
			}
		})
	}
}
