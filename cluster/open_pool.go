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
func (p *openPool) submit(near bool, fn func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return false
	case p.active < p.limit:
		p.active++
		p.wg.Go(func() { p.runJobs(fn) })
		return true
	case len(p.near)+len(p.far) >= p.maxWaiting:
		return false
	case near:
		p.near = append(p.near, fn)
	default:
		p.far = append(p.far, fn)
	}
	return true
}

func (p *openPool) runJobs(fn func()) {
	for fn != nil {
		fn()
		p.mu.Lock()
		p.jobsRun++
		queue := &p.near
		if len(p.near) == 0 || len(p.far) > 0 && p.jobsRun%nearPerFar == 0 {
			queue = &p.far
		}
		fn = nil
		if len(*queue) > 0 {
			fn, (*queue)[0] = (*queue)[0], nil
			*queue = (*queue)[1:]
		} else {
			p.active--
		}
		p.mu.Unlock()
	}
}

// close refuses further functions and waits for the rest, which their context ends early.
func (p *openPool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wg.Wait()
}
