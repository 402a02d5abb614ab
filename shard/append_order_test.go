package shard_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// asking returns storage of which it is to be tried whether append sessions keep their order, with a
// node that tries it, and what the node logs.
func asking(t *testing.T, log shard.Log) (*shard.Manager, *lines) {
	said := &lines{}
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{
		Pipelining: shard.PipeliningAuto, Logger: slog.New(slog.NewTextHandler(said, nil)),
	})
	t.Cleanup(func() { _ = h.Close() })
	h.WatchStanding(shard.LoneRole, func(shard.Standing) {})
	return h, said
}

// lines is a buffer for a logger.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) contain(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

func far(goesOn bool) *logtest.Memory {
	log := logtest.NewMemory(1)
	log.Basin, log.AsksOrder, log.GoesOn, log.Latency = "b", true, goesOn, 50*time.Millisecond
	return log
}

// pipelines reports whether appends that would wait are sent over a session.
func pipelines(t *testing.T, h *shard.Manager) bool {
	before, _ := h.BatchesOnSessions()
	openLoop(t, h, 200, time.Second, plain)
	after, _ := h.BatchesOnSessions()
	return after > before
}

// A node pipelines once storage has shown that nothing is written behind a refused batch, and never if
// storage has shown that it is.
func TestAppendOrderIsTried(t *testing.T) {
	for _, c := range []struct {
		goesOn bool
		order  int
		says   string
	}{
		{false, 1, "level=INFO msg=\"S2's append sessions keep their order"},
		{true, -1, "level=ERROR msg=\"S2, or what is on the way to it"},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := far(c.goesOn)
			h, said := asking(t, log)
			do(t, h, create("text/plain"), shard.CodeCreated)
			if h.AppendOrder() != 0 {
				t.Errorf("%d is known before storage was asked", h.AppendOrder())
			}
			advance(5 * time.Second)
			if got := h.AppendOrder(); got != c.order || !said.contain(c.says) {
				t.Errorf("goes on %t: %d, %s", c.goesOn, got, said.b.String())
			}
			if got := pipelines(t, h); got != (c.order == 1) {
				t.Errorf("goes on %t: pipelined: %t", c.goesOn, got)
			}
			if n := len(log.Records("__ds/fleet")); n > 7 || !c.goesOn && n != 2 {
				t.Errorf("goes on %t: %d records in the fleet's log", c.goesOn, n)
			}
			late, _ := asking(t, log) // another node, whose first record is read all the same
			if advance(5 * time.Second); late.AppendOrder() != c.order || late.Standing().RecordProblem != "" {
				t.Errorf("goes on %t: the next node: %d, %q", c.goesOn, late.AppendOrder(), late.Standing().RecordProblem)
			}
		})
	}
}

// Many nodes start together, and the fleet's log is written to: each has its answer.
func TestAppendOrderIsTriedByManyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := far(false)
		var all []*shard.Manager
		for range 6 {
			h, _ := asking(t, log)
			all = append(all, h)
		}
		advance(3 * time.Minute)
		for i, h := range all {
			if h.AppendOrder() != 1 {
				t.Errorf("node %d: %d", i, h.AppendOrder())
			}
		}
	})
}

// unsure is storage whose append sessions cannot be tried, for a while.
type unsure struct {
	*logtest.Memory
	mu   sync.Mutex
	none error // guarded by mu: no log for the trial
	open error // guarded by mu: no session
}

func (u *unsure) OrderProbeLog() (shard.StreamID, error) {
	if u.none != nil {
		return "", u.none
	}
	return u.Memory.OrderProbeLog()
}

func (u *unsure) OpenAppendSession(ctx context.Context, id shard.StreamID, wake func()) (shard.AppendSession, error) {
	u.mu.Lock()
	err := u.open
	u.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return u.Memory.OpenAppendSession(ctx, id, wake)
}

// While nothing is known nothing is pipelined: where it cannot be tried, and until a trial succeeds.
func TestAppendOrderIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &unsure{Memory: far(false), none: errors.New("no basin is fixed")}
		h, said := asking(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		advance(time.Minute)
		if h.AppendOrder() != 0 || pipelines(t, h) || !said.contain("no basin is fixed") {
			t.Errorf("%d, %s", h.AppendOrder(), said.b.String())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		log := &unsure{Memory: far(false), open: errors.Join(shard.ErrLogBusy, errors.New("too many sessions"))}
		h, said := asking(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		advance(10 * time.Second)
		if h.AppendOrder() != 0 || pipelines(t, h) || !said.contain("too many sessions") {
			t.Errorf("%d, %s", h.AppendOrder(), said.b.String())
		}
		log.mu.Lock()
		log.open = nil
		log.mu.Unlock()
		advance(5 * time.Minute)
		if h.AppendOrder() != 1 || !pipelines(t, h) {
			t.Errorf("%d, %s", h.AppendOrder(), said.b.String())
		}
	})
}
