package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

// departure is a node's way out of the fleet: an operator's, who may take it back, or the
// last one.
type departure struct {
	mu     sync.Mutex
	state  drainState
	since  time.Time          // when readiness went off; zero: it did not
	final  bool               // the node stops
	cancel context.CancelFunc // of an operator's
	done   chan struct{}      // closed when that has ended
}

// drainState is what GET /admin/drain answers. Closed set.
type drainState string

const (
	stateServing  drainState = "serving"
	stateDraining drainState = "draining"
	stateDrained  drainState = "drained" // no streams and no readers; requests are still served
)

// current tells the state, and whether it is the last one.
func (d *departure) current() (s drainState, final bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == "" {
		return stateServing, d.final
	}
	return d.state, d.final
}

// depart makes others do the node's work, within ctx, in the order that loses nothing:
//
//  1. readiness off, so that no balancer sends more, and answers say not to come again;
//  2. let go of the streams, so that their heirs serve while we still relay;
//  3. serve on until balancers have heard, or readers would be sent back here;
//  4. end the readers' connections evenly over a while, each after a complete event.
func (n *node) depart(ctx context.Context) error {
	if n.edge != nil {
		n.edge.Leave()
	}
	var errs []error
	if n.relay != nil {
		n.stopStep.Store("handing streams over")
		errs = append(errs, n.relay.Leave(ctx))
	}
	if left := n.departure.remaining(n.cfg.linger); left > 0 {
		n.stopStep.Store("serving on")
		select {
		case <-time.After(left):
		case <-ctx.Done():
			errs = append(errs, context.Cause(ctx))
		}
	}
	if n.edge != nil {
		n.stopStep.Store("ending readers")
		window := min(n.cfg.drain, (n.cfg.grace-n.cfg.linger)/2)
		if n.relay == nil { // there is no other node to go to: be back soon
			window = 0
		}
		errs = append(errs, n.edge.Drain(ctx, window))
	}
	return errors.Join(errs...)
}

// remaining is what is left of a time from when readiness went off.
func (d *departure) remaining(of time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return of - time.Since(d.since)
}

// startDrain has the node depart in the background.
func (n *node) startDrain() {
	began, readers, streams := time.Now(), n.edge.Readers(), n.metricSum("fantail_owned_streams")
	d := &n.departure
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.final || d.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	d.state, d.since, d.cancel, d.done = stateDraining, time.Now(), cancel, done
	n.cfg.log.Info("draining", "readers", readers, "streams", streams, "over", n.cfg.drain)
	go func() {
		defer close(done)
		if n.depart(ctx) != nil {
			return
		}
		d.mu.Lock()
		if d.state == stateDraining {
			d.state = stateDrained
		}
		d.mu.Unlock()
		n.cfg.log.Info("drained", "in", time.Since(began).Round(time.Millisecond), "readers", n.edge.Readers(), "streams", n.metricSum("fantail_owned_streams"))
	}()
}

var errStopping = errors.New("the node is stopping")

// cancelDrain takes drain back.
func (n *node) cancelDrain() error {
	d := &n.departure
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.final:
		return errStopping
	case d.cancel == nil:
		return nil
	}
	switch mine := d.cancelLocked(); {
	case d.final:
		return errStopping
	case !mine:
		return nil
	}
	n.edge.CancelDrain()
	if n.relay != nil {
		n.relay.CancelLeave()
	}
	d.state, d.since = stateServing, time.Time{}
	n.cfg.log.Info("serving again")
	return nil
}

// cancelLocked ends an operator's departure, under mu, which it gives up meanwhile: somebody else
// may have done the same since, and not mine, or have begun the last one.
func (d *departure) cancelLocked() (mine bool) {
	if d.cancel == nil {
		return false
	}
	d.cancel()
	done := d.done
	d.mu.Unlock()
	<-done
	d.mu.Lock()
	if d.done != done {
		return false
	}
	d.cancel, d.done = nil, nil
	return true
}

// makeFinal makes the departure the last one.
func (d *departure) makeFinal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.final, d.state = true, stateDraining
	if d.since.IsZero() {
		d.since = time.Now()
	}
	d.cancelLocked()
}

// handleDrain is /admin/drain: GET tells, POST drains, DELETE takes it back.
func (n *node) handleDrain(w http.ResponseWriter, r *http.Request) {
	code := http.StatusOK
	switch r.Method {
	case http.MethodPost:
		n.startDrain()
		code = http.StatusAccepted
	case http.MethodDelete:
		if err := n.cancelDrain(); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
	}
	state, _ := n.departure.current()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(struct {
		State   drainState `json:"state"`
		Readers int        `json:"readers"`
		Streams float64    `json:"streams"`
	}{state, n.edge.Readers(), n.metricSum("fantail_owned_streams")})
}
