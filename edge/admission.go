package edge

// Readers returns the number of open event streams.
func (s *Server) Readers() int { return s.counts.of(modeSSE) }

// admitReader counts a reader, or refuses it. releaseReader uncounts it.
func (s *Server) admitReader(m requestMode, hasGoroutine bool) error {
	c := &s.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.rules.Orders().Drain && m == modeSSE:
		return s.metrics.countRefused(errDraining)
	case c.all() >= s.cfg.MaxReaders:
		return s.metrics.countRefused(errFull)
	case s.cfg.ConnectionsFull():
		return s.metrics.countRefused(errConnectionsFull)
	case hasGoroutine && c.withGoroutine >= s.cfg.MaxGoroutineReaders:
		return s.metrics.countRefused(errGoroutinesFull)
	case hasGoroutine:
		c.withGoroutine++
	}
	c.byMode[m]++
	s.metrics.readers.WithLabelValues(string(m)).Inc()
	return nil
}

// countGoroutineReader counts an admitted reader as one with a goroutine.
func (s *Server) countGoroutineReader() error {
	c := &s.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.withGoroutine >= s.cfg.MaxGoroutineReaders {
		return s.metrics.countRefused(errGoroutinesFull)
	}
	c.withGoroutine++
	return nil
}

// releaseReader uncounts a reader. The last one ends a drain.
func (s *Server) releaseReader(m requestMode, hasGoroutine bool) {
	s.metrics.readers.WithLabelValues(string(m)).Dec()
	c := &s.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byMode[m]--
	if hasGoroutine {
		c.withGoroutine--
	}
	if c.all() > 0 || !s.rules.Orders().Drain {
		return
	}
	select {
	case <-c.emptied: // closed already; the last reader was a long-poll that came later
	default:
		close(c.emptied)
	}
}
