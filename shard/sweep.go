package shard

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// evictIdle evicts idle streams while the table is over its budget. If none is idle it searches
// again only after evictRetryEvery, because every append calls it.
func (m *Manager) evictIdle() {
	if !m.streams.isOverBudget() || m.cfg.Now().UnixNano() < m.streams.retryAt.Load() {
		return
	}
	m.mu.Lock()
	now := m.cfg.Now()
	evicted := m.streams.evictOverBudget(now)
	if m.streams.isOverBudget() {
		m.streams.retryAt.Store(now.Add(evictRetryEvery).UnixNano())
	}
	m.mu.Unlock()
	for _, s := range evicted {
		s.halt()
	}
}

// evictRetryEvery is the pause between two searches for idle streams while none is idle.
const evictRetryEvery = 100 * time.Millisecond

const (
	sweepEvery = 10 * time.Second
	// maxSweepTouches bounds the touches that run together: at 40 ms each, all the streams that
	// maxStreams allows are touched within graceMargin.
	maxSweepTouches = 256
)

// sweep drops streams that are not used and makes uses durable by touch records.
func (m *Manager) sweep(ctx context.Context) {
	now := m.cfg.Now()
	var idle, touches []*Stream
	m.mu.Lock()
	for _, s := range m.streams.byID {
		switch {
		case s.users == 0 && s.isIdleSince(now, m.cfg.IdleAfter):
			idle = append(idle, s)
			m.streams.removeStream(s)
		case s.runDueTasks(now):
			s.users++
			touches = append(touches, s)
		}
	}
	m.mu.Unlock()
	for _, s := range idle {
		s.halt()
	}
	m.evictIdle()
	m.expiryReports.logDue(m.cfg.Logger, now, false)
	var g errgroup.Group
	g.SetLimit(maxSweepTouches)
	for _, s := range touches {
		g.Go(func() error {
			defer m.releaseStream(s)
			ctx, cancel := context.WithTimeout(ctx, appendTimeout)
			defer cancel()
			if _, err := s.submit(ctx, m.newCall(nil)); err != nil {
				m.cfg.Logger.Warn("touch", "stream", s.id, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // they return nothing
}
