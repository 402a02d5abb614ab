package tail

// Usage tells how a Buffer is used.
type Usage struct {
	Stream   StreamID
	Readers  int // references besides the feed's
	Received Received
	Tail     Pos
	Closed   bool
}

func (b *Buffer) usage() Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Usage{Stream: b.stream, Readers: max(b.refs-1, 0), Received: b.received, Tail: b.info.Tail, Closed: b.info.Closed}
}

// EachUsage calls yield for each Buffer. yield must not block: no Buffer is opened meanwhile.
func (s *Buffers) EachUsage(yield func(Usage)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.byStream {
		yield(t.usage())
	}
}

// UsageOf returns how the stream's Buffer is used; false: there is none.
func (s *Buffers) UsageOf(id StreamID) (Usage, bool) {
	s.mu.Lock()
	t := s.byStream[id]
	s.mu.Unlock()
	if t == nil {
		return Usage{}, false
	}
	return t.usage(), true
}
