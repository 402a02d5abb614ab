package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// sourceState returns the State of a fork's source: from memory, if that knows of the hold,
// otherwise from its log.
func (m *Manager) sourceState(ctx context.Context, id StreamID, fork *Fork) (*State, error) {
	m.mu.Lock()
	s := m.streams.byID[fork.Source]
	m.mu.Unlock()
	if s != nil {
		s.mu.Lock()
		if s.opened && s.state.forkRefs.rows[fork.Hold].fork == id {
			known := s.state.snapshot()
			s.mu.Unlock()
			return known, nil
		}
		s.mu.Unlock()
	}
	return m.sources.read(ctx, fork, id)
}

const (
	// maxSourceFolds bounds the logs that are folded together for their States alone, and
	// foldsPerProject those of one project.
	maxSourceFolds  = 16
	foldsPerProject = maxSourceFolds / 2
	// maxLongSources bounds the sources that are remembered as too long. When it is full another
	// source is forgotten, which costs a bounded read.
	maxLongSources = 1024
)

// sourceReader folds the logs of sources for their States alone. Callers that ask for one source at
// the same time share a fold, and the projects share maxSourceFolds turns.
type sourceReader struct {
	log   Log
	now   func() time.Time
	turns chan struct{}

	mu       sync.Mutex
	folds    map[StreamID]*sourceFold // under way, or waiting for a turn
	projects map[string]*projectTurns // of those folds
	long     map[StreamID]time.Time   // sources that are too long, and until when that is remembered
	begun    uint64                   // number of the newest fold
}

// sourceFold is one fold of a source's log.
type sourceFold struct {
	done   chan struct{}
	number uint64 // guarded by sourceReader.mu; 0: it waits for its turn
	state  *State // immutable; set before done is closed, as err is
	err    error
	gaveUp bool // the caller that ran it had no time left; set before done is closed
}

// projectTurns holds the turns of one project.
type projectTurns struct {
	turns chan struct{}
	folds int // guarded by sourceReader.mu: those that have a turn or wait for one
}

func newSourceReader(log Log, now func() time.Time) *sourceReader {
	return &sourceReader{
		log: log, now: now, turns: make(chan struct{}, maxSourceFolds),
		folds: map[StreamID]*sourceFold{}, projects: map[string]*projectTurns{}, long: map[StreamID]time.Time{},
	}
}

// read returns the State of the source of the fork id. A fold that began before the caller came
// answers it only if it knows of the hold, or that the log is too long.
func (r *sourceReader) read(ctx context.Context, fork *Fork, id StreamID) (*State, error) {
	r.mu.Lock()
	began := r.begun
	r.mu.Unlock()
	for {
		f, mine, err := r.join(fork.Source)
		switch {
		case err != nil:
			return nil, err
		case mine:
			r.run(ctx, f, fork.Source)
			return f.state, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		held := f.err == nil && f.state.forkRefs.rows[fork.Hold].fork == id
		if held || errors.Is(f.err, errLongSource) || f.number > began && !f.gaveUp {
			return f.state, f.err
		}
	}
}

// join returns the fold of a source that is under way, or else a new one, which the caller has to
// run. errLongSource: the source is known to be too long.
func (r *sourceReader) join(source StreamID) (f *sourceFold, mine bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until, known := r.long[source]; known {
		if r.now().Before(until) {
			return nil, false, errLongSource
		}
		delete(r.long, source)
	}
	if f = r.folds[source]; f != nil {
		return f, false, nil
	}
	f = &sourceFold{done: make(chan struct{})}
	r.folds[source] = f
	return f, true, nil
}

// run folds the log of a source at its turn, and tells those that joined.
func (r *sourceReader) run(ctx context.Context, f *sourceFold, source StreamID) {
	release, err := r.waitTurn(ctx, source.Project())
	if err == nil {
		r.mu.Lock()
		r.begun++
		f.number = r.begun
		r.mu.Unlock()
		f.state, err = readState(ctx, r.log, source)
		release()
	}
	f.err, f.gaveUp = err, err != nil && ctx.Err() != nil
	r.mu.Lock()
	delete(r.folds, source)
	if errors.Is(err, errLongSource) {
		r.noteLong(source)
	}
	r.mu.Unlock()
	close(f.done)
}

// noteLong remembers that a source is too long to be read, under mu.
func (r *sourceReader) noteLong(source StreamID) {
	for other := range r.long {
		if len(r.long) < maxLongSources {
			break
		}
		delete(r.long, other)
	}
	r.long[source] = r.now().Add(sweepRefsEvery)
}

// waitTurn waits for one of the turns, of which one project has at most foldsPerProject.
func (r *sourceReader) waitTurn(ctx context.Context, project string) (release func(), err error) {
	r.mu.Lock()
	p := r.projects[project]
	if p == nil {
		p = &projectTurns{turns: make(chan struct{}, foldsPerProject)}
		r.projects[project] = p
	}
	p.folds++
	r.mu.Unlock()
	leave := func() {
		r.mu.Lock()
		if p.folds--; p.folds == 0 {
			delete(r.projects, project)
		}
		r.mu.Unlock()
	}
	select {
	case p.turns <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
	select {
	case r.turns <- struct{}{}:
		return func() { <-r.turns; <-p.turns; leave() }, nil
	case <-ctx.Done():
		<-p.turns
		leave()
		return nil, context.Cause(ctx)
	}
}

// maxFoldRecords and maxFoldBytes bound what is read of one log for its State alone. A source that
// Fantail writes to has a checkpoint within a few thousand records, or one large append; of one
// that others have written more to, no fork can be confirmed until its owner has written a
// checkpoint, or has it in memory here.
const (
	// maxFoldRecords and maxFoldBytes bound what is read of one log for its State alone. A source
	// that Fantail writes to has a checkpoint within a few thousand records, or one large append.
	// If others have written more than that to a source, none of its forks can be confirmed until
	// its owner has written a checkpoint, or has the source in memory here.
	maxFoldRecords = 100_000
	maxFoldBytes   = 64 << 20
)

var errLongSource = fmt.Errorf("%w: to confirm the fork, more than %d records or %d bytes of a source's log would have to be read",
	ErrUnavailable, maxFoldRecords, maxFoldBytes)

// boundedLog is a Log with a bound on what may be read of it.
type boundedLog struct {
	Log
	records, bytes int // left
}

// Replay implements Log. errLongSource: the bound is reached.
func (l *boundedLog) Replay(ctx context.Context, id StreamID, from, to Pos, fn func(Page) error) error {
	return l.Log.Replay(ctx, id, from, to, func(p Page) error {
		l.records -= len(p.Records)
		for i := range p.Records {
			l.bytes -= p.Records[i].Size
		}
		if l.records < 0 || l.bytes < 0 {
			return errLongSource
		}
		return fn(p)
	})
}

// readState folds the log of a stream that this node need not own. errLongSource: there is too much
// to be read.
func readState(ctx context.Context, log Log, id StreamID) (fold *State, err error) {
	log = &boundedLog{log, maxFoldRecords, maxFoldBytes}
	last, err := log.Last(ctx, id, 1, 0)
	if err != nil {
		return nil, err
	}
	if len(last.Records) == 0 {
		return &State{Next: last.Tail, rooted: true}, nil
	}
	err = foldFromCheckpoint(ctx, log, id, last, func(from, tail Pos) (err error) {
		fold, err = foldLog(ctx, log, id, from, tail)
		return err
	})
	return fold, err
}

// foldLog folds the records [from, tail) of a log into a State of its own.
func foldLog(ctx context.Context, log Log, id StreamID, from, tail Pos) (*State, error) {
	fold := &State{Next: from, rooted: from == 0}
	err := log.Replay(ctx, id, from, tail, func(p Page) error { return fold.foldAll(p.Records) })
	return fold, err
}
