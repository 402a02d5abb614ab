package shard

import (
	"context"
	"errors"
	"strconv"
)

// FindTime returns the position from which on the messages of info's generation have a time at or
// above since; info.Tail if none has. It lies between info.Start and info.Tail, above info.Start only
// if an earlier record stands between, and it may be that of a record that is no message. A message has the time at which it became visible: that
// of its record, and that of the last part for all messages of an append in parts.
//
// It costs no read of storage where memory tells, else one by timestamp. If that finds a part of an
// append, what lies below is read back to the first part: at most maxRunSearch bytes.
//
// Errors: ReadPage's.
func (m *Manager) FindTime(ctx context.Context, id StreamID, info Info, since Millis) (Pos, error) {
	return m.FindTimeVia(ctx, id, info, since, nil)
}

// FindTimeVia does what FindTime does, for a node that knows a peer that may have the messages in memory. ask,
// unless nil, is asked before storage is. Its ErrNotFound is final. After another error storage is
// read.
func (m *Manager) FindTimeVia(
	ctx context.Context, id StreamID, info Info, since Millis, ask func(context.Context) (Pos, error),
) (Pos, error) {
	if info.Start >= info.Tail {
		return info.Tail, nil
	}
	if pos, ok := m.tails.FindTime(id, info.Generation, since, info.Start, info.Tail); ok {
		return pos, nil
	}
	m.mu.Lock()
	s := m.streams.byID[id]
	m.mu.Unlock()
	if s != nil && s.isAllBefore(&info, since) {
		return info.Tail, nil
	}
	return m.pages.findTime(ctx, id, info, since, ask)
}

// isAllBefore reports whether every record below info.Tail is known to be earlier than since.
func (s *Stream) isAllBefore(info *Info, since Millis) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened && s.state.generation == info.Generation && s.state.Next >= info.Tail &&
		s.state.Time != 0 && s.state.Time < since
}

const (
	// maxRunRecords bounds the records of an append in parts.
	maxRunRecords = 2 * MaxMessages
	// maxRunSearch bounds what is read to find where an append in parts begins: the append, and what
	// may lie between it and the checkpoint before it.
	maxRunSearch = MaxBody + 8*MaxBatchBytes
	// maxKnownStarts bounds the parts for which it is remembered.
	maxKnownStarts = 1024
)

// findTime does what FindTimeVia does where memory does not tell.
func (p *pages) findTime(ctx context.Context, id StreamID, info Info, since Millis, ask func(context.Context) (Pos, error)) (Pos, error) {
	way := "time" + strconv.FormatBool(ask != nil) + uintKey(uint64(info.Start))
	name := pageKeyOf(id, &info, Pos(since)).sharedReadKey(way, info.Tail)
	pos, _, err := shareRead(ctx, p, name, func(ctx context.Context) (Pos, error) {
		if ask != nil {
			pos, err := ask(ctx)
			if err == nil && info.Start <= pos && pos <= info.Tail || errors.Is(err, ErrNotFound) {
				return pos, err
			}
		}
		pos, err := p.searchTime(ctx, id, &info, since)
		return min(max(pos, info.Start), info.Tail), err
	})
	return pos, err
}

// searchTime asks the log for the first record since a time. The position may lie outside of info.
func (p *pages) searchTime(ctx context.Context, id StreamID, info *Info, since Millis) (Pos, error) {
	found, err := p.log.FirstSince(ctx, id, since)
	if err != nil {
		return 0, pageErr(err)
	}
	if len(found.Records) == 0 {
		return info.Tail, nil
	}
	r := found.Records[0]
	h, err := headerOf(r)
	if r.Pos >= info.Tail && err != nil { // a later release wrote it, and it is no message of info's
		err = nil
	}
	if err != nil || h == nil || h.Flags&FlagPart == 0 || h.Flags&FlagFirst != 0 || r.Pos <= info.Start {
		return r.Pos, err
	}
	return p.findRunStart(ctx, id, info, r.Pos, h)
}

// findRunStart returns where the append in parts begins whose part is at pos, with header h: all of
// its messages became visible by its last part. A run of parts lies above the checkpoint to which each
// of them tells the distance. It begins with the create record at the earliest.
func (p *pages) findRunStart(ctx context.Context, id StreamID, info *Info, pos Pos, h *Header) (Pos, error) {
	key := pageKeyOf(id, info, pos)
	if start, ok := p.starts.GetIfPresent(key); ok {
		return start, nil
	}
	back := Pos(maxRunRecords)
	if h.HasCheckpoint {
		back = min(back, Pos(h.RecordsSinceCheckpoint))
	}
	from := max(pos-min(pos, back), info.Start-min(info.Start, 1))
	state, size := newPageState(info, from), 0
	for state.Next < pos && size <= maxRunSearch {
		read, err := p.log.Read(ctx, id, state.Next, int(min(pos-state.Next, pageRecords)))
		if err != nil {
			return 0, pageErr(err)
		}
		if len(read.Records) == 0 {
			break
		}
		for _, r := range read.Records {
			if r.Pos >= pos { // what lies below was trimmed
				break
			}
			if r.Pos > state.Next {
				state.skipTo(r.Pos)
			}
			if _, err := state.foldRecord(r); err != nil {
				return 0, err
			}
			size += r.Size
		}
		if read.Records[len(read.Records)-1].Pos >= pos {
			break
		}
	}
	if state.Next < pos {
		return pos, nil
	}
	start := pos
	if state.run != nil && (h.Append.IsZero() || h.Append == state.run.id) {
		start = state.run.start
	}
	p.starts.Set(key, start)
	return start, nil
}
