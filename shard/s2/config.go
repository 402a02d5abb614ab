package s2

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/shard"
)

// Config says where S2 is and how projects map to it.
type Config struct {
	// Endpoint of a self-hosted S2 (s2-lite, fantail s2), such as
	// http://127.0.0.1:4430. Empty: the managed service.
	Endpoint string
	// Token authorises us; required for the managed service.
	Token string
	// Basin holds all projects' streams as "project/stream", unless BasinMap or
	// BasinTemplate says otherwise.
	Basin string
	// BasinTemplate makes a basin of each project, such as "ds-{project}"; the
	// stream's name in it is the part after the project.
	BasinTemplate string
	// BasinMap names the basin of each project; others are refused.
	BasinMap map[string]string
	// CreateBasins makes basins that do not exist.
	CreateBasins bool
	// Timeout bounds each unary call (5 s). Appends bring their own.
	Timeout time.Duration
	// ConnsPerHost is how many idle connections are kept (256): the SDK's own two
	// make a new connection for most calls of a busy node.
	ConnsPerHost int
	// Backoff is the longest pause between two read sessions (5 s); the pauses
	// double from 100 ms, with full jitter.
	Backoff time.Duration
	// Silence is how long a read session may say nothing at first (20 s); once it has been
	// answered, the SDK ends one that has no heartbeat for as long.
	Silence time.Duration
	// Logger gets lost sessions (discard).
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer

	reopen *rate.Limiter // of read sessions
}

func (c *Config) validate() error {
	var errs []error
	if c.Endpoint == "" && c.Token == "" {
		errs = append(errs, errors.New("the managed S2 needs a token"))
	}
	if c.Token == "" {
		c.Token = "none" // the SDK panics without one; self-hosted S2 ignores it
	}
	ways := 0
	for _, given := range []bool{c.Basin != "", c.BasinTemplate != "", len(c.BasinMap) > 0} {
		if given {
			ways++
		}
	}
	switch {
	case ways == 0:
		errs = append(errs, errors.New("no basin given"))
	case ways > 1:
		errs = append(errs, errors.New("want one of a basin, a template and a map"))
	}
	if c.BasinTemplate != "" && !strings.Contains(c.BasinTemplate, "{project}") {
		errs = append(errs, fmt.Errorf("basin template %q has no {project}: all projects would share their streams", c.BasinTemplate))
	}
	owner := map[string]string{}
	for project, basin := range c.BasinMap {
		if other, ok := owner[basin]; ok {
			errs = append(errs, fmt.Errorf("basin %q of projects %q and %q: they would share their streams", basin, min(project, other), max(project, other)))
		}
		owner[basin] = project
	}
	if c.Basin != "" && !validBasin(c.Basin) {
		errs = append(errs, fmt.Errorf("basin %q: %w", c.Basin, errBasinName))
	}
	for project, basin := range c.BasinMap {
		if !validBasin(basin) {
			errs = append(errs, fmt.Errorf("basin %q of project %q: %w", basin, project, errBasinName))
		}
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.ConnsPerHost <= 0 {
		c.ConnsPerHost = 256
	}
	if c.Backoff <= 0 {
		c.Backoff = 5 * time.Second
	}
	if c.Silence <= 0 {
		c.Silence = 20 * time.Second
	}
	c.reopen = rate.NewLimiter(reopens, reopens/4)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(errs...)
}

var (
	errBasinName = errors.New("want 8 to 48 of a-z, 0-9 and -, no - at the ends")
	basinName    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{6,46}[a-z0-9]$`)
)

func validBasin(name string) bool { return basinName.MatchString(name) }

// place says where in S2 a stream is kept.
func (c *Config) place(id shard.StreamID) (basin, stream string, err error) {
	project, rest, ok := strings.Cut(string(id), "/")
	switch {
	case !ok || rest == "":
		return "", "", fmt.Errorf("%w: stream %q has no project", shard.ErrNoPlace, id)
	case len(c.BasinMap) > 0:
		if basin, ok = c.BasinMap[project]; !ok {
			return "", "", fmt.Errorf("%w: no basin for project %q", shard.ErrNoPlace, project)
		}
		return basin, rest, nil
	case c.BasinTemplate != "":
		basin = strings.ReplaceAll(c.BasinTemplate, "{project}", project)
		if !validBasin(basin) {
			return "", "", fmt.Errorf("%w: basin %q: %w", shard.ErrNoPlace, basin, errBasinName)
		}
		return basin, rest, nil
	default:
		return c.Basin, string(id), nil
	}
}
