package s2

import (
	"errors"
	"fmt"
	"net"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

// hasCode reports whether S2 answered with one of these codes (s2: ErrorInfo).
func hasCode(err error, codes ...string) bool {
	var e *s2.S2Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code == c {
			return true
		}
	}
	return false
}

// classifyError maps an SDK error to an error of the Log contract. Where Create creates basins, a
// missing basin counts as a missing log. Otherwise it is a wrong setting.
func (c *Config) classifyError(what string, err error) error {
	if c.CreateBasins && hasCode(err, "basin_not_found") {
		return fmt.Errorf("s2: %s: %w: %w", what, shard.ErrNoLog, err)
	}
	return classifyError(what, err)
}

func classifyError(what string, err error) error {
	if err == nil {
		return nil
	}
	var (
		e       *s2.S2Error
		beyond  *s2.RangeNotSatisfiableError
		matched *s2.SeqNumMismatchError
	)
	switch {
	case errors.As(err, &matched):
		return &shard.TailError{Tail: shard.Pos(matched.ExpectedSeqNum)}
	case errors.As(err, &beyond) && beyond.Tail != nil:
		return &shard.TailError{Tail: shard.Pos(beyond.Tail.SeqNum)}
	case isDialError(err):
		return fmt.Errorf("s2: %s: %w: %w", what, shard.ErrLogUnreachable, err)
	case !errors.As(err, &e):
		return fmt.Errorf("s2: %s: %w", what, err)
	}
	var kind error
	switch {
	case e.Status == 404 && e.Code == "stream_not_found",
		e.Status == 409 && e.Code == "stream_deletion_pending":
		kind = shard.ErrNoLog
	case e.Status == 401:
		kind = shard.ErrLogUnauthenticated
	case e.Status == 403, e.Status == 404, e.Status == 422,
		e.Status == 400, e.Origin == "sdk" && e.Code == "VALIDATION":
		kind = shard.ErrLogDenied
	case hadNoEffect(e):
		kind = shard.ErrLogBusy
	default:
		return fmt.Errorf("s2: %s: %w", what, err)
	}
	return fmt.Errorf("s2: %s: %w: %w", what, kind, err)
}

// isDialError reports whether no connection was made, so that nothing was sent.
func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// hadNoEffect reports whether S2 declares an answer free of side effects, so that the call can be
// repeated.
func hadNoEffect(e *s2.S2Error) bool {
	switch e.Code {
	case "rate_limited", "hot_server", "server_draining", "transaction_conflict",
		"basin_deletion_pending":
		return true
	}
	return e.Status == 409 || e.Status == 429
}

// classifyAppend does what classifyError does, for an append: an error that is not known to be
// without effect becomes an ErrAppendUnknown.
func (c *Config) classifyAppend(err error) error {
	out := c.classifyError("append", err)
	var lost *shard.TailError
	if errors.As(out, &lost) || errors.Is(out, shard.ErrNoLog) ||
		errors.Is(out, shard.ErrLogDenied) || errors.Is(out, shard.ErrLogBusy) {
		return out
	}
	return fmt.Errorf("%w: %w", shard.ErrAppendUnknown, out)
}
