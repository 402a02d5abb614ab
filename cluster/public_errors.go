package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// publicError returns the error that a caller of the package gets for an internal one.
func publicError(err error) error {
	var r *placement.RedirectError
	switch {
	case errors.Is(err, placement.ErrUnreachable), errors.Is(err, placement.ErrCallFailed), errors.As(err, &r),
		errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", shard.ErrUnavailable, err)
	case errors.Is(err, context.Canceled):
		return shard.ErrStopped
	default:
		return err
	}
}
