package s2

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2/s2s"
)

var (
	_ shard.SessionLog  = (*Log)(nil)
	_ shard.OrderProber = (*Log)(nil)
)

const (
	// sessionBatches and sessionBytes are more than shard has in flight on a session.
	sessionBatches = 64
	sessionBytes   = 32 << 20
	// appendSendBuffer holds what shard has in flight of one stream.
	appendSendBuffer = 8 << 20
)

// OpenAppendSession implements shard.SessionLog.
func (l *Log) OpenAppendSession(ctx context.Context, id shard.StreamID, wake func()) (shard.AppendSession, error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return nil, err
	}
	s, err := l.appends.OpenAppend(ctx, l.target(basin, name), s2s.AppendOptions{MaxBatches: sessionBatches, MaxBytes: sessionBytes}, wake)
	if err != nil {
		return nil, l.cfg.classifyAppend(toSDKError(err))
	}
	return &appendSession{session: s, owner: l}, nil
}

// KeepsAppendOrder implements shard.SessionLog. Which S2 answers, and what is on the way to it, the
// settings do not say.
func (l *Log) KeepsAppendOrder() bool { return false }

// OrderProbeLog implements shard.OrderProber.
func (l *Log) OrderProbeLog() (shard.StreamID, error) {
	sites := l.cfg.sites()
	switch {
	case l.bridge != nil:
		return "", errThroughProxy
	case l.cfg.SDKSessions:
		return "", errSDKSessions
	case len(sites) == 0 || sites[0].Templated:
		return "", fmt.Errorf("%w: --s2-home-basin names one", ErrNotFixed)
	}
	return sites[0].Log, nil
}

var (
	errThroughProxy = errors.New("S2 is reached through a proxy")
	errSDKSessions  = errors.New("sessions are those of S2's own client")
)

// target returns the stream of a basin as package s2s has it.
func (l *Log) target(basin, name string) s2s.Target {
	if l.base == nil {
		return s2s.Target{Base: "https://" + basin + managedBasinSuffix + "/v1", Stream: name}
	}
	return s2s.Target{Base: l.base(basin), Basin: basin, Stream: name}
}

// appendSession makes a session of package s2s a shard.AppendSession. Each batch is counted as a
// call to S2.
type appendSession struct {
	session *s2s.AppendSession
	owner   *Log
	sent    []time.Time // of the batches that are not acknowledged
	records []s2s.AppendRecord
	acks    []s2s.Ack
	end     *shard.AppendEnd
}

// Submit implements shard.AppendSession.
func (a *appendSession) Submit(at shard.Pos, batch []shard.Entry) error {
	a.records = a.records[:0]
	for _, e := range batch {
		a.records = append(a.records, toS2SRecord(e))
	}
	err := a.session.Submit(uint64(at), a.records)
	if clear(a.records); err == nil {
		a.sent = append(a.sent, time.Now())
	}
	return err
}

// TakeAcks implements shard.AppendSession.
func (a *appendSession) TakeAcks(acks []shard.Ack) ([]shard.Ack, *shard.AppendEnd) {
	got, end := a.session.TakeAcks(a.acks[:0])
	a.acks = got
	for _, k := range got {
		a.owner.metrics.recordCall(opAppend, a.sent[0], nil)
		a.sent = a.sent[1:]
		acks = append(acks, shard.Ack{
			Start: shard.Pos(k.Start.SeqNum), End: shard.Pos(k.End.SeqNum),
			StartTime: shard.Millis(k.Start.Timestamp), EndTime: shard.Millis(k.End.Timestamp),
		})
	}
	if end != nil && a.end == nil {
		a.end = a.toAppendEnd(end)
	}
	return acks, a.end
}

// toAppendEnd returns how the session ended. What ended it counts as the result of the first batch
// that is not acknowledged.
func (a *appendSession) toAppendEnd(end *s2s.AppendEnd) *shard.AppendEnd {
	cfg, err := &a.owner.cfg, toSDKError(end.Err)
	if len(a.sent) > 0 && !errors.Is(end.Err, s2s.ErrClosed) {
		a.owner.metrics.recordCall(opAppend, a.sent[0], cfg.classifyError("append", err))
	}
	out := &shard.AppendEnd{Err: cfg.classifyAppend(err), Refused: end.Refused, Unsent: end.Unsent}
	if out.Refused && errors.Is(out.Err, shard.ErrAppendUnknown) {
		out.Refused = false // no answer that shard knows
	}
	return out
}

// Close implements shard.AppendSession.
func (a *appendSession) Close() { a.session.Close() }

func toS2SRecord(e shard.Entry) s2s.AppendRecord {
	name, value, body, has := recordParts(e)
	if !has {
		return s2s.AppendRecord{Body: body}
	}
	return s2s.AppendRecord{Headers: []s2s.Header{{Name: name, Value: value}}, Body: body}
}
