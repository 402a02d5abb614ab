package s2dev

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// FaultKind is the kind of a fault.
type FaultKind int

const (
	// LoseAck aborts the connection (in HTTP/2: resets the stream) after the operation was done. In
	// an append session it loses the ack of one batch and ends the session.
	LoseAck FaultKind = iota + 1
	// LoseRequest aborts the connection before the operation is done.
	LoseRequest
	// DelayBefore delays the operation before it is done, for Delay or until Release.
	DelayBefore
	// DelayAfter delays the answer after the operation was done, for Delay or until Release. In a
	// read session it delays each frame.
	DelayAfter
	// CutFrame sends half of a session's next frame and aborts the connection.
	CutFrame
	// EndSession ends a session's body cleanly and immediately, also while it is idle.
	EndSession
	// Silence keeps a read session open and sends nothing more, not even heartbeats, until the
	// fault is removed.
	Silence
	// Refuse answers Code before the operation is done. In an append session the answer is a
	// terminal frame.
	Refuse
)

// Fault selects operations and says what happens to them.
type Fault struct {
	Stream string // the stream's name without its basin; empty: every stream
	Op     Op     // empty: every operation
	Kind   FaultKind
	// Count is the number of operations that the fault hits; 0: all until it is removed.
	Count int
	// Probability of hitting a selected operation, in (0, 1]; 0: always. Seed makes the draws
	// repeatable.
	Probability float64
	Seed        uint64
	// Delay of DelayBefore and DelayAfter; 0: until Release or Remove.
	Delay time.Duration
	// Code of Refuse: a code of S2 (rate_limited, unavailable, transaction_conflict, …), or
	// seq_num_mismatch and fencing_token_mismatch for the two 412s. Empty: unavailable.
	Code string
	// Expected is the sequence number in a seq_num_mismatch; 0: the stream's tail.
	Expected uint64
}

// Faults makes operations fail on purpose. It is safe for concurrent use.
type Faults struct {
	anyActive atomic.Bool // active is not empty: every operation reads this first
	mu        sync.Mutex
	active    []*Injected
	changed   chan struct{}                     // closed and replaced when active changes; idle sessions check again
	denied    atomic.Pointer[map[string]string] // codes by token; a map is never changed after it is stored
}

// Deny refuses all later requests with a token by a code (authn, permission_denied), as S2 refuses
// a revoked token. An empty code allows the token again. Open sessions stay open. Without Deny the
// server accepts every token.
func (f *Faults) Deny(token, code string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]string{}
	if old := f.denied.Load(); old != nil {
		maps.Copy(all, *old)
	}
	if all[token] = code; code == "" {
		delete(all, token)
	}
	f.denied.Store(&all)
}

// checkToken returns the refusal of a token, or nil.
func (f *Faults) checkToken(authorization string) *apiError {
	all := f.denied.Load()
	if all == nil {
		return nil
	}
	if code := (*all)[strings.TrimPrefix(authorization, "Bearer ")]; code != "" {
		return newError(code, "the token is not allowed to do this")
	}
	return nil
}

// Injected is an active Fault. Its counters, rand and channels are guarded by the Faults' mu; fault,
// owner and removed never change.
type Injected struct {
	fault    Fault
	owner    *Faults
	rand     *rand.Rand
	fired    int
	held     int
	progress chan struct{} // closed and replaced when fired or held grow
	release  chan struct{} // closed and replaced by Release
	removed  chan struct{} // closed by Remove
}

func newFaults() *Faults { return &Faults{changed: make(chan struct{})} }

// Add activates a fault. Faults are tried in the order in which they were added.
func (f *Faults) Add(fault Fault) *Injected {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := &Injected{
		fault: fault, owner: f, rand: rand.New(rand.NewPCG(fault.Seed, 0)),
		progress: make(chan struct{}), release: make(chan struct{}), removed: make(chan struct{}),
	}
	f.active = append(f.active, i)
	f.anyActive.Store(true)
	f.notifyChanged()
	return i
}

// Clear removes every fault.
func (f *Faults) Clear() {
	f.mu.Lock()
	all := slices.Clone(f.active)
	f.mu.Unlock()
	for _, i := range all {
		i.Remove()
	}
}

func (f *Faults) notifyChanged() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Fired returns how many operations the fault has hit.
func (i *Injected) Fired() int {
	i.owner.mu.Lock()
	defer i.owner.mu.Unlock()
	return i.fired
}

// Held returns how many operations the fault delays now.
func (i *Injected) Held() int {
	i.owner.mu.Lock()
	defer i.owner.mu.Unlock()
	return i.held
}

// Wait returns when the fault has hit n operations, or with the context's error.
func (i *Injected) Wait(ctx context.Context, n int) error {
	for {
		i.owner.mu.Lock()
		fired, more := i.fired, i.progress
		i.owner.mu.Unlock()
		if fired >= n {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Release ends the current delays of the fault. Later operations are delayed again.
func (i *Injected) Release() {
	i.owner.mu.Lock()
	defer i.owner.mu.Unlock()
	close(i.release)
	i.release = make(chan struct{})
}

// Remove deactivates the fault and ends its delays. It may be called again.
func (i *Injected) Remove() {
	f := i.owner
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-i.removed:
		return
	default:
	}
	close(i.removed)
	f.active = slices.DeleteFunc(f.active, func(x *Injected) bool { return x == i })
	f.anyActive.Store(len(f.active) > 0)
	f.notifyChanged()
}

// hit returns the first active fault of a kind that hits an operation, and counts the hit; nil:
// there is none.
func (f *Faults) hit(stream string, op Op, kind FaultKind) *Injected {
	if !f.anyActive.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.active {
		if i.fault.Kind != kind || i.fault.Stream != "" && i.fault.Stream != stream ||
			i.fault.Op != "" && i.fault.Op != op ||
			i.fault.Count > 0 && i.fired >= i.fault.Count {
			continue
		}
		if p := i.fault.Probability; p > 0 && i.rand.Float64() >= p {
			continue
		}
		i.fired++
		close(i.progress)
		i.progress = make(chan struct{})
		return i
	}
	return nil
}

func (f *Faults) changes() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (i *Injected) addHeld(n int) <-chan struct{} {
	i.owner.mu.Lock()
	defer i.owner.mu.Unlock()
	i.held += n
	return i.release
}

// delay waits for Delay, until Release or Remove, or until ctx ends.
func (i *Injected) delay(ctx context.Context) {
	release := i.addHeld(1)
	defer i.addHeld(-1)
	var after <-chan time.Time
	if i.fault.Delay > 0 {
		t := time.NewTimer(i.fault.Delay)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-after:
	case <-release:
	case <-i.removed:
	case <-ctx.Done():
	}
}

// applyBefore applies the faults that come before an operation. lost: the connection is to be
// aborted.
func (f *Faults) applyBefore(
	ctx context.Context, stream string, op Op, st *stream,
) (lost bool, err *apiError) {
	if i := f.hit(stream, op, DelayBefore); i != nil {
		i.delay(ctx)
	}
	if f.hit(stream, op, LoseRequest) != nil {
		return true, nil
	}
	if i := f.hit(stream, op, Refuse); i != nil {
		return false, i.fault.refusal(st)
	}
	return false, nil
}

// applyAfter applies the faults that come after an operation. lost: the connection is to be
// aborted.
func (f *Faults) applyAfter(ctx context.Context, stream string, op Op) (lost bool) {
	if i := f.hit(stream, op, DelayAfter); i != nil {
		i.delay(ctx)
	}
	return f.hit(stream, op, LoseAck) != nil
}

func (f Fault) refusal(st *stream) *apiError {
	switch f.Code {
	case "seq_num_mismatch":
		expected := f.Expected
		if expected == 0 && st != nil {
			tail, _, _ := st.durableState()
			expected = tail.Seq
		}
		return seqMismatch(expected)
	case "fencing_token_mismatch":
		return fenceMismatch("fault")
	case "":
		return newError("unavailable", "fault")
	}
	return newError(f.Code, "fault")
}
