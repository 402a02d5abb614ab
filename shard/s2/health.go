package s2

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

const (
	// outageAfter is how long nothing but failures may come before S2 is lost: a connection that
	// breaks takes all calls on it along, and is no outage.
	outageAfter = time.Second
	// askInterval is how often somebody asks S2 of which nothing else is wanted, and askIntervalFailing how
	// often while calls fail.
	askInterval        = 10 * time.Second
	askIntervalFailing = time.Second
)

// health knows whether S2 answers, from the calls that are made of it. What S2 refuses is answered.
type health struct {
	log      *slog.Logger
	endpoint string // where S2 is

	failing    atomic.Bool  // the last word is a failure, or there is none yet
	lastAnswer atomic.Int64 // when S2 answered last, ns since 1970
	up         atomic.Bool

	mu           sync.Mutex
	failingSince time.Time // of the failures since the last answer; zero: there are none
	reported     bool      // that is told
	cause        string
}

func newHealth(at string, log *slog.Logger) *health {
	h := &health{endpoint: at, log: log}
	h.failing.Store(true)
	return h
}

// recordAnswer takes note of an answer.
func (h *health) recordAnswer(now time.Time) {
	h.lastAnswer.Store(now.UnixNano())
	if !h.failing.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failing.Store(false)
	h.up.Store(true)
	if h.reported {
		h.log.Info("S2 is back", "s2", h.endpoint, "after", now.Sub(h.failingSince).Round(time.Millisecond), "cause", h.cause)
	}
	h.failingSince, h.reported = time.Time{}, false
}

// recordFailure takes note of a call that nobody answered.
func (h *health) recordFailure(now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failing.Store(true)
	if h.failingSince.IsZero() {
		h.failingSince = now
	}
	if h.reported || now.Sub(h.failingSince) < outageAfter {
		return
	}
	h.reported, h.cause = true, rootCause(err)
	h.up.Store(false)
	h.log.Error("S2 does not answer: appends are refused, readers stay, what is in memory is served", "s2", h.endpoint, "cause", h.cause)
}

// rootCause is what is at the bottom of an error, in one line: "connection refused", and not how it
// came here.
func rootCause(err error) string {
	var (
		dns  *net.DNSError
		op   *net.OpError
		said *s2.S2Error
	)
	switch {
	case errors.As(err, &dns):
		return "no such host: " + dns.Name
	case errors.As(err, &said):
		return strings.TrimSpace(said.Code + " " + said.Message)
	case errors.As(err, &op):
		err = op.Err
		for u := errors.Unwrap(err); u != nil; u = errors.Unwrap(err) {
			err = u
		}
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// result labels fantail_s2_requests_total. Closed set.
type result string

const (
	resultOK          result = "ok"
	resultPosition    result = "position"    // the log's tail is elsewhere
	resultNoLog       result = "no-log"      // there is no such stream
	resultDenied      result = "denied"      // rights, a basin that is missing, a malformed call
	resultBusy        result = "busy"        // S2 asks to come again
	resultError       result = "error"       // S2 failed
	resultUnreachable result = "unreachable" // nobody took the call
	resultUnanswered  result = "unanswered"  // no answer came
	resultCancelled   result = "cancelled"   // nobody wanted it any more
)

var results = []result{
	resultOK, resultPosition, resultNoLog, resultDenied, resultBusy,
	resultError, resultUnreachable, resultUnanswered, resultCancelled,
}

// classifyResult classifies what classify, or a call itself, has said.
func classifyResult(err error) result {
	if err == nil { // before what the cases below put on the heap
		return resultOK
	}
	var (
		tail *shard.TailError
		said *s2.S2Error
		own  *callerError
	)
	switch {
	case errors.As(err, &own):
		return resultOK
	case errors.As(err, &tail):
		return resultPosition
	case errors.Is(err, context.Canceled):
		return resultCancelled
	case errors.Is(err, shard.ErrNoLog):
		return resultNoLog
	case errors.Is(err, shard.ErrLogDenied):
		return resultDenied
	case errors.Is(err, shard.ErrLogUnreachable), isDialError(err):
		return resultUnreachable
	case errors.Is(err, shard.ErrLogBusy):
		return resultBusy
	case errors.As(err, &said) && said.Origin == "server":
		return resultError
	}
	return resultUnanswered
}

// isOutage reports whether a result says that S2 is not there.
func (r result) isOutage() bool {
	return r == resultError || r == resultUnreachable || r == resultUnanswered
}

// Watch asks S2 something when nothing else has been asked of it for a while, until ctx ends: so that
// somebody is told when it goes and when it is back, also while nobody writes. It asks for the tail
// of a stream that need not exist, or, where clients choose the basins, for a list of basins: any
// answer will do.
func (l *Log) Watch(ctx context.Context) {
	tick := time.NewTicker(askIntervalFailing)
	defer tick.Stop()
	for {
		idle := time.Since(time.Unix(0, l.metrics.health.lastAnswer.Load()))
		if idle >= askInterval || l.metrics.health.failing.Load() {
			l.askOnce(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *Log) askOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	basin := l.cfg.Basin
	if basin == "" && len(l.cfg.BasinMap) > 0 {
		all := make([]string, 0, len(l.cfg.BasinMap))
		for _, b := range l.cfg.BasinMap {
			all = append(all, b)
		}
		basin = slices.Min(all)
	}
	start := time.Now()
	var err error
	if basin == "" {
		_, err = l.client.Basins.List(ctx, &s2.ListBasinsArgs{Limit: new(1)})
	} else {
		_, err = l.basins.get(basin).Stream(watchedStream).CheckTail(ctx)
	}
	l.metrics.recordCall(opWatch, start, l.cfg.classifyError("ask", err))
}

// watchedStream is the stream that Watch asks for. Clients cannot name it.
const watchedStream = "__ds/fleet"
