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
	// outageAfter is the time for which all calls must fail before S2 counts as lost. A broken connection
	// fails all calls on it, and is no outage.
	outageAfter = time.Second
	// askInterval is the longest time without a call: then Watch makes one. askIntervalFailing is
	// the time between two such calls while calls fail.
	askInterval        = 10 * time.Second
	askIntervalFailing = time.Second
	// reviewInterval is the time between two looks for basins' configurations that are due to be read.
	reviewInterval = time.Minute
)

// health judges from the results of calls whether S2 answers. A refusal by S2 is an answer.
type health struct {
	log      *slog.Logger
	endpoint string // the endpoint, for log lines

	failing    atomic.Bool  // the last call failed, or there was none yet
	lastAnswer atomic.Int64 // the time of S2's last answer, ns since 1970
	up         atomic.Bool

	mu           sync.Mutex
	failingSince time.Time // the first failure since the last answer; zero: there is none
	reported     bool      // the outage was logged
	cause        string
}

func newHealth(at string, log *slog.Logger) *health {
	h := &health{endpoint: at, log: log}
	h.failing.Store(true)
	return h
}

// recordAnswer notes an answer of S2.
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

// recordFailure notes a call without an answer.
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

// rootCause returns the innermost cause of an error in one line, such as "connection refused".
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

// result is a label of fantail_s2_requests_total. Closed set.
type result string

const (
	resultOK          result = "ok"
	resultPosition    result = "position"    // the log's tail is at another position
	resultNoLog       result = "no-log"      // the stream does not exist
	resultDenied      result = "denied"      // missing rights, missing basin, or malformed call
	resultBusy        result = "busy"        // S2 asks for a later attempt
	resultError       result = "error"       // S2 failed
	resultUnreachable result = "unreachable" // no connection
	resultUnanswered  result = "unanswered"  // a connection, and no answer
	resultCancelled   result = "cancelled"   // the caller cancelled the call
)

var results = []result{
	resultOK, resultPosition, resultNoLog, resultDenied, resultBusy,
	resultError, resultUnreachable, resultUnanswered, resultCancelled,
}

// classifyResult returns the label for the error of classifyError, or of a call itself.
func classifyResult(err error) result {
	if err == nil { // first: the variables below go to the heap
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

// isOutage reports whether a result means that S2 is not reachable.
func (r result) isOutage() bool {
	return r == resultError || r == resultUnreachable || r == resultUnanswered
}

// Watch calls S2 whenever there has been no other call for askInterval, until ctx ends. So an
// outage and its end are logged even while there is no traffic. It asks for the tail of a stream
// that need not exist. Where clients choose the basins, it lists basins instead. Any answer will
// do.
func (l *Log) Watch(ctx context.Context) {
	tick := time.NewTicker(askIntervalFailing)
	defer tick.Stop()
	if basins, templated := l.cfg.siteBasins(); !templated {
		for _, b := range basins {
			l.creations.allows(b)
		}
	}
	for reviewed := time.Now(); ; {
		if time.Since(reviewed) >= reviewInterval {
			reviewed = time.Now()
			l.creations.review()
		}
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
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
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
		_, err = l.service.tail(ctx, basin, watchedStream)
	}
	l.metrics.recordCall(opWatch, start, l.cfg.classifyError("ask", err))
}

// watchedStream is the stream that Watch asks for its tail. Clients cannot name it.
const watchedStream = "__ds/fleet"
