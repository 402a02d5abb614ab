package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// drainCmd starts a drain.
type drainCmd struct {
	Wait   bool          `help:"Wait until the node is drained." env:"-"`
	Within time.Duration `help:"How long to wait with --wait." default:"5m" env:"-"`
	JSON   bool          `name:"json" help:"Print JSON." env:"-"`
	adminFlags
}

// drainAnswer is the answer of /admin/drain.
type drainAnswer struct {
	State   drainState `json:"state"`
	Readers int        `json:"readers"`
	Streams float64    `json:"streams"`
}

// drainPoll is the time between two looks at a drain.
const drainPoll = 500 * time.Millisecond

// Run starts the drain, and waits for its end if it is to.
func (c *drainCmd) Run(ctx context.Context, s stdio) error {
	admin, err := c.open(s)
	if err != nil {
		return err
	}
	within := time.Duration(0)
	if c.Wait {
		within = c.Within
	}
	return changeDrain(ctx, s, admin, "POST", stateDrained, within, c.JSON)
}

// undrainCmd takes a drain back.
type undrainCmd struct {
	Wait   bool          `help:"Wait until the node is ready." env:"-"`
	Within time.Duration `help:"How long to wait with --wait." default:"5m" env:"-"`
	JSON   bool          `name:"json" help:"Print JSON." env:"-"`
	adminFlags
}

// Run takes the drain back, and waits until the node is ready if it is to.
func (c *undrainCmd) Run(ctx context.Context, s stdio) error {
	admin, err := c.open(s)
	if err != nil {
		return err
	}
	if err := changeDrain(ctx, s, admin, "DELETE", stateServing, 0, c.JSON); err != nil || !c.Wait {
		return err
	}
	deadline := time.Now().Add(c.Within)
	for {
		_, err := admin.callRaw(ctx, "GET", "/readyz")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return &exitError{exitUnavailable, fmt.Errorf("the node is not ready after %v: %w", c.Within, err)}
		}
		if err := waitFor(ctx, drainPoll); err != nil {
			return err
		}
	}
}

// changeDrain sends a request to /admin/drain, waits until the state is the wanted one, and prints it.
func changeDrain(ctx context.Context, s stdio, admin *adminClient, method string, want drainState, wait time.Duration, asJSON bool) error {
	var now drainAnswer
	if err := admin.callJSON(ctx, method, "/admin/drain", &now); err != nil {
		return err
	}
	deadline, bar := time.Now().Add(wait), newProgress(s.err, "drain", int64(now.Readers), countUnit)
	readers := now.Readers
	for wait > 0 && now.State != want {
		if now.State == stateServing {
			bar.finish()
			return errors.New("the drain was taken back meanwhile")
		}
		if time.Now().After(deadline) {
			bar.finish()
			return &exitError{exitUnavailable, fmt.Errorf("after %v the node is still %s: %d readers, %.0f streams", wait, now.State, now.Readers, now.Streams)}
		}
		bar.set(int64(readers - now.Readers))
		if err := waitFor(ctx, drainPoll); err != nil {
			return err
		}
		if err := admin.callJSON(ctx, "GET", "/admin/drain", &now); err != nil {
			bar.finish()
			return err
		}
	}
	bar.finish()
	if asJSON {
		return printJSON(s.out, now)
	}
	_, err := fmt.Fprintf(s.out, "%s: %d readers, %.0f streams\n", now.State, now.Readers, now.Streams)
	return err
}

// waitFor waits for d, or until ctx ends.
func waitFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
