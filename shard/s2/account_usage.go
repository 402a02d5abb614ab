package s2

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"
)

// Usage holds what S2's own metrics say of the basins that the settings name: operations as S2 bills them,
// whichever program made them.
type Usage struct {
	// From and Until bound the time.
	From, Until time.Time
	// SessionMinutes are minutes of read sessions.
	SessionMinutes float64
	// Reads are reads without a session.
	Reads float64
	// Appends are minutes in which a connection appended to a stream.
	Appends float64
}

// ErrNoUsage reports that this S2 has no such metrics, or that the token may not read them. It is final.
var ErrNoUsage = errors.New("S2 does not give its metrics")

// usageTime is the time of a Usage. S2 tells it in buckets of a minute.
const usageTime = time.Hour

// maxUsageBasins bounds the basins that are asked for: two calls each.
const maxUsageBasins = 50

// CheckUsage returns why Usage cannot be asked for with these settings.
func (c *Config) CheckUsage() error {
	switch basins, templated := c.usageBasins(); {
	case templated:
		return errors.New("it needs basins that are named (--s2-basin or --s2-basin-map), not a template")
	case len(basins) > maxUsageBasins:
		return fmt.Errorf("it is for %d basins at most, and these are %d", maxUsageBasins, len(basins))
	}
	return nil
}

// usageBasins returns the basins that hold streams; templated: a template names them.
func (c *Config) usageBasins() (basins []string, templated bool) {
	if c.BasinTemplate != "" {
		return nil, true
	}
	return c.siteBasins()
}

// AskUsage asks S2 for the usage of the last hour. S2 meters the calls as operations of the account. S2:
// GET /metrics/{b}, by its sets read-ops and append-ops.
func (l *Log) AskUsage(ctx context.Context, now time.Time) (Usage, error) {
	u := Usage{From: now.Add(-usageTime), Until: now}
	basins, _ := l.cfg.usageBasins()
	for _, basin := range basins {
		if err := l.addUsage(ctx, &u, basin); err != nil {
			return Usage{}, fmt.Errorf("metrics of basin %s: %w", basin, err)
		}
	}
	return u, nil
}

// addUsage adds the usage of a basin.
func (l *Log) addUsage(ctx context.Context, u *Usage, basin string) error {
	return errors.Join(
		l.addOperations(ctx, u, basin, s2.BasinMetricSetReadOps, func(name string, n float64) {
			if strings.Contains(strings.ToLower(name), "stream") { // "streaming"; the other one is "unary"
				u.SessionMinutes += n
			} else {
				u.Reads += n
			}
		}),
		l.addOperations(ctx, u, basin, s2.BasinMetricSetAppendOps, func(_ string, n float64) { u.Appends += n }),
	)
}

// addOperations calls add with the sum of each series of a set.
func (l *Log) addOperations(ctx context.Context, u *Usage, basin string, set s2.BasinMetricSet, add func(name string, n float64)) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	from, until, minutes := u.From.Unix(), u.Until.Unix(), s2.TimeseriesIntervalMinute
	answer, err := l.client.Metrics.Basin(ctx, &s2.BasinMetricsArgs{Basin: basin, Set: set, Start: &from, End: &until, Interval: &minutes})
	if err != nil {
		var e *s2.S2Error
		if errors.As(err, &e) && (e.Status == 401 || e.Status == 403 || e.Status == 404 || e.Status == 501) {
			return fmt.Errorf("%w: %w", ErrNoUsage, err)
		}
		return err
	}
	for _, m := range answer.Values {
		a := m.Accumulation
		if a == nil {
			continue
		}
		sum := 0.0
		for _, v := range a.Values {
			if v[1] > 0 && !math.IsInf(v[1], 0) {
				sum += v[1]
			}
		}
		add(a.Name, sum)
	}
	return nil
}
