package s2

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http/httpproxy"
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
	// HomeBasin holds the fleet's record where BasinTemplate is given, and nothing else;
	// without it no basin is checked.
	HomeBasin string
	// BasinMap names the basin of each project; others are refused.
	BasinMap map[string]string
	// CreateBasins makes basins that do not exist.
	CreateBasins bool
	// Proxy names the proxy for a URL; nil: none (as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say).
	Proxy func(*url.URL) (*url.URL, error)
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

	reopenLimiter *rate.Limiter // of read sessions
	createLimiter *rate.Limiter // of basins that a template names
}

func (c *Config) validate() error {
	var errs []error
	for _, m := range c.Check() {
		errs = append(errs, m)
	}
	if c.Token == "" {
		c.Token = placeholderToken // the SDK panics without one; self-hosted S2 ignores it
	}
	if c.Proxy == nil {
		c.Proxy = httpproxy.FromEnvironment().ProxyFunc()
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
	c.createLimiter = rate.NewLimiter(rate.Every(createBasinEvery), createBasinBurst)
	c.reopenLimiter = rate.NewLimiter(reopensPerSecond, reopensPerSecond/4)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(errs...)
}

// CheckStream reports with an ErrNoBasin that a stream can be in no basin.
func (c *Config) CheckStream(id shard.StreamID) error {
	_, _, err := c.locate(id)
	return err
}

// fleetLog names the fleet's own log in the basin where a stream is kept: __ds/fleet there.
func (c *Config) fleetLog(id shard.StreamID) shard.StreamID {
	if len(c.BasinMap) == 0 && c.BasinTemplate == "" {
		return "__ds/fleet"
	}
	return shard.StreamID(id.Project() + "/__ds/fleet")
}

// placeholderToken stands for none.
const placeholderToken = "none"

// locate says where in S2 a stream is kept.
func (c *Config) locate(id shard.StreamID) (basin, stream string, err error) {
	if basin, ok := c.basinOfSite(id); ok {
		return basin, fleetStream, nil
	}
	project, rest, ok := strings.Cut(string(id), "/")
	switch {
	case !ok || rest == "":
		return "", "", fmt.Errorf("%w: stream %q has no project", shard.ErrNoBasin, id)
	case len(c.BasinMap) > 0:
		if basin, ok = c.BasinMap[project]; !ok {
			return "", "", fmt.Errorf("%w: no basin for project %q", shard.ErrNoBasin, project)
		}
		return basin, rest, nil
	case c.BasinTemplate != "":
		basin = strings.ReplaceAll(c.BasinTemplate, "{project}", project)
		if !isValidBasin(basin) {
			return "", "", fmt.Errorf("%w: %w", shard.ErrNoBasin, checkBasin(basin))
		}
		return basin, rest, nil
	default:
		return c.Basin, string(id), nil
	}
}
