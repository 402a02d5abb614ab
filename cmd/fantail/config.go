package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2"
)

// cli is every flag of every command. Each flag is also a variable: FANTAIL_ and
// its name in capitals, such as FANTAIL_S2_TOKEN for --s2-token.
type cli struct {
	LogLevel  *slog.Level `help:"debug, info, warn or error (default: info; of dev: warn)."`
	LogFormat string      `help:"text or json." enum:"text,json" default:"text"`

	Dev     devCmd           `cmd:"" help:"Nodes and an embedded S2, in one process, to try Fantail."`
	Serve   serveCmd         `cmd:"" help:"One node, for real use."`
	S2      s2Cmd            `cmd:"" name:"s2" help:"The embedded S2 alone."`
	Version kong.VersionFlag `help:"Print the version, the commit and the version of Go."`
}

// serveCmd is the configuration of a node.
type serveCmd struct {
	Name           string        `help:"Name of the node, which no other has, and the same after a restart (default: the host's name)."`
	HTTP           string        `name:"http" help:"Public address." default:":4437"`
	Admin          string        `help:"Address of metrics, health, draining and profiles; keep it private." default:"127.0.0.1:4447"`
	AdminTokenFile string        `name:"admin-token-file" help:"File of a bearer token that the admin address asks for, but for /livez and /readyz. Read again when it changes."`
	AdminPprof     bool          `name:"admin-pprof" help:"The admin address serves profiles (/debug/pprof/): heap dumps hold what clients sent."`
	TLSCert        string        `name:"tls-cert" help:"File of the public address's certificates (PEM); none is no TLS. Read again every 30 s."`
	TLSKey         string        `name:"tls-key" help:"File of the certificate's key."`
	Grace          time.Duration `help:"Longest time that stopping takes." default:"60s"`
	Linger         time.Duration `help:"How long a node that stops serves on before it ends readers and closes its address, so that balancers hear of it; half of the grace at most." default:"5s"`
	Drain          time.Duration `help:"Over how long a node that stops ends its readers' event streams; half of the rest of the grace at most." default:"15s"`

	S2Endpoint      string            `name:"s2-endpoint" help:"URL of a self-hosted S2 (s2-lite, fantail s2), http:// or https://; none is the managed S2. HTTPS_PROXY, HTTP_PROXY and NO_PROXY count."`
	S2Token         string            `name:"s2-token" help:"Access token of S2."`
	S2Basin         string            `name:"s2-basin" help:"Basin that holds all projects."`
	S2BasinTemplate string            `name:"s2-basin-template" help:"A basin for each project, such as ds-{project}; the prefix is required."`
	S2HomeBasin     string            `name:"s2-home-basin" help:"With a template: basin of the fleet's record (__ds/fleet). Without it no basin is checked at the start."`
	S2BasinMap      map[string]string `name:"s2-basin-map" help:"Basins by project: project=basin;…"`
	S2CreateBasins  bool              `name:"s2-create-basins" help:"Make basins that do not exist; with a template 20 together, then one each 5 s."`
	Exclusive       bool              `help:"Nobody else writes to the streams in S2: no read sessions at all."`

	LongPoll            time.Duration `help:"How long a long-poll waits." default:"20s"`
	ColdOpens           float64       `help:"How many streams a second this node reads from S2 that are not in memory, after twice as many in a burst; requests that would wait for over a second are refused." default:"200"`
	MaxReaders          int           `help:"Most SSE and long-poll readers at once." default:"200000"`
	AccessLog           bool          `help:"Write a line for each request to standard output."`
	Memory              byteSize      `help:"What the process may use, such as 2GiB; caches and the collector keep to it (default: the cgroup's limit, or what GOMEMLIMIT is nine tenths of)."`
	MaxGoroutineReaders int           `name:"max-goroutine-readers" help:"Most of them over HTTP/2 or by long-poll, which cost some 17 KB of memory each." default:"20000"`
	IdleTimeout         time.Duration `name:"idle-timeout" help:"How long a client's connection is kept on which nothing is asked; more than balancers in front keep theirs." default:"620s"`

	fleetFlags

	RebalanceThreshold float64 `help:"How far above the mean of all nodes, as a part of it, this one's event streams may be before some are sent elsewhere; 0 is never." default:"0.25" group:"fleet"`
	RebalanceFloor     int     `help:"How many event streams above the mean are left alone." default:"200" group:"fleet"`
	RebalanceRate      float64 `help:"The part of its event streams that a node sends elsewhere each second." default:"0.01" group:"fleet"`
}

// nodeConfig is the configuration as the packages want it; all that is wrong is
// returned at once.
func (c *serveCmd) nodeConfig(log *slog.Logger) (nodeConfig, error) {
	var errs []error
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			errs = append(errs, fmt.Errorf("--name: %w", err))
		}
		c.Name = host
	}
	cfg := nodeConfig{
		httpFlag: "--http (FANTAIL_HTTP)", adminFlag: "--admin (FANTAIL_ADMIN)",
		name: c.Name, http: c.HTTP, admin: c.Admin, grace: c.Grace, linger: min(c.Linger, c.Grace/2), drain: c.Drain,
		pprof: c.AdminPprof,
		s2: s2.Config{
			Endpoint: c.S2Endpoint, Token: c.S2Token, Basin: c.S2Basin,
			BasinTemplate: c.S2BasinTemplate, HomeBasin: c.S2HomeBasin, BasinMap: c.S2BasinMap, CreateBasins: c.S2CreateBasins,
		},
		shard:   shard.Config{ColdOpens: c.ColdOpens},
		edge:    edge.Config{LongPoll: c.LongPoll, MaxReaders: c.MaxReaders, MaxGoroutineReaders: c.MaxGoroutineReaders, IdleTimeout: c.IdleTimeout},
		balance: edge.RebalancePolicy{Threshold: c.RebalanceThreshold, Floor: c.RebalanceFloor, Rate: c.RebalanceRate},
		log:     log.With("node", c.Name),
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("--tls-cert and --tls-key need each other"))
	}
	if c.TLSCert != "" {
		cfg.certificate = &certificateFiles{cert: c.TLSCert, key: c.TLSKey, log: cfg.log}
	}
	if c.AdminTokenFile != "" {
		var err error
		if cfg.adminToken, err = openTokenFile(c.AdminTokenFile, cfg.log); err != nil {
			errs = append(errs, fmt.Errorf("--admin-token-file: %w", err))
		}
	}
	if c.Exclusive {
		cfg.shard.Mode = shard.ModeExclusive
	}
	for flag, addr := range map[string]string{"--http": c.HTTP, "--admin": c.Admin} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", flag, err))
		}
	}
	for flag, v := range map[string]struct {
		ok   bool
		want string
	}{
		"--grace": {c.Grace > 0, "more than 0"}, "--linger": {c.Linger >= 0, "0 or more"},
		"--drain": {c.Drain >= 0, "0 or more"}, "--long-poll": {c.LongPoll > 0, "more than 0"},
		"--memory":                {c.Memory == 0 || c.Memory >= minMemory, "512MiB or more"},
		"--max-readers":           {c.MaxReaders > 0, "more than 0"},
		"--max-goroutine-readers": {c.MaxGoroutineReaders > 0, "more than 0"}, "--idle-timeout": {c.IdleTimeout > 0, "more than 0"},
		"--cold-opens":          {c.ColdOpens > 0, "more than 0"},
		"--rebalance-threshold": {c.RebalanceThreshold >= 0, "0 or more"}, "--rebalance-floor": {c.RebalanceFloor >= 0, "0 or more"},
		"--rebalance-rate": {c.RebalanceRate > 0 && c.RebalanceRate <= 1, "more than 0, and 1 at most"},
	} {
		if !v.ok {
			errs = append(errs, fmt.Errorf("%s: want %s", flag, v.want))
		}
	}
	errs = append(errs, checkS2Settings(&cfg.s2)...)
	fleet, wrong := c.fleetConfig(c.Name, c.HTTP)
	cfg.fleet, errs = fleet, append(errs, wrong...)
	return cfg, errors.Join(errs...)
}

// checkS2Settings is what is wrong with the settings for S2, each under its flag and its variable.
func checkS2Settings(c *s2.Config) (errs []error) {
	for _, m := range c.Check() {
		name := "s2-" + m.Setting
		errs = append(errs, fmt.Errorf("--%s (%s): %w", name, variableOf(name), m.Err))
	}
	return errs
}

// newParser reads flags into c, and variables for those that are not given.
func newParser(c *cli) (*kong.Kong, error) {
	return kong.New(c, kong.Name("fantail"), kong.UsageOnError(), kong.Vars{"version": currentBuild().String()},
		kong.Description("Live, resumable streams for very many readers, kept in S2."),
		kong.PostBuild(func(k *kong.Kong) error {
			eachFlag(k.Model, func(f *kong.Flag) {
				f.Envs = []string{variableOfFlag(f)}
				f.Tag.Envs = f.Envs
			})
			return nil
		}))
}

// variableOfFlag is a flag's name as a variable: FANTAIL_S2_TOKEN for s2-token.
func variableOfFlag(f *kong.Flag) string { return variableOf(f.Name) }

func variableOf(flag string) string {
	return "FANTAIL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// eachFlag visits every flag that may be a variable.
func eachFlag(m *kong.Application, fn func(*kong.Flag)) {
	_ = kong.Visit(m, func(n kong.Visitable, next kong.Next) error {
		if f, ok := n.(*kong.Flag); ok && f.Name != "help" && f.Name != "version" {
			fn(f)
		}
		return next(nil)
	})
}

// serviceVariable is the variables that Kubernetes sets in every pod for a Service named fantail or
// fantail-…. A port of its is a URL there, so FANTAIL_ADMN_PORT=4447 is still a misspelt
// setting.
var serviceVariable = regexp.MustCompile(`^FANTAIL(_[A-Z0-9]+)*_(` +
	`SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)=` +
	`|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://` +
	`|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=)`)

// checkVariables refuses a FANTAIL_ variable that no flag has: a misspelt
// setting must not be a silent default.
func checkVariables(m *kong.Application, environ []string) error {
	known := map[string]bool{}
	eachFlag(m, func(f *kong.Flag) { known[variableOfFlag(f)] = true })
	var errs []error
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "FANTAIL_") && !known[name] && !serviceVariable.MatchString(kv) {
			errs = append(errs, fmt.Errorf("%s: no such setting", name))
		}
	}
	return errors.Join(errs...)
}
