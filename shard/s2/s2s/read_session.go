package s2s

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strconv"

	"golang.org/x/net/http2"
)

// ReadOptions says what a read session reads. At most one of SeqNum, Timestamp and TailOffset says
// where it begins; none: at the tail. Without Count, Bytes, Until and Wait it follows the tail.
type ReadOptions struct {
	SeqNum     *uint64
	Timestamp  *uint64 // in ms
	TailOffset *uint64 // so many records before the tail
	Count      *uint64
	Bytes      *uint64 // metered
	Until      *uint64 // a timestamp in ms, exclusive
	Wait       *uint64 // seconds for which it waits at the tail
	Clamp      bool    // a beginning beyond the tail is the tail
}

func (o *ReadOptions) path(c *origin, stream string) string {
	b := append([]byte(c.path), "/streams/"...)
	b = append(b, url.PathEscape(stream)...)
	b = append(b, "/records"...)
	mark := byte('?')
	field := func(name string, v *uint64) {
		if v != nil {
			b = append(append(append(b, mark), name...), '=')
			b, mark = strconv.AppendUint(b, *v, 10), '&'
		}
	}
	field("seq_num", o.SeqNum)
	field("timestamp", o.Timestamp)
	field("tail_offset", o.TailOffset)
	field("count", o.Count)
	field("bytes", o.Bytes)
	field("until", o.Until)
	field("wait", o.Wait)
	if o.Clamp {
		b = append(append(b, mark), "clamp=true"...)
	}
	return string(b)
}

const (
	// takeRecords and takeBytes bound what one TakeBatch returns, to what S2 puts into one batch. The
	// last frame may exceed them.
	takeRecords = 1000
	takeBytes   = 1 << 20
)

// ReadSession is a read session. TakeBatch is for one goroutine at a time.
type ReadSession struct {
	stream
	wake    func()
	queue   [][]byte // payloads with records, untaken
	tail    Position // a heartbeat's, behind the queue
	news    bool     // tail is to be taken
	woken   bool     // wake was called, and TakeBatch has not yet returned false
	taking  bool     // the consumer is at todo
	told    Position // the tail that was taken last
	hasTold bool

	todoHeld int32    // of stream.held: what had arrived when todo was taken
	todo     [][]byte // of the consumer
	next     int      // in todo
	todoNews bool     // told belongs behind todo
	from     uint64   // the least position of the next record
	skipped  uint64   // records below it are not wanted
}

// OpenRead opens a read session. It waits for a connection, within ctx, and not for the answer.
//
// wake is called, from any goroutine and with a lock held, when there is something to take again
// after TakeBatch has returned false, and the first time. It must not block, and must not call the
// session. It may be called before the session is returned.
func (c *Client) OpenRead(ctx context.Context, at Target, o ReadOptions, wake func()) (*ReadSession, error) {
	origin, err := c.origin(at.Base)
	if err != nil {
		return nil, err
	}
	r := newReadSession(o, wake)
	if err := origin.openStream(ctx, &r.stream, o.request(origin, at)); err != nil {
		return nil, err
	}
	return r, nil
}

// StartRead does what OpenRead does, for a caller that does not wait. If there is neither a session
// nor an error, a connection is being made. A goroutine of the Client calls again once it is there,
// with nil: then call StartRead again. If it fails, again gets the reason.
func (c *Client) StartRead(at Target, o ReadOptions, wake func(), again func(error)) (*ReadSession, error) {
	origin, err := c.origin(at.Base)
	if err != nil {
		return nil, err
	}
	r := newReadSession(o, wake)
	if open, err := origin.startStream(&r.stream, o.request(origin, at), again); !open {
		return nil, err
	}
	return r, nil
}

func newReadSession(o ReadOptions, wake func()) *ReadSession {
	r := &ReadSession{wake: wake}
	r.session = r
	if o.SeqNum != nil && !o.Clamp {
		r.from = *o.SeqNum
	}
	return r
}

func (o *ReadOptions) request(c *origin, at Target) request {
	return request{method: "GET", path: o.path(c, at.Stream), basin: at.Basin, end: true}
}

// Skip has TakeBatch leave out records below position below, without looking into them.
func (r *ReadSession) Skip(below uint64) { r.skipped = below }

// TakeBatch fills b with what has arrived. It returns false if there is nothing now: wake will be called.
// It returns the error that ended the session when all is taken; errors.Is(err, io.EOF) for a clean
// end. Until the next TakeBatch the session does not ask S2 for more than it may hold.
func (r *ReadSession) TakeBatch(b *Batch) (bool, error) {
	b.reset()
	if r.next == len(r.todo) {
		if more, err := r.refill(); !more {
			return false, err
		}
	}
	for r.next < len(r.todo) && len(b.Records) < takeRecords && b.size < takeBytes {
		payload := r.todo[r.next]
		r.todo[r.next] = nil
		r.next++
		if err := r.decode(b, payload); err != nil {
			r.end(err, http2.ErrCodeProtocol)
			return false, err
		}
	}
	if r.next == len(r.todo) && r.todoNews {
		b.Tail, b.HasTail, r.todoNews = r.told, true, false
	}
	b.Next = r.from
	return true, nil
}

// refill takes the queue for the consumer; false: there is nothing now, or nothing any more.
func (r *ReadSession) refill() (more bool, err error) {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.taking {
		r.taking = false
		r.hear()
		if r.credit(r.todoHeld); len(r.queue) == 0 {
			r.credit(r.held) // of a frame in the making, which needs more to become whole
		}
	}
	if cap(r.todo) > 8 {
		r.todo = nil
	}
	r.todo, r.queue, r.next = r.queue, r.todo[:0], 0
	r.taking, r.todoHeld = len(r.todo) > 0, r.held
	if r.todoNews = r.news; r.news {
		r.told, r.hasTold, r.news = r.tail, true, false
	}
	if !r.taking && !r.todoNews {
		r.woken = false
		return false, r.err
	}
	return true, nil
}

// decode adds the records of a frame to b, and checks that they are in order.
func (r *ReadSession) decode(b *Batch, payload []byte) error {
	b.HasTail = false
	first := true
	err := b.decode(payload, r.skipped, func(at uint64) error {
		if at < r.from || !first && at != r.from || at == 1<<64-1 {
			return fmt.Errorf("record %d where %d is next", at, r.from)
		}
		r.from, first = at+1, false
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if b.HasTail {
		r.noteTold(b.Tail)
	}
	return nil
}

func (r *ReadSession) noteTold(tail Position) {
	if r.todoNews {
		return // told is behind this one
	}
	r.conn.mu.Lock()
	defer r.conn.mu.Unlock()
	r.told, r.hasTold = tail, true
}

// Close ends the session. S2 bills it no longer.
func (r *ReadSession) Close() { r.end(ErrClosed, http2.ErrCodeCancel) }

func (r *ReadSession) end(err error, code http2.ErrCode) {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endStream(&r.stream, err, code)
	r.queue, r.news, r.taking = nil, false, false
}

// takeFrame implements session. A heartbeat that says nothing new calls no wake.
func (r *ReadSession) takeFrame(payload []byte, shared bool) error {
	tail, hasTail, hasRecords, err := scanBatch(payload)
	switch {
	case err != nil:
		return err
	case hasRecords:
		if shared {
			payload = bytes.Clone(payload)
		}
		r.queue, r.news = append(r.queue, payload), false
		r.wakeUp()
	case hasTail && (!r.hasTold || r.told != tail || len(r.queue) > 0 || r.taking):
		r.tail, r.news = tail, true
		r.wakeUp()
	}
	return nil
}

func (r *ReadSession) wakeUp() {
	if !r.woken {
		r.woken = true
		r.wake()
	}
}

func (r *ReadSession) noteEnd()        { r.wakeUp() }
func (r *ReadSession) isHolding() bool { return r.taking || len(r.queue) > 0 }
func (r *ReadSession) isWaiting() bool { return !r.isHolding() }
func (r *ReadSession) drain() bool     { return false }
func (r *ReadSession) sent(bool)       {}
