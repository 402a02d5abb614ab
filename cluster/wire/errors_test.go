package wire

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// Every error that package shard exports has a reason of its own on the wire.
func TestEveryErrorHasAReason(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("../../shard/*.go")
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]bool{}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for name, o := range file.Scope.Objects {
			if o.Kind == ast.Var && strings.HasPrefix(name, "Err") {
				exported[name] = true
			}
		}
	}
	delete(exported, "ErrLogUnreachable") // it travels as the ErrLogBusy that it wraps
	delete(exported, "ErrNoBasin")        // as the ErrLogDenied that it wraps, like the next
	delete(exported, "ErrLogUnauthenticated")
	delete(exported, "ErrPanic")  // as a call that failed
	exported["ErrCreated"] = true // this package's own
	if len(exported) != len(errorReasons) {
		t.Errorf("%d rows for %q", len(errorReasons), slices.Sorted(maps.Keys(exported)))
	}
	reasons := map[relaypb.Reason]bool{}
	for _, row := range errorReasons {
		if reasons[row.reason] {
			t.Errorf("%v is said of two errors", row.reason)
		}
		reasons[row.reason] = true
	}
}

// Errors that carry a position arrive with it.
func TestErrorsKeepTheirPosition(t *testing.T) {
	t.Parallel()
	var tail *shard.TailError
	if err := StatusToError(ErrorToStatus(&shard.TailError{Tail: 9})); !errors.As(err, &tail) || tail.Tail != 9 {
		t.Errorf("%v", err)
	}
	var gap *shard.GapError
	if err := StatusToError(ErrorToStatus(&shard.GapError{Next: 1 << 40})); !errors.As(err, &gap) || gap.Next != 1<<40 {
		t.Errorf("%v", err)
	}
	if StatusToError(nil) != nil || ErrorToStatus(nil) != nil {
		t.Error("no error became one")
	}
}

// An operation of a later release is not taken for an append.
func TestUnknownOperationIsRefused(t *testing.T) {
	t.Parallel()
	q := &shard.Request{Stream: "default/s", Op: shard.LastOp + 1, ID: shard.NewAppendID(), Messages: shard.NewMessages([]byte("x"))}
	if q, _, err := DecodeRequest(EncodeRequest(q, placement.Route{})); err == nil {
		t.Errorf("taken: %+v", q)
	}
}

// Whatever a peer sends as a write is refused or understood, within the bounds.
func FuzzWriteHead(f *testing.F) {
	seed, err := proto.Marshal(EncodeRequest(&shard.Request{
		Stream: "p/s", Op: shard.OpAppend, ID: shard.NewAppendID(), Type: "text/plain",
		Messages: shard.NewMessages([]byte("a"), []byte("bc")), Producer: &shard.Producer{ID: "w", Seq: 1},
	}, placement.Route{Hop: placement.HopRedirected, Excluded: []string{"n"}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, []byte("abc"))
	seed, err = proto.Marshal(EncodeRequest(&shard.Request{
		Stream: "p/s", Op: shard.OpAppend, ID: shard.NewAppendID(), Type: "text/plain", Messages: shard.NewMessages([]byte("a")),
		IfMatch: &shard.TailCondition{Places: []shard.Place{{Generation: 7, Pos: 9}, {}}},
	}, placement.Route{}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, []byte("a"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, b, body []byte) {
		var head relaypb.WriteHead
		if proto.Unmarshal(b, &head) != nil {
			return
		}
		_ = DecodeRoute(head.GetRoute())
		q, size, err := DecodeRequest(&head)
		if err != nil {
			return
		}
		if c := q.IfMatch; c != nil && (len(c.Places) > shard.MaxTailPlaces || q.Op != shard.OpAppend || q.Producer != nil) {
			t.Fatalf("%+v", q)
		}
		if size > shard.MaxBody || len(head.GetSizes()) > shard.MaxMessages {
			t.Fatalf("%d bytes in %d messages", size, len(head.GetSizes()))
		}
		if err := SplitMessages(q, head.GetSizes(), body); err != nil {
			return
		}
		if q.Messages.Len() > 0 && !bytes.Equal(q.Messages.Body(), body) {
			t.Fatal("another body")
		}
	})
}
