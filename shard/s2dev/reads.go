package s2dev

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/proto"
)

const maxUnaryWait = 60 * time.Second

// reading is where a read starts and what ends it.
type reading struct {
	seq, time, offset *uint64 // at most one; none is offset 0
	clamp             bool
	count, bytes      *uint64 // what is left of the bounds
	until             *uint64
	wait              *time.Duration
}

func parseReading(q url.Values) (rd reading, err *apiError) {
	var secs *uint64
	for key, to := range map[string]**uint64{
		"seq_num": &rd.seq, "timestamp": &rd.time, "tail_offset": &rd.offset,
		"count": &rd.count, "bytes": &rd.bytes, "until": &rd.until, "wait": &secs,
	} {
		if *to, err = number(q, key); err != nil {
			return rd, err
		}
	}
	starts := 0
	for _, p := range []*uint64{rd.seq, rd.time, rd.offset} {
		if p != nil {
			starts++
		}
	}
	if starts > 1 {
		return rd, invalid("only one of seq_num, timestamp, or tail_offset can be provided")
	}
	if q.Has("clamp") {
		b, bad := strconv.ParseBool(q.Get("clamp"))
		if bad != nil {
			return rd, fail("bad_query", "clamp: %s", bad)
		}
		rd.clamp = b
	}
	if secs != nil {
		rd.wait = new(time.Duration(min(*secs, 1<<32)) * time.Second)
	}
	if rd.time != nil && rd.until != nil && *rd.time >= *rd.until {
		return rd, invalid("start `timestamp` exceeds or equal to `until`")
	}
	return rd, nil
}

func (rd *reading) follows() bool {
	unbounded := rd.count == nil && rd.bytes == nil && rd.until == nil
	return unbounded && rd.wait == nil || rd.waits()
}

func (rd *reading) waits() bool { return rd.wait != nil && *rd.wait > 0 }

func (rd *reading) exhausted() bool {
	return rd.count != nil && *rd.count == 0 || rd.bytes != nil && *rd.bytes == 0
}

// start resolves where the read begins.
func (rd *reading) start(st *stream) (uint64, *apiError) {
	tail, trim, gone := st.durable()
	if gone {
		return 0, streamDeleted()
	}
	var seq uint64
	switch {
	case rd.seq != nil:
		seq = *rd.seq
	case rd.time != nil:
		if *rd.time <= tail.Time {
			return st.search(min(trim, tail.Seq), tail.Seq, func(r record) bool {
				return r.time >= *rd.time
			})
		}
		seq = tail.Seq + 1
	default:
		seq = tail.Seq - min(tail.Seq, *or(rd.offset, new(uint64)))
	}
	if seq > tail.Seq {
		if !rd.clamp {
			return 0, unwritten(tail)
		}
		seq = tail.Seq
	}
	if seq == tail.Seq && !rd.follows() {
		return 0, unwritten(tail)
	}
	return seq, nil
}

// admit takes the records the bounds allow and lowers the bounds; done means no more may come.
func (rd *reading) admit(recs []record) (taken []record, done bool) {
	n, size := 0, uint64(0)
	for _, r := range recs {
		if rd.count != nil && uint64(n+1) > *rd.count ||
			rd.bytes != nil && size+uint64(r.size) > *rd.bytes ||
			rd.until != nil && r.time >= *rd.until {
			done = true
			break
		}
		n, size = n+1, size+uint64(r.size)
	}
	if rd.count != nil {
		rd.count = new(*rd.count - uint64(n))
	}
	if rd.bytes != nil {
		rd.bytes = new(*rd.bytes - size)
	}
	return recs[:n], done || rd.exhausted()
}

func (rd *reading) room() int {
	if rd.count != nil && *rd.count < maxBatchRecords {
		return int(*rd.count)
	}
	return maxBatchRecords
}

func (c *call) readRecords(basin, name string) *apiError {
	op := OpRead
	s2s, sse := c.contentType() == mimeS2S, c.accepts(mimeSSE)
	if s2s || sse {
		op = OpReadSession
	}
	rd, err := parseReading(c.r.URL.Query())
	if err == nil && sse && !s2s {
		err = rd.resume(c.r.Header.Get("Last-Event-ID"))
	}
	if err != nil {
		c.meter.op(c.store.tally(basin, name), op)
		return err
	}
	st, lost, err := c.enterStream(c.r.Context(), basin, name, op, onRead)
	if lost {
		cut()
	}
	if err != nil {
		return err
	}
	if op == OpReadSession {
		return c.readSession(st, rd, s2s)
	}
	return c.readUnary(st, rd)
}

// resume applies a Last-Event-ID: seq,count,bytes of what the client has.
func (rd *reading) resume(id string) *apiError {
	if id == "" {
		return nil
	}
	parts := strings.Split(id, ",")
	if len(parts) != 3 {
		return fail("bad_header", "invalid Last-Event-ID")
	}
	var n [3]uint64
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 64)
		if err != nil {
			return fail("bad_header", "invalid Last-Event-ID: %s", err)
		}
		n[i] = v
	}
	rd.seq, rd.time, rd.offset = new(n[0]+1), nil, nil
	if rd.count != nil {
		rd.count = new(*rd.count - min(*rd.count, n[1]))
	}
	if rd.bytes != nil {
		rd.bytes = new(*rd.bytes - min(*rd.bytes, n[2]))
	}
	return nil
}

func (c *call) readUnary(st *stream, rd reading) *apiError {
	rd.count = new(min(*or(rd.count, new(uint64(maxBatchRecords))), maxBatchRecords))
	rd.bytes = new(min(*or(rd.bytes, new(uint64(maxBatchBytes))), maxBatchBytes))
	pos, err := rd.start(st)
	if err != nil {
		return err
	}
	if rd.exhausted() {
		return c.replyBatch(st, nil, nil)
	}
	ctx := c.r.Context()
	if rd.waits() {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, min(*rd.wait, maxUnaryWait))
		defer stop()
	}
	for waited := false; ; waited = true {
		p, err := st.read(pos, rd.room())
		if err != nil {
			return err
		}
		recs, done := rd.admit(p.recs)
		if len(recs) > 0 || done || !rd.waits() || len(p.recs) == 0 && ctx.Err() != nil {
			if !waited {
				return c.replyBatch(st, recs, nil)
			}
			return c.replyBatch(st, recs, &p.tail)
		}
		pos = p.next
		select {
		case <-p.changed:
		case <-ctx.Done():
		case <-c.stopping.Done():
			cut()
		}
	}
}

// replyBatch answers a unary read; S2 gives the tail only with what was waited for.
func (c *call) replyBatch(st *stream, recs []record, tail *position) *apiError {
	c.meter.read(st.used, len(recs))
	c.done(st.name, OpRead)
	if len(recs) == 0 {
		tail = nil
	}
	if c.accepts(mimeProto) {
		c.w.Header().Set("Content-Type", mimeProto)
		_, _ = c.w.Write(batchWire(recs, tail))
		return nil
	}
	b64, err := c.base64Format()
	if err != nil {
		return err
	}
	body, err := jsonBatch(recs, tail, b64)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, body)
}

type jsonSequenced struct {
	Seq  uint64 `json:"seq_num"`
	Time uint64 `json:"timestamp"`
	jsonRecord
}

type jsonReadBatch struct {
	Records []jsonSequenced `json:"records"`
	Tail    *position       `json:"tail,omitempty"`
}

func jsonBatch(recs []record, tail *position, b64 bool) (jsonReadBatch, *apiError) {
	out := jsonReadBatch{Records: make([]jsonSequenced, len(recs)), Tail: tail}
	text := func(b []byte) string {
		if b64 {
			return base64.StdEncoding.EncodeToString(b)
		}
		return strings.ToValidUTF8(string(b), "�")
	}
	for i, r := range recs {
		m := new(pb.SequencedRecord)
		if err := proto.Unmarshal(r.wire, m); err != nil {
			return out, fail("storage", "%s", err)
		}
		j := jsonSequenced{Seq: r.seq, Time: r.time}
		j.Body = text(m.GetBody())
		for _, h := range m.GetHeaders() {
			j.Headers = append(j.Headers, [2]string{text(h.GetName()), text(h.GetValue())})
		}
		out.Records[i] = j
	}
	return out, nil
}
