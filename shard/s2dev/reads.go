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

// readBounds holds the start and the bounds of a read.
type readBounds struct {
	seq, time, offset *uint64 // at most one is set; none: offset 0
	clamp             bool
	count, bytes      *uint64 // what is left of each bound
	until             *uint64
	wait              *time.Duration
}

func parseReadBounds(q url.Values) (rd readBounds, err *apiError) {
	var secs *uint64
	for key, to := range map[string]**uint64{
		"seq_num": &rd.seq, "timestamp": &rd.time, "tail_offset": &rd.offset,
		"count": &rd.count, "bytes": &rd.bytes, "until": &rd.until, "wait": &secs,
	} {
		if *to, err = queryNumber(q, key); err != nil {
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
		return rd, invalidError("only one of seq_num, timestamp, or tail_offset can be provided")
	}
	if q.Has("clamp") {
		b, bad := strconv.ParseBool(q.Get("clamp"))
		if bad != nil {
			return rd, newError("bad_query", "clamp: %s", bad)
		}
		rd.clamp = b
	}
	if secs != nil {
		rd.wait = new(time.Duration(min(*secs, 1<<32)) * time.Second)
	}
	if rd.time != nil && rd.until != nil && *rd.time >= *rd.until {
		return rd, invalidError("start `timestamp` exceeds or equal to `until`")
	}
	return rd, nil
}

func (rd *readBounds) isFollowing() bool {
	unbounded := rd.count == nil && rd.bytes == nil && rd.until == nil
	return unbounded && rd.wait == nil || rd.isWaiting()
}

func (rd *readBounds) isWaiting() bool { return rd.wait != nil && *rd.wait > 0 }

func (rd *readBounds) isExhausted() bool {
	return rd.count != nil && *rd.count == 0 || rd.bytes != nil && *rd.bytes == 0
}

// resolveStart returns the sequence number at which the read starts.
func (rd *readBounds) resolveStart(st *stream) (uint64, *apiError) {
	tail, trim, gone := st.durableState()
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
		seq = tail.Seq - min(tail.Seq, *firstNonNil(rd.offset, new(uint64)))
	}
	if seq > tail.Seq {
		if !rd.clamp {
			return 0, positionUnwritten(tail)
		}
		seq = tail.Seq
	}
	if seq == tail.Seq && !rd.isFollowing() {
		return 0, positionUnwritten(tail)
	}
	return seq, nil
}

// limitRecords returns the records within the bounds, and lowers the bounds. done: no more may
// follow.
func (rd *readBounds) limitRecords(recs []record) (taken []record, done bool) {
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
	return recs[:n], done || rd.isExhausted()
}

func (rd *readBounds) maxRecords() int {
	if rd.count != nil && *rd.count < maxBatchRecords {
		return int(*rd.count)
	}
	return maxBatchRecords
}

func (c *apiCall) readRecords(basin, name string) *apiError {
	op := OpRead
	s2s, sse := c.contentType() == mimeS2S, c.accepts(mimeSSE)
	if s2s || sse {
		op = OpReadSession
	}
	rd, err := parseReadBounds(c.r.URL.Query())
	if err == nil && sse && !s2s {
		err = rd.applyLastEventID(c.r.Header.Get("Last-Event-ID"))
	}
	if err != nil {
		c.meter.countOp(c.catalogue.usageOf(basin, name), op)
		return err
	}
	st, lost, err := c.enterStream(c.r.Context(), basin, name, op, createsOnRead)
	if lost {
		abortConnection()
	}
	if err != nil {
		return err
	}
	if op == OpReadSession {
		return c.serveReadSession(st, rd, s2s)
	}
	return c.readUnary(st, rd)
}

// applyLastEventID continues after a Last-Event-ID: seq,count,bytes of what the client has
// received.
func (rd *readBounds) applyLastEventID(id string) *apiError {
	if id == "" {
		return nil
	}
	parts := strings.Split(id, ",")
	if len(parts) != 3 {
		return newError("bad_header", "invalid Last-Event-ID")
	}
	var n [3]uint64
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 64)
		if err != nil {
			return newError("bad_header", "invalid Last-Event-ID: %s", err)
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

func (c *apiCall) readUnary(st *stream, rd readBounds) *apiError {
	rd.count = new(min(*firstNonNil(rd.count, new(uint64(maxBatchRecords))), maxBatchRecords))
	rd.bytes = new(min(*firstNonNil(rd.bytes, new(uint64(maxBatchBytes))), maxBatchBytes))
	pos, err := rd.resolveStart(st)
	if err != nil {
		return err
	}
	if rd.isExhausted() {
		return c.replyBatch(st, nil, nil)
	}
	ctx := c.r.Context()
	if rd.isWaiting() {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, min(*rd.wait, maxUnaryWait))
		defer stop()
	}
	for waited := false; ; waited = true {
		p, err := st.read(pos, rd.maxRecords())
		if err != nil {
			return err
		}
		recs, done := rd.limitRecords(p.recs)
		if len(recs) > 0 || done || !rd.isWaiting() || len(p.recs) == 0 && ctx.Err() != nil {
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
			abortConnection()
		}
	}
}

// replyBatch answers a unary read. As in S2, the answer has the tail only if the read waited.
func (c *apiCall) replyBatch(st *stream, recs []record, tail *position) *apiError {
	c.meter.countRead(st.usage, len(recs))
	c.applyFaultsAfter(st.name, OpRead)
	if len(recs) == 0 {
		tail = nil
	}
	if c.accepts(mimeProto) {
		c.w.Header().Set("Content-Type", mimeProto)
		_, _ = c.w.Write(encodeBatch(recs, tail))
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
	return c.replyJSON(http.StatusOK, body)
}

type jsonSequencedRecord struct {
	Seq  uint64 `json:"seq_num"`
	Time uint64 `json:"timestamp"`
	jsonRecord
}

type jsonReadBatch struct {
	Records []jsonSequencedRecord `json:"records"`
	Tail    *position             `json:"tail,omitempty"`
}

func jsonBatch(recs []record, tail *position, b64 bool) (jsonReadBatch, *apiError) {
	out := jsonReadBatch{Records: make([]jsonSequencedRecord, len(recs)), Tail: tail}
	text := func(b []byte) string {
		if b64 {
			return base64.StdEncoding.EncodeToString(b)
		}
		return strings.ToValidUTF8(string(b), "�")
	}
	for i, r := range recs {
		m := new(pb.SequencedRecord)
		if err := proto.Unmarshal(r.encoded, m); err != nil {
			return out, newError("storage", "%s", err)
		}
		j := jsonSequencedRecord{Seq: r.seq, Time: r.time}
		j.Body = text(m.GetBody())
		for _, h := range m.GetHeaders() {
			j.Headers = append(j.Headers, [2]string{text(h.GetName()), text(h.GetValue())})
		}
		out.Records[i] = j
	}
	return out, nil
}
