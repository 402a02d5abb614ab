package shard

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

// ListingLog is a Log that lists the names of its logs.
type ListingLog interface {
	// ListLogs returns names of a project that begin with prefix and sort above after, in their order:
	// limit of them at most. Names are relative to the project. S2: GET /streams.
	ListLogs(ctx context.Context, project, prefix, after string, limit int) (LogList, error)
}

// LogList is one page of names.
type LogList struct {
	Names []ListedLog
	// More: there are more names above the last one.
	More bool
}

// ListedLog is one log of a listing.
type ListedLog struct {
	Name    string
	Created Millis // when the log was created
}

// MaxListed bounds the names of one page.
const MaxListed = 1000

const (
	// A node lists so many pages a second, and describes so many streams that it does not own. S2
	// bills both.
	listsPerSecond       = 50
	listBurst            = 100
	summariesPerSecond   = 200
	summaryBurst         = 200
	summaryRecords       = 16  // of the first read; more are read where the last checkpoint lies further back
	maxReservedListPages = 100 // of names that no stream has
)

// listing bounds what listings ask of storage.
type listing struct {
	lists, summaries *rate.Limiter
}

func newListing() listing {
	return listing{rate.NewLimiter(listsPerSecond, listBurst), rate.NewLimiter(summariesPerSecond, summaryBurst)}
}

var errListsBusy = fmt.Errorf("%w: too many listings are asked for; try again in a moment", ErrOverloaded)

var errCannotList = fmt.Errorf("%w: it has no listing", ErrLogDenied)

// List returns the names of a project's streams that begin with prefix and sort above after, limit of
// them at most, in their order. They are names that have been used: some may be of streams that were
// deleted. Names that no stream can have are left out. calls counts the calls of storage.
func (m *Manager) List(ctx context.Context, project, prefix, after string, limit int) (list LogList, calls int, err error) {
	log, ok := m.log.Log.(ListingLog)
	switch {
	case !ok:
		return LogList{}, 0, errCannotList
	case m.StoreDown():
		return LogList{}, 0, ErrStoreDown
	}
	limit = max(1, min(limit, MaxListed))
	for calls < maxReservedListPages {
		if !m.listing.lists.Allow() {
			return LogList{}, calls, errListsBusy
		}
		page, err := log.ListLogs(ctx, project, prefix, after, limit)
		calls++
		if err != nil {
			return LogList{}, calls, storeErr(err)
		}
		for _, l := range page.Names {
			after = l.Name
			if isStreamName(project, l.Name) {
				list.Names = append(list.Names, l)
			}
		}
		if list.More = page.More; !page.More || len(page.Names) == 0 || len(list.Names) >= limit {
			break
		}
	}
	if n := len(list.Names); n > limit {
		list.Names, list.More = list.Names[:limit], true
	}
	return list, calls, nil
}

// isStreamName reports whether a stream can have the name within a project.
func isStreamName(project, name string) bool {
	_, err := ParseStreamID(project + "/" + name)
	return err == nil && utf8.ValidString(name)
}

// Summary describes a stream from its log alone.
type Summary struct {
	Info    Info
	Created Millis // when this life of the stream began; 0: it is not known
	Calls   int    // of storage
}

// Summarize describes a stream that this node need not own, as the last records of its log say. It
// keeps nothing of it in memory, and asks no other node. ErrNotFound: there is no such stream.
func (m *Manager) Summarize(ctx context.Context, id StreamID) (Summary, error) {
	var sum Summary
	if err := m.listing.summaries.Wait(ctx); err != nil {
		return sum, errListsBusy
	}
	fold, err := summarize(ctx, m.log, id, &sum.Calls)
	switch {
	case errors.Is(err, ErrNoLog):
		return sum, ErrNotFound
	case err != nil:
		return sum, storeErr(err)
	}
	now := Millis(m.cfg.Now().UnixMilli()) //nolint:gosec // after 1970
	if sum.Info = fold.Info(); !sum.Info.Exists || fold.isExpired(now, fold.lastUsed) {
		return sum, ErrNotFound
	}
	sum.Created = Millis(fold.generation / 1000)
	return sum, nil
}

// summarize folds what describes a stream: from its last records if the newest checkpoint is among
// them, and otherwise from where that is. calls counts the calls of the log.
func summarize(ctx context.Context, log Log, id StreamID, calls *int) (fold *State, err error) {
	*calls++
	last, err := log.Last(ctx, id, summaryRecords, 0)
	if err != nil {
		return nil, err
	}
	n := len(last.Records)
	if n == 0 {
		return &State{Next: last.Tail, rooted: true}, nil
	}
	newest := Page{Records: last.Records[n-1:], Tail: last.Tail, HasTail: last.HasTail}
	bounded := &boundedLog{log, maxFoldRecords, maxFoldBytes}
	err = foldFromCheckpoint(ctx, bounded, id, newest, func(from, tail Pos) (err error) {
		fold = &State{Next: from, rooted: from == 0}
		switch {
		case from >= last.Records[0].Pos:
			return fold.foldAll(last.Records[from-last.Records[0].Pos:])
		case tail-from > MaxBatchRecords: // others wrote without an end
			*calls++
			fold, err = foldLog(ctx, bounded, id, from, tail)
			return err
		}
		return fold.foldReads(ctx, log, id, tail, calls)
	})
	return fold, err
}

// foldReads folds the log from Next up to tail, with reads that open no session.
func (s *State) foldReads(ctx context.Context, log Log, id StreamID, tail Pos, calls *int) error {
	for s.Next < tail {
		*calls++
		page, err := log.Read(ctx, id, s.Next, 0)
		if err != nil {
			return err
		}
		if len(page.Records) == 0 { // trimmed meanwhile
			s.skipTo(tail)
			break
		}
		if err := s.foldAll(page.Records); err != nil {
			return err
		}
	}
	return nil
}

// foldAll folds records at Next or above.
func (s *State) foldAll(recs []Record) error {
	if err := s.checkRoot(recs); err != nil {
		return err
	}
	for _, r := range recs {
		if r.Pos > s.Next {
			s.skipTo(r.Pos)
		}
		if _, err := s.foldRecord(r); err != nil {
			return err
		}
	}
	return nil
}
