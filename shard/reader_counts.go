package shard

import "context"

// A lone node's readers of a stream are the followers of its Stream: each reader follows for itself. In
// a fleet package cluster counts them.

// CountReaders returns the number of a stream's readers, which is always known.
func (m *Manager) CountReaders(_ context.Context, id StreamID) (n int, known bool) {
	return m.KnownReaders(id)
}

// WatchReaders does nothing: KnownReaders knows the number anyway.
func (m *Manager) WatchReaders(context.Context, StreamID) (stop func()) { return func() {} }

// KnownReaders returns the number of a stream's readers.
func (m *Manager) KnownReaders(id StreamID) (n int, known bool) {
	m.mu.Lock()
	s := m.streams.byID[id]
	m.mu.Unlock()
	if s == nil {
		return 0, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.followers, true
}
