package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
)

// departure is a node's way out of the fleet: an operator's, who may take it back, or the
// last one.
type departure struct {
	mu     sync.Mutex
	state  departState
	final  bool               // the node stops
	cancel context.CancelFunc // of an operator's
	done   chan struct{}      // closed when that has ended
}

// departState is what GET /admin/drain answers. Closed set.
type departState string

const (
	stateServing  departState = "serving"
	stateDraining departState = "draining"
	stateDrained  departState = "drained" // no streams and no readers; requests are still served
)

func (d *departure) get() departState {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == "" {
		return stateServing
	}
	return d.state
}

// depart makes others do the node's work, within ctx, in the order that loses nothing:
//
//  1. readiness off, so that no balancer sends more;
//  2. let go of the streams, so that their heirs serve while we still relay;
//  3. end the readers' connections evenly over a while, each after a complete event.
func (n *node) depart(ctx context.Context) error {
	var errs []error
	if n.relay != nil {
		errs = append(errs, n.relay.Leave(ctx))
	}
	if n.edge != nil {
		window := min(n.cfg.drain, n.cfg.grace/2)
		if n.relay == nil { // there is no other node to go to: be back soon
			window = 0
		}
		errs = append(errs, n.edge.Drain(ctx, window))
	}
	return errors.Join(errs...)
}

// drain has the node depart in the background.
func (n *node) drain() {
	d := &n.leaving
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.final || d.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	d.state, d.cancel, d.done = stateDraining, cancel, done
	n.cfg.log.Info("draining")
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
		n.cfg.log.Info("drained")
	}()
}

var errStopping = errors.New("the node is stopping")

// undrain takes drain back.
func (n *node) undrain() error {
	d := &n.leaving
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.final:
		return errStopping
	case d.cancel == nil:
		return nil
	}
	d.abandon()
	n.edge.Undrain()
	if n.relay != nil {
		n.relay.Return()
	}
	d.state = stateServing
	n.cfg.log.Info("serving again")
	return nil
}

// abandon ends an operator's departure, under mu, which it gives up meanwhile.
func (d *departure) abandon() {
	if d.cancel == nil {
		return
	}
	d.cancel()
	done := d.done
	d.mu.Unlock()
	<-done
	d.mu.Lock()
	d.cancel, d.done = nil, nil
}

// end makes the departure the last one.
func (d *departure) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.final, d.state = true, stateDraining
	d.abandon()
}

// drainRoute is /admin/drain: GET tells, POST drains, DELETE takes it back.
func (n *node) drainRoute(w http.ResponseWriter, r *http.Request) {
	code := http.StatusOK
	switch r.Method {
	case http.MethodPost:
		n.drain()
		code = http.StatusAccepted
	case http.MethodDelete:
		if err := n.undrain(); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(struct {
		State   departState `json:"state"`
		Readers int         `json:"readers"`
		Streams float64     `json:"streams"`
	}{n.leaving.get(), n.edge.Readers(), n.gauge("fantail_owned_streams")})
}
