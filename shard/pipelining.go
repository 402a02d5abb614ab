package shard

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Pipelining says whether a Manager sends several batches of a stream without waiting for their
// acknowledgements, over an append session. Without it one batch of a stream is in flight.
type Pipelining uint8

// The settings. PipeliningAuto pipelines where it is known of the storage that its append sessions
// keep their promise: the Log says so (SessionLog.KeepsAppendOrder), or a trial has shown it
// (append_order.go).
const (
	PipeliningOff Pipelining = iota
	PipeliningAuto
	PipeliningOn
)

// Bounds of what a stream has in flight over an append session. The bodies are charged where they
// came in (Request.Cost).
const (
	maxFlightBatches = 32
	// maxFlightCalls bounds the appends. It is less than outcomeWindowSize: whatever has been written
	// of them is remembered when it is looked for.
	maxFlightCalls   = 1000
	maxFlightBytes   = 8 << 20
	maxFlightRecords = 4 * MaxBatchRecords
)

const (
	// farAckTime is the time that storage takes for an acknowledgement from which batches are
	// pipelined. Below it, waiting costs less than a session.
	farAckTime = 3 * time.Millisecond
	// minBatchGap is the least pause between two batches of a stream while some are in flight. S2
	// takes 200 batches a second. A longer pause follows from the time of an acknowledgement: some
	// flightsPerAck batches are in flight, and so each holds what arrives in the pause.
	minBatchGap   = 5 * time.Millisecond
	flightsPerAck = 16
	// pipelineLinger is the time for which a session without callers stays open.
	pipelineLinger = 2 * time.Second
	// maxAppendSessions bounds the sessions of a node. The least recently used idle session makes
	// room; without room a stream has one batch in flight.
	maxAppendSessions = 256
	// appendSessionsPerSecond and appendSessionBurst are the token bucket of new sessions.
	appendSessionsPerSecond, appendSessionBurst = 200, 256
	// sessionRetryAfter is the pause after a session could not be opened.
	sessionRetryAfter = 5 * time.Second
	openSessionWithin = 2 * time.Second
	// releaseMargin bounds how much longer than an acknowledgement usually takes a stream that is
	// released waits for its batches in flight.
	releaseMargin = 500 * time.Millisecond
	// lookAgainAfter is the pause without news after which a pipeline looks whether a batch has
	// waited for too long.
	lookAgainAfter = time.Second
	// pipelinePause is the pause of a stream whose session ended before it had acknowledged a batch,
	// and not for its position.
	pipelinePause = time.Second
)

// pipelines holds what the pipelines of a Manager share.
type pipelines struct {
	// order is an appendOrder: orderKept where the Log has append sessions that may be used.
	order  atomic.Int32
	asks   bool        // whether sessions keep their order is to be tried
	prober OrderProber // names a log for that; nil if it is not to be tried
	// brokenLogs counts batches that stand on another one than they say. After the first nothing is
	// pipelined any more.
	brokenLogs     atomic.Int64
	brokenLogLimit rate.Sometimes
	farAfter       time.Duration
	opens          *rate.Limiter
	acks           ackTimes
	retryAt        atomic.Int64 // ns since 1970, by the process's own clock; no session is opened before

	inFlight          atomic.Int64 // batches on sessions
	onSession, onCall atomic.Int64 // batches acknowledged
	lost              atomic.Int64 // sessions that ended with batches in flight

	mu   sync.Mutex
	open map[*pipeline]time.Time // when each was last used; zero: it has batches in flight
}

func (p *pipelines) init(log Log, cfg *Config) {
	sessions, ok := log.(SessionLog)
	switch {
	case !ok || cfg.Pipelining == PipeliningOff:
	case cfg.Pipelining == PipeliningOn || sessions.KeepsAppendOrder():
		p.order.Store(int32(orderKept))
	default:
		p.prober, p.asks = log.(OrderProber)
	}
	p.brokenLogLimit = rate.Sometimes{First: 10, Interval: 10 * time.Second}
	p.farAfter = farAckTime
	if cfg.pipelineAlways {
		p.farAfter = 0
	}
	p.opens = rate.NewLimiter(appendSessionsPerSecond, appendSessionBurst)
	p.open = map[*pipeline]time.Time{}
}

// isAllowed reports whether batches may be pipelined.
func (p *pipelines) isAllowed() bool {
	return appendOrder(p.order.Load()) == orderKept && p.brokenLogs.Load() == 0
}

// isWorthwhile reports whether batches that wait should be pipelined.
func (p *pipelines) isWorthwhile() bool {
	return p.isAllowed() && p.acks.shortest() >= p.farAfter
}

// add makes room for one more session, and adds it; false: there is none now.
func (p *pipelines) add(one *pipeline) bool {
	if time.Now().UnixNano() < p.retryAt.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) >= maxAppendSessions {
		var oldest *pipeline
		for c, used := range p.open {
			if !used.IsZero() && (oldest == nil || used.Before(p.open[oldest])) {
				oldest = c
			}
		}
		if oldest != nil {
			oldest.evicted.Store(true)
			oldest.signal()
		}
		return false // its place is free for the next batch
	}
	if !p.opens.Allow() {
		return false
	}
	p.open[one] = time.Time{}
	return true
}

// noteUse notes whether a session is idle, since now.
func (p *pipelines) noteUse(one *pipeline, idle bool, now time.Time) {
	if !idle {
		now = time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.open[one]; ok {
		p.open[one] = now
	}
}

func (p *pipelines) remove(one *pipeline) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, one)
}

func (p *pipelines) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// ackTimes measures how long storage takes to acknowledge a batch: the shortest time of the last
// seconds, which neither a busy process nor a large batch makes longer.
type ackTimes struct {
	mu        sync.Mutex
	now, past time.Duration // the shortest of this window, and of the one before; 0: none
	began     time.Time     // the window
}

// ackWindow is the length of a window of ackTimes.
const ackWindow = 5 * time.Second

func (a *ackTimes) note(at time.Time, took time.Duration) {
	took = max(took, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case at.Sub(a.began) >= ackWindow:
		a.past, a.now, a.began = a.now, took, at
	case took < a.now:
		a.now = took
	}
}

// shortest returns the shortest time; 0: none is known.
func (a *ackTimes) shortest() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.past > 0 {
		return min(a.now, a.past)
	}
	return a.now
}
