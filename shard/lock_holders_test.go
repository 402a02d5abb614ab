package shard

import (
	"context"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fantail-dev/fantail/shard/tail"
)

// The names of lock holders are those that a stack shows, whatever package the type is in.
func TestLockHoldersAreNamedAsInAStack(t *testing.T) {
	for i, method := range []any{(*Stream).waitReady, (*tail.Buffer).Info, (*tail.Buffers).Bytes, (*Manager).Info} {
		name := runtime.FuncForPC(reflect.ValueOf(method).Pointer()).Name()
		if !strings.HasPrefix(name[strings.LastIndexByte(name, '/')+1:], lockHolders[i]) {
			t.Errorf("%s does not begin with %s", name, lockHolders[i])
		}
	}
}

// pagesLog returns the same records to every caller.
type pagesLog struct {
	Log
	recs []Record
}

func (l pagesLog) Read(_ context.Context, _ StreamID, from Pos, _ int) (Page, error) {
	return Page{Records: slices.Clone(l.recs[from:])}, nil
}

// Goroutines that read the end of one log together touch its fold under mu alone: the race
// detector says so otherwise. Every record is folded once.
func TestGoroutinesCatchUpTogether(t *testing.T) {
	t.Parallel()
	const records, goroutines = 8, 4
	first := State{exists: true, generation: 1, contentType: OctetStream}
	log := pagesLog{}
	for pos := range Pos(records) {
		h := Header{Kind: KindMessage, Flags: FlagFirst | FlagLast}
		if pos == 0 {
			h = Header{Kind: KindCheckpoint, State: first.encode()}
		}
		log.recs = append(log.recs, Record{Pos: pos, Header: h.encode(pos)})
	}
	manager := NewManager(log, tail.NewBuffers(0, 0), Config{})
	defer func() { _ = manager.Close() }()
	for range 100 {
		s := manager.newStream("p/s")
		fold := &State{} // the first page has to show that a checkpoint is there
		s.state = fold
		var wg sync.WaitGroup
		for range goroutines {
			wg.Go(func() {
				if err := s.catchUp(t.Context(), fold, records); err != nil {
					t.Error(err)
				}
			})
		}
		if wg.Wait(); fold.Next != records || !fold.rooted {
			t.Fatalf("the fold ends at %d of %d", fold.Next, records)
		}
	}
}
