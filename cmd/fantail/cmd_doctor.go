package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/cluster/gossip"
	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
	"github.com/fantail-dev/fantail/shard/s2"
)

// doctorCmd checks what a node needs, with the settings of a node.
type doctorCmd struct {
	Via      string        `help:"Public URL of the fleet, as clients use it: a stream is made there, to see what the proxy in front does." env:"-"`
	ViaToken string        `name:"via-token-file" help:"File with the bearer token for --via." env:"-"`
	Silence  time.Duration `help:"With --via: for how long a stream without messages has to stay open. Servers send a comment every 20 to 25 s." default:"65s" env:"-"`
	CA       string        `name:"ca" help:"File with certificates (PEM) to trust beside the system's, for --via."`
	JSON     bool          `name:"json" help:"Print JSON." env:"-"`
	serveCmd
}

// doctor collects checks.
type doctor struct {
	cmd    *doctorCmd
	io     stdio
	cfg    nodeConfig
	checks []s2.Check
}

// Run makes all checks, and prints a line for each. It is an error if one is bad.
func (c *doctorCmd) Run(ctx context.Context, s stdio) error {
	d := &doctor{cmd: c, io: s}
	var err error
	d.cfg, err = c.nodeConfig(slog.New(slog.DiscardHandler))
	d.checkSettings(err)
	d.checkOpenFiles()
	d.checkCertificate()
	running := d.checkAddresses(ctx)
	d.checkStorage(ctx)
	d.checkClock(ctx)
	d.checkPeers(ctx)
	if running {
		d.checkFleet(ctx)
	}
	if c.Via != "" {
		d.checkProxy(ctx)
	}
	return d.print()
}

func (d *doctor) add(name string, v s2.Verdict, format string, args ...any) {
	d.checks = append(d.checks, s2.Check{Name: name, Verdict: v, Text: fmt.Sprintf(format, args...)})
}

// addResult adds a check that is good or bad.
func (d *doctor) addResult(name string, err error, good string, args ...any) {
	if err != nil {
		d.add(name, s2.Bad, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	d.add(name, s2.Good, good, args...)
}

func (d *doctor) checkSettings(err error) {
	if err == nil {
		d.add("settings", s2.Good, "no errors")
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		d.add("settings", s2.Bad, "%s", line)
	}
}

func (d *doctor) checkOpenFiles() {
	limit := raiseFilesLimit()
	readers := limit - filesReserve(limit)
	switch {
	case limit <= 0:
		d.add("open files", s2.Skipped, "the limit is not known")
	case readers < d.cmd.MaxReaders:
		d.add("open files", s2.Warning, "the limit of %d allows %d readers of --max-readers=%d: raise it (ulimit -n, LimitNOFILE=, the container's ulimits)", limit, readers, d.cmd.MaxReaders)
	default:
		d.add("open files", s2.Good, "the limit is %d", limit)
	}
}

// soon is the time before a certificate's end at which it should have been renewed.
const soon = 14 * 24 * time.Hour

func (d *doctor) checkCertificate() {
	if d.cfg.certificate == nil {
		d.add("TLS", s2.Skipped, "no --tls-cert: something in front has to end TLS")
		return
	}
	if _, err := d.cfg.certificate.tlsConfig(); err != nil {
		d.add("TLS", s2.Bad, "%v", err)
		return
	}
	ends := time.Unix(int64(d.cfg.certificate.notAfter()), 0)
	switch left := time.Until(ends); {
	case left <= 0:
		d.add("TLS", s2.Bad, "the certificate has expired at %s", ends.UTC().Format(time.RFC3339))
	case left < soon:
		d.add("TLS", s2.Warning, "the certificate expires at %s", ends.UTC().Format(time.RFC3339))
	default:
		d.add("TLS", s2.Good, "the certificate is good until %s", ends.UTC().Format(time.RFC3339))
	}
}

// checkAddresses checks that the addresses to listen on are free, or are those of a node that runs.
func (d *doctor) checkAddresses(ctx context.Context) (running bool) {
	at, err := localAddress(d.cmd.Admin)
	running = err == nil && askHealth(ctx, "http://"+at+"/livez") == nil
	list := map[string]string{"--http": d.cmd.HTTP, "--admin": d.cmd.Admin}
	if d.cfg.fleet != nil {
		list["--gossip"] = d.cmd.Gossip
		if d.cmd.Relay != "" {
			list["--relay"] = d.cmd.Relay
		}
	}
	for _, flag := range slices.Sorted(keysOf(list)) {
		name := "address " + flag
		switch err := tryListen(ctx, list[flag], flag == "--gossip"); {
		case err == nil:
			d.add(name, s2.Good, "%s is free", list[flag])
		case running:
			d.add(name, s2.Good, "%s is in use, and a node runs here", list[flag])
		default:
			d.add(name, s2.Bad, "%v", err)
		}
	}
	return running
}

func keysOf(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// tryListen listens on an address for a moment, over UDP as well if told so.
func tryListen(ctx context.Context, addr string, udp bool) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	if udp {
		p, err := lc.ListenPacket(ctx, "udp", addr)
		if err != nil {
			return err
		}
		_ = p.Close()
	}
	return nil
}

func (d *doctor) checkStorage(ctx context.Context) {
	checks, err := s2.Diagnose(ctx, d.cfg.s2)
	switch {
	case errors.Is(err, s2.ErrNotFixed):
		d.add("S2", s2.Skipped, "%v: --s2-home-basin names one", err)
	case err != nil:
		d.add("S2", s2.Bad, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	d.checks = append(d.checks, checks...)
}

// maxSkew bounds how far clocks may be apart without a cost.
const maxSkew = time.Second

func (d *doctor) checkClock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ahead, err := s2.ServerClock(ctx, d.cfg.s2)
	switch {
	case err != nil:
		d.add("clock", s2.Skipped, "S2 does not tell the time: %v", err)
	case ahead.Abs() > maxSkew+time.Second: // Date is right to a second
		d.add("clock", s2.Warning, "S2's clock is %v ahead of this machine's: streams that end by time end early or late", ahead.Round(time.Second))
	default:
		d.add("clock", s2.Good, "it agrees with S2's within %v", (ahead.Abs() + time.Second/2).Round(100*time.Millisecond))
	}
}

// checkPeers checks every address that --join stands for: TCP and UDP of gossip.
func (d *doctor) checkPeers(ctx context.Context) {
	if d.cfg.fleet == nil {
		return
	}
	if len(d.cmd.Join) == 0 || len(d.cfg.fleet.Secrets) == 0 {
		d.add("peers", s2.Skipped, "--join names no other node, or there is no --secret")
		return
	}
	for _, name := range d.cmd.Join {
		host, port, err := net.SplitHostPort(name)
		if err != nil {
			host, port = name, "4457"
		}
		at := resolveAll(ctx, []string{net.JoinHostPort(host, port)})
		if len(at) == 0 {
			d.add("peer "+name, s2.Bad, "the name has no address")
		}
		for _, addr := range at {
			conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", addr)
			d.addResult("peer "+addr+": gossip over TCP", err, "it accepts connections")
			if err != nil {
				continue
			}
			_ = conn.Close()
			took, err := gossip.Ping(ctx, d.cfg.fleet.FleetName, d.cfg.fleet.Secrets[0], addr)
			if err != nil {
				err = fmt.Errorf("no answer (%w): is UDP let through, and are --cluster and --secret those of the fleet?", err)
			}
			d.addResult("peer "+addr+": gossip over UDP", err, "it answers, and has the secret and the name of the fleet; %v", took.Round(100*time.Microsecond))
		}
	}
}

// checkFleet asks the node that runs here about the others.
func (d *doctor) checkFleet(ctx context.Context) {
	admin, err := (&adminFlags{Admin: d.cmd.Admin, AdminTokenFile: d.cmd.AdminTokenFile, Timeout: 5 * time.Second}).open(d.io)
	var f fleetAnswer
	if err == nil {
		err = admin.callJSON(ctx, "GET", "/admin/fleet", &f)
	}
	if err != nil {
		d.add("fleet", s2.Skipped, "%v", err)
		return
	}
	for _, m := range f.Members {
		name := "node " + m.Name
		skew := time.Duration(m.ClockAheadMS) * time.Millisecond
		switch {
		case m.Link == "down":
			d.add(name, s2.Bad, "there is no link between nodes to it: does the relay's port (4467) let it through?")
		case !m.Answered || m.Node == nil:
			d.add(name, s2.Warning, "it gives no answer")
		case m.StoreDown:
			d.add(name, s2.Bad, "S2 does not answer it")
		case skew.Abs() > maxSkew:
			d.add(name, s2.Warning, "its clock is %v off: changes of owners read S2 again", skew)
		case !m.Node.Ready:
			d.add(name, s2.Warning, "not ready: %s", strings.ReplaceAll(m.Node.NotReadyReason, "\n", "; "))
		default:
			d.add(name, s2.Good, "%s, link %s, clock within %v", m.Node.Version, m.Link, skew.Abs())
		}
	}
}

// proxyStart is the time for the first event to come through what stands in front.
const proxyStart = 3 * time.Second

// checkProxy checks what stands in front: that it takes large bodies, passes events immediately, and closes
// no stream that is silent for a heartbeat.
func (d *doctor) checkProxy(ctx context.Context) {
	r, err := (&remoteFlags{URL: d.cmd.Via, TokenFile: d.cmd.ViaToken, CA: d.cmd.CA, Patience: 3 * time.Second}).open(d.io, true)
	if err != nil {
		d.add("in front", s2.Bad, "--via: %v", err)
		return
	}
	defer r.close()
	s, err := r.stream(fmt.Sprintf("__doctor/%d", time.Now().UnixNano()))
	if err == nil {
		_, _, err = s.Create(ctx, dsclient.CreateOptions{ContentType: "application/octet-stream", TTL: time.Hour})
	}
	d.addResult("in front: create a stream", err, "%s", d.cmd.Via)
	if err != nil {
		return
	}
	defer func() { _ = s.Delete(context.WithoutCancel(ctx)) }()
	_, err = s.NewProducer("application/octet-stream", "", 0).Append(ctx, make([]byte, dsclient.MaxBody), false)
	if err != nil {
		err = fmt.Errorf("%w: allow bodies of 16 MiB, and time for them", err)
	}
	d.addResult("in front: a body of 16 MiB", err, "it passes")
	d.checkEvents(ctx, s)
	d.checkRetries(ctx, r, s)
}

// checkEvents checks that events pass immediately, and that silence ends no stream.
func (d *doctor) checkEvents(ctx context.Context, s *dsclient.Stream) {
	live, err := s.Info(ctx)
	if err != nil {
		d.add("in front: events", s2.Bad, "%v", err)
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.cmd.Silence, errOver)
	defer cancel()
	began, connections := time.Now(), 0
	var first time.Duration
	early := time.AfterFunc(proxyStart, cancel)
	bar := newProgress(d.io.err, "events", int64(d.cmd.Silence/time.Second), countUnit)
	defer bar.finish()
	err = s.Follow(ctx, live.NextOffset, dsclient.SSE, func() { connections++ }, func(*dsclient.Chunk) error {
		early.Stop()
		if first == 0 {
			first = time.Since(began)
		}
		return nil
	})
	switch {
	case first == 0:
		d.add("in front: events", s2.Bad, "nothing comes within %v: answers are buffered (nginx: proxy_buffering off)", proxyStart)
	case connections > 1:
		d.add("in front: events", s2.Bad, "a silent stream is closed: set the idle timeout above 30 s")
	case errors.Is(err, errOver):
		d.add("in front: events", s2.Good, "the first after %v, and a silent stream stays open for %v", first.Round(time.Millisecond), d.cmd.Silence)
	default:
		d.add("in front: events", s2.Bad, "%v", err)
	}
}

// checkRetries checks that what stands in front does not send a refused append again.
func (d *doctor) checkRetries(ctx context.Context, r *remote, s *dsclient.Stream) {
	u, err := url.Parse(s.URL())
	if err != nil {
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(""))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if r.Token != nil {
		if token, err := r.Token(); err == nil {
			req.Header.Set("Authorization", "Bearer "+token)
		}
	}
	resp, err := r.HTTP.Do(req)
	if err != nil {
		d.add("in front: refusals", s2.Bad, "an empty append has no answer: %v", err)
		return
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		d.add("in front: refusals", s2.Bad, "an empty append is answered by %s, and not by the server's 400", resp.Status)
		return
	}
	d.add("in front: refusals", s2.Good, "the server's own answers pass. Whether an append is sent again after a 503 cannot be asked from here: it must not be")
}

// print prints the checks, and returns an error if one is bad.
func (d *doctor) print() error {
	bad := 0
	for _, c := range d.checks {
		if c.Verdict == s2.Bad {
			bad++
		}
	}
	if d.cmd.JSON {
		type line struct {
			Name    string     `json:"name"`
			Verdict s2.Verdict `json:"verdict"`
			Text    string     `json:"text"`
		}
		lines := []line{}
		for _, c := range d.checks {
			lines = append(lines, line(c))
		}
		if err := printJSON(d.io.out, lines); err != nil {
			return err
		}
	} else {
		for _, c := range d.checks {
			if _, err := fmt.Fprintf(d.io.out, "%-7s  %s: %s\n", c.Verdict, c.Name, c.Text); err != nil {
				return err
			}
		}
	}
	if bad > 0 {
		return &exitError{exitWarnings, fmt.Errorf("%d of %d checks are bad", bad, len(d.checks))}
	}
	return nil
}
