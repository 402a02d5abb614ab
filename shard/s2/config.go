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

// Config holds the address of S2, its credentials, and the mapping of projects to basins.
type Config struct {
	// Endpoint is the URL of a self-hosted S2 (s2-lite, fantail s2), such as http://127.0.0.1:4430.
	// Empty: the managed service.
	Endpoint string
	// Token is the access token. The managed service requires one.
	Token string
	// Basin holds all projects' streams as "project/stream", unless BasinMap or
	// BasinTemplate says otherwise.
	Basin string
	// BasinTemplate names a basin for each project, such as "ds-{project}". A stream's name in its
	// basin is the part after the project.
	BasinTemplate string
	// HomeBasin holds the fleet's record, and nothing else, where BasinTemplate is set. Without it
	// no basin is checked at the start.
	HomeBasin string
	// BasinMap names the basin of each project. Projects that are not in it are refused.
	BasinMap map[string]string
	// CreateBasins lets Create create basins that do not exist.
	CreateBasins bool
	// SDKSessions opens read sessions with the SDK's client, and not with package s2s. A session then
	// takes 66 KB of memory and not 2.
	SDKSessions bool
	// WindowBytes bounds what the windows of all read sessions have beyond 64 KiB each; default 64 MiB.
	WindowBytes int64
	// Logger receives a line for each lost session, and for each outage; default: lines are
	// discarded.
	Logger *slog.Logger
	// Metrics registers the metrics; nil: they are not registered.
	Metrics prometheus.Registerer

	// Tests set these.

	// proxy returns the proxy for a URL, or nil for none. Default: as the variables HTTPS_PROXY,
	// HTTP_PROXY and NO_PROXY say.
	proxy func(*url.URL) (*url.URL, error)
	// timeout bounds each unary call; default 5 s. The context of an append bounds that append.
	timeout time.Duration
	// backoff is the longest pause between two read sessions; default 5 s. The pauses double from
	// minBackoff, with full jitter.
	backoff time.Duration
	// silence is the time without a frame after which a read session is lost; default 20 s. It counts
	// for sessions of the SDK until their first answer; the SDK has 20 s after that.
	silence time.Duration

	reopenLimiter *rate.Limiter // limits how often read sessions are reopened
	createLimiter *rate.Limiter // limits how often the basins of a template are created
}

func (c *Config) validate() error {
	var errs []error
	for _, m := range c.Check() {
		errs = append(errs, m)
	}
	if c.Token == "" {
		c.Token = placeholderToken // the SDK panics without a token; a self-hosted S2 ignores it
	}
	if c.proxy == nil {
		c.proxy = httpproxy.FromEnvironment().ProxyFunc()
	}
	if c.timeout <= 0 {
		c.timeout = 5 * time.Second
	}
	if c.backoff <= 0 {
		c.backoff = 5 * time.Second
	}
	if c.silence <= 0 {
		c.silence = 20 * time.Second
	}
	c.createLimiter = rate.NewLimiter(rate.Every(createBasinEvery), createBasinBurst)
	c.reopenLimiter = rate.NewLimiter(reopensPerSecond, reopensPerSecond/4)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(errs...)
}

// CheckStream returns an ErrNoBasin if no basin can hold a stream.
func (c *Config) CheckStream(id shard.StreamID) error {
	_, _, err := c.locate(id)
	return err
}

// fleetLog returns the id of the fleet's own log in the basin of a stream: __ds/fleet there.
func (c *Config) fleetLog(id shard.StreamID) shard.StreamID {
	if len(c.BasinMap) == 0 && c.BasinTemplate == "" {
		return "__ds/fleet"
	}
	return shard.StreamID(id.Project() + "/__ds/fleet")
}

// placeholderToken stands for no token.
const placeholderToken = "none"

// locate returns the basin of a stream, and the stream's name in it.
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
