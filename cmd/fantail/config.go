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

// cli holds the flags of every command. Each flag without env:"-" is also a variable: FANTAIL_ and
// its name in capitals, such as FANTAIL_S2_TOKEN for --s2-token.
type cli struct {
	Config    string      `help:"File of settings (YAML): names of flags, or of commands with their flags below. Variables and flags count before it."`
	LogLevel  *slog.Level `help:"Lowest level of log lines: debug, info, warn or error (default: info; for dev: warn)."`
	LogFormat string      `help:"Format of log lines: text or json." enum:"text,json" default:"text"`

	Dev   devCmd   `cmd:"" help:"Run nodes and an embedded S2 in one process, to try Fantail." group:"servers"`
	Serve serveCmd `cmd:"" help:"Run one node, for production." group:"servers"`
	S2    s2Cmd    `cmd:"" name:"s2" help:"Run the embedded S2 alone." group:"servers"`

	Ls     lsCmd     `cmd:"" help:"List the streams of a project." group:"streams"`
	New    newCmd    `cmd:"" help:"Create a stream." group:"streams"`
	Append appendCmd `cmd:"" help:"Append messages to a stream, each once, whatever becomes of connections and nodes." group:"streams"`
	Tail   tailCmd   `cmd:"" help:"Print a stream, and wait for more with -f." group:"streams"`
	Info   infoCmd   `cmd:"" help:"Describe a stream." group:"streams"`
	Rm     rmCmd     `cmd:"" help:"Delete streams." group:"streams"`
	Fork   forkCmd   `cmd:"" help:"Create a stream that begins with the messages of another one." group:"streams"`

	Top         topCmd         `cmd:"" help:"Show the nodes of a fleet, and its streams by readers or bytes." group:"operations"`
	Owner       ownerCmd       `cmd:"" help:"Say which node owns a stream, and which nodes read it." group:"operations"`
	Drain       drainCmd       `cmd:"" help:"Move streams and readers away from a node." group:"operations"`
	Undrain     undrainCmd     `cmd:"" help:"Take a drain back." group:"operations"`
	Prove       proveCmd       `cmd:"" help:"Prove that a rollout loses nothing: write and read canary streams while it runs, and report." group:"operations"`
	Bench       benchCmd       `cmd:"" help:"Measure a server with writers and readers: rates and latencies." group:"operations"`
	Doctor      doctorCmd      `cmd:"" help:"Check what a node needs, with its settings: S2 and each right, other nodes, addresses, TLS, clock, open files, and what stands in front." group:"operations"`
	Backup      backupCmd      `cmd:"" help:"Copy the folder of fantail s2, also while it runs." group:"operations"`
	Healthcheck healthcheckCmd `cmd:"" help:"Ask a node of this machine whether it is well. The exit status is 1 if it is not." group:"operations"`

	Token tokenCmd `cmd:"" help:"Make and explain tokens." group:"rights"`
	Sign  signCmd  `cmd:"" help:"Sign the URL of a stream, so that it can be read without a token." group:"rights"`
	Check checkCmd `cmd:"" help:"Check a file of rights, and say what is seldom meant." group:"rights"`

	Completion completionCmd `cmd:"" help:"Print a script by which bash, zsh or fish completes commands and flags." group:"other"`
	VersionCmd versionCmd    `cmd:"" name:"version" help:"Print the version, the commit and the version of Go." group:"other"`

	Version kong.VersionFlag `help:"Print the version, the commit and the version of Go."`
}

// serveCmd holds the flags of a node.
type serveCmd struct {
	Name           string        `help:"Name of the node. Unique in the fleet, and the same after a restart (default: the host name)."`
	HTTP           string        `name:"http" help:"Public address: clients read and write streams here." default:":4437"`
	Admin          string        `help:"Address of metrics, health, draining and profiles. Keep it private." default:"127.0.0.1:4447"`
	AdminTokenFile string        `name:"admin-token-file" help:"File with a bearer token. Requests to the admin address need it, except /livez and /readyz. Read again when it changes (default: no token is needed)."`
	AdminPprof     bool          `name:"admin-pprof" help:"Serve profiles at /debug/pprof/ of the admin address. Heap dumps contain data of clients."`
	TLSCert        string        `name:"tls-cert" help:"File with the certificate chain (PEM) of the public address. Read again every 30 s (default: no TLS)."`
	TLSKey         string        `name:"tls-key" help:"File with the key (PEM) of --tls-cert."`
	Grace          time.Duration `help:"Longest time for stopping after SIGTERM. When it is over, the process ends." default:"60s"`
	Linger         time.Duration `help:"When the node stops, it is not ready, but serves on for this time, so that load balancers notice, before it ends its readers. Half of --grace at most." default:"5s"`
	Drain          time.Duration `help:"When the node stops, it ends its readers evenly over this time, so that they do not all reconnect together. Half of --grace without --linger at most." default:"15s"`

	S2Endpoint      string            `name:"s2-endpoint" help:"URL of a self-hosted S2 (s2-lite, fantail s2), with http:// or https:// (default: the managed S2). A proxy in HTTPS_PROXY or HTTP_PROXY is used, except for hosts in NO_PROXY."`
	S2Token         string            `name:"s2-token" help:"Access token for S2. The managed S2 requires one."`
	S2Basin         string            `name:"s2-basin" help:"Basin for the streams of all projects. Set this, --s2-basin-template or --s2-basin-map."`
	S2BasinTemplate string            `name:"s2-basin-template" help:"Template for the name of one basin per project, such as ds-{project}. A prefix before {project} is required."`
	S2HomeBasin     string            `name:"s2-home-basin" help:"With --s2-basin-template: basin for the record that all nodes of the fleet share (__ds/fleet). Without it no basin is checked at the start."`
	S2BasinMap      map[string]string `name:"s2-basin-map" help:"Basin of each project: project=basin;project=basin. Other projects are refused."`
	S2CreateBasins  bool              `name:"s2-create-basins" help:"Create basins that do not exist. With a template 20 without a wait, then one each 5 s; requests beyond that are refused."`
	S2SDKSessions   bool              `name:"s2-sdk-sessions" help:"Open read sessions with S2's SDK and not with Fantail's own client. Each then takes about 66 KB of memory, not 2. For an S2 whose protocol has changed."`
	S2Pipelining    string            `name:"s2-pipelining" help:"Send several batches of a stream to S2 without waiting for each answer, where an answer takes 3 ms or more: auto once S2 has shown at the start that its append sessions keep their order, on without asking, off never." enum:"auto,on,off" default:"auto"`
	S2Usage         bool              `name:"s2-usage" help:"Ask the managed S2 every 10 minutes for its own count of operations, and show it beside Fantail's estimate. The token needs the right to read metrics of basins. One node of a fleet asks."`
	S2Reads         string            `name:"s2-reads" help:"How the node learns of what other programs write to S2. session: an open read (S2 bills it) for each stream with readers. auto: a check each 30 s, and an open read for an hour after a foreign record, so only the first is up to 30 s late. exclusive: none, because no other program writes. The same on all nodes." enum:"session,auto,exclusive" default:"session"`
	Exclusive       bool              `hidden:""`

	LongPoll            time.Duration `help:"How long a long-poll waits for new data before it gets an empty answer." default:"20s"`
	ColdOpens           float64       `help:"How many streams per second the node loads from S2 because they are not in memory. Twice as many may come in a burst. Requests that would wait longer than 1 s are refused (429)." default:"200"`
	MaxReaders          int           `help:"Most readers with SSE or long-poll at the same time. Further ones are refused (503)." default:"200000"`
	AccessLog           bool          `help:"Write a line for each request to standard output."`
	Memory              byteSize      `help:"Memory that the process may use, such as 2GiB. Caches and the garbage collector keep within it (default: the limit of the container or cgroup; or GOMEMLIMIT, as nine tenths of it)."`
	MaxGoroutineReaders int           `name:"max-goroutine-readers" help:"Most readers over HTTP/2 or with long-poll at the same time, as a part of --max-readers. Each costs about 17 KB of memory. Further ones are refused (503)." default:"20000"`
	IdleTimeout         time.Duration `name:"idle-timeout" help:"How long a client connection without requests stays open. Set it higher than the idle timeout of load balancers in front." default:"620s"`

	authFlags
	rootFlags
	traceFlags
	fleetFlags

	RebalanceThreshold float64 `help:"When the node has more event streams than the mean of all nodes by this fraction, it sends some to other nodes. 0: never." default:"0.25" group:"fleet"`
	RebalanceFloor     int     `help:"Event streams above the mean that are never a reason to send any away." default:"200" group:"fleet"`
	RebalanceRate      float64 `help:"Fraction of its event streams that the node sends away per second at most." default:"0.01" group:"fleet"`
}

// nodeConfig converts the flags to the configuration of the packages. It returns all errors
// together.
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
			SDKSessions: c.S2SDKSessions,
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
	cfg.shard.Pipelining = map[string]shard.Pipelining{"auto": shard.PipeliningAuto, "on": shard.PipeliningOn}[c.S2Pipelining]
	if c.Exclusive {
		errs = append(errs, errors.New("--exclusive (FANTAIL_EXCLUSIVE) is now --s2-reads=exclusive (FANTAIL_S2_READS)"))
	}
	cfg.shard.Mode = map[string]shard.Mode{"auto": shard.ModeAuto, "exclusive": shard.ModeExclusive}[c.S2Reads]
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
	if cfg.s2Usage = c.S2Usage; cfg.s2Usage {
		if err := cfg.s2.CheckUsage(); err != nil {
			errs = append(errs, fmt.Errorf("--s2-usage (%s): %w", variableOf("s2-usage"), err))
		}
	}
	var wrong []error
	cfg.auth, wrong = c.applyRights(&cfg.edge)
	errs = append(errs, wrong...)
	errs = append(errs, c.applyRoots(&cfg.edge)...)
	if err := c.applyTraces(&cfg); err != nil {
		errs = append(errs, err)
	}
	cfg.fleet, wrong = c.fleetConfig(c.Name, c.HTTP, cfg.auth.path != "")
	if cfg.fleet != nil {
		cfg.fleet.ReadsMode = cfg.shard.Mode
	}
	errs = append(errs, wrong...)
	if cfg.auth.path != "" && c.hasSecret() {
		cfg.auth.secrets, _ = c.secrets() // its error is fleetConfig's
		if c.SecretFile != "" {
			cfg.auth.reloadSecrets = c.secrets
		}
	}
	return cfg, errors.Join(errs...)
}

// checkS2Settings returns the errors in the settings for S2, each with its flag and variable.
func checkS2Settings(c *s2.Config) (errs []error) {
	for _, m := range c.Check() {
		name := "s2-" + m.Setting
		errs = append(errs, fmt.Errorf("--%s (%s): %w", name, variableOf(name), m.Err))
	}
	return errs
}

// newParser returns a parser that reads flags into c, and variables for flags that are not given.
func newParser(c *cli, more ...kong.Option) (*kong.Kong, error) {
	options := []kong.Option{
		kong.Name("fantail"), kong.UsageOnError(), kong.ExplicitGroups(commandGroups),
		kong.Vars{"version": currentBuild().String()},
		kong.Description("Live, resumable streams for very many readers, kept in S2."),
		kong.PostBuild(nameVariables),
	}
	return kong.New(c, append(options, more...)...)
}

// commandGroups are the titles in the list of commands, and of flags.
var commandGroups = []kong.Group{
	{Key: "servers", Title: "Servers:"},
	{Key: "streams", Title: "Streams, by any HTTP address:"},
	{Key: "operations", Title: "Operations, by admin addresses:"},
	{Key: "rights", Title: "Rights:"},
	{Key: "other", Title: "Other:"},
	{Key: "auth", Title: "Rights of clients:"},
	{Key: "traces", Title: "Traces:"},
	{Key: "fleet", Title: "Fleet:"},
}

// nameVariables gives each flag its variable.
func nameVariables(k *kong.Kong) error {
	return kong.Visit(k.Model, func(n kong.Visitable, next kong.Next) error {
		if f, ok := n.(*kong.Flag); ok {
			f.Envs = nil
			if hasVariable(f) {
				f.Envs = []string{variableOfFlag(f)}
			}
			f.Tag.Envs = f.Envs
		}
		return next(nil)
	})
}

// variableOfFlag returns a flag's name as a variable: FANTAIL_S2_TOKEN for s2-token.
func variableOfFlag(f *kong.Flag) string { return variableOf(f.Name) }

func variableOf(flag string) string {
	return "FANTAIL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// eachFlag calls fn with every flag that may be a variable.
func eachFlag(m *kong.Application, fn func(*kong.Flag)) {
	_ = kong.Visit(m, func(n kong.Visitable, next kong.Next) error {
		if f, ok := n.(*kong.Flag); ok && hasVariable(f) {
			fn(f)
		}
		return next(nil)
	})
}

// hasVariable reports whether a flag may be a variable: not if it is tagged env:"-", because it
// belongs to one call of a command and not to an environment.
func hasVariable(f *kong.Flag) bool {
	return f.Name != "help" && f.Name != "version" && f.Tag.Get("env") != "-"
}

// serviceVariable matches the variables that Kubernetes sets in every pod for a Service named
// fantail or fantail-…. The port in such a variable is a URL, so FANTAIL_ADMN_PORT=4447 still
// counts as a misspelt setting.
var serviceVariable = regexp.MustCompile(`^FANTAIL(_[A-Z0-9]+)*_(` +
	`SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)=` +
	`|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://` +
	`|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=)`)

// checkVariables refuses FANTAIL_ variables without a flag: a misspelt setting must not silently
// mean the default.
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
