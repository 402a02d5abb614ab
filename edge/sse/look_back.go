package sse

import (
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// segmentBefore returns the segment that holds what precedes the reader's position, and where that
// ends in it; false: the stream begins here.
func (s *Session) segmentBefore() (seg position.Segment, end shard.Pos, ok bool) {
	info := s.tail().Info()
	all := position.InheritedSegments(info)
	seg, end = s.position.CurrentSegment(s.tail().Stream(), info), s.position.Pos
	for i := len(all) - len(s.position.Inherited) - 1; end <= seg.Info.Start; i-- {
		if i < 0 {
			return seg, end, false
		}
		seg, end = all[i], all[i].Info.Tail
	}
	return seg, end, true
}

// maxLookBacks bounds how often a reader looks for what precedes its position, each time from twice
// as far below: the largest message has some twenty records.
const maxLookBacks = 7

// beginLookBack asks the executor for the page before the position, or finds that there is none.
func (s *Session) beginLookBack() {
	if _, _, ok := s.segmentBefore(); !ok || s.lookBacks == maxLookBacks {
		s.endLookBack()
		return
	}
	s.lookBacks++
	s.status = stateBehind
}

// finishLookBack reads the boundary from the page that beginLookBack asked for.
func (s *Session) finishLookBack(r shard.RecordBatch) {
	_, end, _ := s.segmentBefore()
	if r.IsZero() || r.To() < end {
		return
	}
	for i := r.Search(end) - 1; i >= 0; i-- {
		if b := r.Message(i).Body; len(b) > 0 {
			s.lookBacks, s.boundary = 0, textBoundary{}.after(b, 0)
			return
		}
	}
}

// endLookBack notes that nothing that matters precedes the position, or that it is not kept.
func (s *Session) endLookBack() {
	s.lookBacks, s.boundary = 0, textBoundary{skipBytes: s.boundary.skipBytes}
}
