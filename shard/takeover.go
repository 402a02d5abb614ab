package shard

import (
	"context"
	"errors"
)

// takeover is what a new owner has to fold: everything from from on.
type takeover struct {
	noLog bool
	from  uint64
	pages []Page
	tail  uint64
}

// takeOver reads what a new owner needs: the last record, then from the
// checkpoint that it points back to. Where others wrote last, it looks backwards
// for the newest record of ours.
func takeOver(ctx context.Context, log Log, id StreamID) (takeover, error) {
	last, err := log.Last(ctx, id, 1)
	if errors.Is(err, ErrNoLog) {
		return takeover{noLog: true}, nil
	}
	if err != nil {
		return takeover{}, err
	}
	if len(last.Records) == 0 {
		return takeover{from: 0, tail: last.Tail}, nil
	}
	r := last.Records[0]
	start, ours, err := checkpointOf(r)
	if err != nil {
		return takeover{}, err
	}
	if !ours {
		if start, err = searchBack(ctx, log, id, r.Pos); err != nil {
			return takeover{}, err
		}
	}
	t := takeover{from: start, tail: r.Pos + 1}
	if start == r.Pos {
		t.pages = []Page{last}
		return t, nil
	}
	return t, t.read(ctx, log, id)
}

// read fetches [from, tail): one page if it fits, else one bounded session.
func (t *takeover) read(ctx context.Context, log Log, id StreamID) error {
	if t.tail-t.from <= MaxBatchRecords {
		p, err := log.Read(ctx, id, t.from, int(t.tail-t.from))
		if err != nil {
			return err
		}
		t.pages = append(t.pages, p)
		if n := len(p.Records); n > 0 && p.Records[n-1].Pos+1 >= t.tail || n == 0 {
			return nil
		}
		// It was larger than a page after all. What is read again is less than one.
		t.pages = nil
	}
	return log.Replay(ctx, id, t.from, t.tail, func(p Page) error {
		t.pages = append(t.pages, p)
		return nil
	})
}

// checkpointOf says where the fold may begin, as record r tells it; ours is
// false for a foreign record, and for one of ours that does not tell.
func checkpointOf(r Record) (start uint64, ours bool, err error) {
	if r.Command || r.Header == nil {
		return 0, false, nil
	}
	h, err := decodeHeader(r.Pos, r.Header)
	switch {
	case errors.Is(err, errForeign):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case h.Kind == KindCheckpoint || h.Kind == KindTombstone:
		return r.Pos, true, nil
	case h.HasBack && h.BackRecords <= r.Pos:
		return r.Pos - h.BackRecords, true, nil
	default:
		return 0, false, nil
	}
}

// searchBack looks below pos for the newest record of ours that tells where the
// fold may begin, in windows that double. 0: there is none.
func searchBack(ctx context.Context, log Log, id StreamID, pos uint64) (uint64, error) {
	for width := uint64(MaxBatchRecords); pos > 0; width *= 2 {
		from := pos - min(pos, width)
		start, found := uint64(0), false
		err := log.Replay(ctx, id, from, pos, func(p Page) error {
			for _, r := range p.Records {
				at, ours, err := checkpointOf(r)
				if err != nil {
					return err
				}
				if ours {
					start, found = at, true
				}
			}
			return nil
		})
		if err != nil || found {
			return start, err
		}
		pos = from
	}
	return 0, nil
}
