package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

// departure is the state of a node's departure from the fleet. An operator can start it and cancel
// it. The node's stop is the final departure.
type departure struct {
	mu     sync.Mutex
	state  drainState
	since  time.Time          // when the node became not ready; zero: it has not
	began  drainReport        // what there was to end when the departure began
	final  bool               // the node stops
	cancel context.CancelFunc // cancels an operator's departure
	done   chan struct{}      // closed when that departure has ended
}

// drainState is the state in the answer of GET /admin/drain. Closed set.
type drainState string

const (
	stateServing  drainState = "serving"
	stateDraining drainState = "draining"
	stateDrained  drainState = "drained"  // no streams and no readers; requests are still served
	stateStopping drainState = "stopping" // the process will end
)

// current returns the state, and whether the departure is final.
func (d *departure) current() (s drainState, final bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == "" {
		return stateServing, d.final
	}
	return d.state, d.final
}

// depart hands the node's work to other nodes, within ctx, in the order that loses nothing:
//
//  1. readiness off, so that balancers send no more, and answers ask clients not to come again;
//  2. hand over the streams, so that their new owners serve while this node still relays;
//  3. serve on until balancers have noticed, or they would send readers back here;
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
		if n.relay == nil { // there is no other node: be back soon
			window = 0
		}
		errs = append(errs, n.edge.Drain(ctx, window))
	}
	return errors.Join(errs...)
}

// remaining returns what is left of a duration that began when readiness went off.
func (d *departure) remaining(of time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return of - time.Since(d.since)
}

// startDrain starts a departure in the background.
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
	d.began = drainReport{Readers: readers, Streams: int(streams)}
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

// cancelDrain cancels an operator's departure, and serves again.
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

// cancelLocked cancels an operator's departure and waits for its end. The caller holds mu, which is
// released during the wait: another call may cancel the departure meanwhile (then mine is false),
// or start the final one.
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

// makeFinal marks the departure as final. began says what there is to end.
func (d *departure) makeFinal(began drainReport) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.final, d.state = true, stateDraining
	if d.since.IsZero() {
		d.since, d.began = time.Now(), began
	}
	d.cancelLocked()
}

// handleDrain answers /admin/drain: GET returns the state, POST starts a drain, DELETE cancels it.
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
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(n.drainReport())
}

// drainReport is the answer of /admin/drain. The last three are absent while the node serves.
type drainReport struct {
	State          drainState `json:"state"`
	Readers        int        `json:"readers"`
	Streams        int        `json:"streams"`
	Since          *time.Time `json:"since,omitempty"`
	ReadersAtStart *int       `json:"readers_at_start,omitempty"`
	StreamsAtStart *int       `json:"streams_at_start,omitempty"`
}

// workLeft returns what a departure has to end.
func (n *node) workLeft() (left drainReport) {
	if n.edge != nil {
		left.Readers = n.edge.Readers()
	}
	left.Streams = int(n.metricSum("fantail_owned_streams"))
	return left
}

// drainReport returns how far the departure is.
func (n *node) drainReport() drainReport {
	r := n.workLeft()
	d := &n.departure
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.State = d.state; r.State == "" {
		r.State = stateServing
	}
	if d.final {
		r.State = stateStopping
	}
	if r.State != stateServing {
		since, began := d.since.UTC(), d.began
		r.Since, r.ReadersAtStart, r.StreamsAtStart = &since, &began.Readers, &began.Streams
	}
	return r
}
