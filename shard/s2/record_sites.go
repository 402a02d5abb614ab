package s2

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

// This file says where the fleet keeps its record, and explains errors there by the operator's
// settings. The calls themselves are ordinary calls of the Log. S2 answers an append with an
// impossible match_seq_num by 412 if the token may append, and by 403 if it may not. The same holds
// for a trim, which is an append of a command record.

// fleetStream is the name of the stream with the fleet's record in its basin. fleetStreamPrefix
// starts the ids of such streams, and the basin follows it.
const (
	fleetStream       = "__ds/fleet"
	fleetStreamPrefix = fleetStream + "/"
)

// sampleProject names the project with the basin that stands for all basins of a template.
const sampleProject = "default"

var (
	_ shard.Prober = (*Log)(nil)
	_ shard.Prober = (*InProcess)(nil)
)

// siteBasins returns the basins that the settings name. templated: a template names them, and they
// need not exist.
func (c *Config) siteBasins() (basins []string, templated bool) {
	switch {
	case c.Basin != "":
		return []string{c.Basin}, false
	case c.HomeBasin != "":
		return []string{c.HomeBasin}, false
	case c.BasinTemplate != "":
		if basin := strings.ReplaceAll(c.BasinTemplate, "{project}", sampleProject); isValidBasin(basin) {
			return []string{basin}, true
		}
		return nil, true
	}
	for _, basin := range c.BasinMap {
		basins = append(basins, basin)
	}
	slices.Sort(basins)
	return basins, false
}

func (c *Config) sites() []shard.Site {
	basins, templated := c.siteBasins()
	sites := make([]shard.Site, len(basins))
	for i, b := range basins {
		sites[i] = shard.Site{Log: shard.StreamID(fleetStreamPrefix + b), Basin: b, Templated: templated}
	}
	return sites
}

// basinOfSite returns the basin of a site's log.
func (c *Config) basinOfSite(id shard.StreamID) (basin string, ok bool) {
	if basin, ok = strings.CutPrefix(string(id), fleetStreamPrefix); !ok {
		return "", false
	}
	basins, _ := c.siteBasins()
	return basin, slices.Contains(basins, basin)
}

func (c *Config) describeMapping() string {
	switch {
	case c.Basin != "":
		return "all in basin " + c.Basin
	case c.BasinTemplate != "":
		return "a basin for each, " + c.BasinTemplate
	}
	projects := make([]string, 0, len(c.BasinMap))
	for project, basin := range c.BasinMap {
		projects = append(projects, project+" in "+basin)
	}
	slices.Sort(projects)
	return strings.Join(projects, ", ")
}

func (c *Config) basinFlag() string {
	switch {
	case c.Basin != "":
		return "--s2-basin"
	case c.HomeBasin != "":
		return "--s2-home-basin"
	case c.BasinTemplate != "":
		return "--s2-basin-template"
	}
	return "--s2-basin-map"
}

// describeEndpoint returns a name of this S2 for messages.
func (c *Config) describeEndpoint() string {
	if c.Endpoint == "" {
		return "S2"
	}
	return "S2 " + c.Endpoint
}

func (c *Config) describeSite(s shard.Site) string {
	return fmt.Sprintf("basin %s (%s) of %s", s.Basin, c.basinFlag(), c.describeEndpoint())
}

// explainError returns an explanation of an error in one line, without the token.
func (c *Config) explainError(s shard.Site, err error) string {
	text := c.errorReason(s, err)
	if c.Token != "" && c.Token != placeholderToken {
		text = strings.ReplaceAll(text, c.Token, "…")
	}
	return strings.Join(strings.Fields(text), " ")
}

func (c *Config) errorReason(s shard.Site, err error) string {
	var e *s2.S2Error
	if !errors.As(err, &e) {
		return c.describeEndpoint() + " does not answer: " + rootCause(err) + " (" + c.endpointFlag() + ")"
	}
	said := e.Code
	if e.Message != "" {
		said += ", " + e.Message
	}
	switch {
	case e.Code == "basin_not_found":
		return fmt.Sprintf("S2 refuses this node: basin %s not found (%s)", s.Basin, c.basinFlag())
	case e.Status == 401:
		return fmt.Sprintf("S2 refuses this node: it does not take the token (--s2-token, FANTAIL_S2_TOKEN): %s", said)
	case e.Status == 403:
		return fmt.Sprintf("S2 refuses this node in basin %s: the token (--s2-token, FANTAIL_S2_TOKEN) needs to read, append, trim and make streams in it, %s included: %s",
			s.Basin, fleetStream, said)
	case errors.Is(err, shard.ErrLogDenied):
		return fmt.Sprintf("S2 refuses this node in basin %s (%s): HTTP %d %s", s.Basin, c.basinFlag(), e.Status, said)
	}
	return fmt.Sprintf("%s does not serve this node: HTTP %d %s", c.describeEndpoint(), e.Status, said)
}

func (c *Config) endpointFlag() string {
	if c.Endpoint == "" {
		return "the managed service: --s2-endpoint is not set"
	}
	return "--s2-endpoint"
}

// Sites implements shard.Prober.
func (l *logCalls) Sites() []shard.Site { return l.cfg.sites() }

// Mapping implements shard.Prober.
func (l *logCalls) Mapping() string { return l.cfg.describeMapping() }

// Describe implements shard.Prober.
func (l *logCalls) Describe(s shard.Site) string { return l.cfg.describeSite(s) }

// Explain implements shard.Prober.
func (l *logCalls) Explain(s shard.Site, err error) string { return l.cfg.explainError(s, err) }
