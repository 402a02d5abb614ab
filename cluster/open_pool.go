package cluster

import "sync"

// openPool runs functions that may block on S2, at most limit concurrently. At most maxWaiting
// wait; beyond that submit refuses, and the caller tries again later. Functions for streams that
// answersLocally go first, but for one in nearPerFar. After a change of owners a node follows the
// streams that it handed over for all its readers, and those must not wait until thousands of other
// streams are fetched.
type openPool struct {
	limit, maxWaiting int

	wg      sync.WaitGroup
	mu      sync.Mutex
	active  int
	near    []func()
	far     []func()
	jobsRun int
	closed  bool
}

const (
	maxOpening      = 64
	maxOpensWaiting = 1 << 16
	nearPerFar      = 16
)

// submit runs fn soon; false: too many wait, or the pool is closed.
func (o *openPool) submit(near bool, fn func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return false
	case o.active < o.limit:
		o.active++
		o.wg.Go(func() { o.runJobs(fn) })
		return true
	case len(o.near)+len(o.far) >= o.maxWaiting:
		return false
	case near:
		o.near = append(o.near, fn)
	default:
		o.far = append(o.far, fn)
	}
	return true
}

func (o *openPool) runJobs(fn func()) {
	for fn != nil {
		fn()
		o.mu.Lock()
		o.jobsRun++
		queue := &o.near
		if len(o.near) == 0 || len(o.far) > 0 && o.jobsRun%nearPerFar == 0 {
			queue = &o.far
		}
		fn = nil
		if len(*queue) > 0 {
			fn, (*queue)[0] = (*queue)[0], nil
			*queue = (*queue)[1:]
		} else {
			o.active--
		}
		o.mu.Unlock()
	}
}

// close refuses further functions and waits for the rest, which their context ends early.
func (o *openPool) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.wg.Wait()
}
