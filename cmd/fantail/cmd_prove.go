package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// proveCmd proves that a rollout loses nothing.
type proveCmd struct {
	Command []string `arg:"" optional:"" help:"Command of the rollout, after --: the proof ends when it has ended."`

	Nodes          []string      `help:"URLs of the nodes' public addresses, to have a reader and a writer of each stream at each node. A name over http stands for all of its addresses, looked up again and again (default: --url, by whatever balances there)." env:"-"`
	Admins         []string      `help:"Admin addresses of the nodes, for versions and S2's sessions. A name stands for all of its addresses." env:"-"`
	AdminTokenFile string        `name:"admin-token-file" help:"File with the bearer token that the admin addresses need (default: no token is needed)."`
	For            time.Duration `help:"Without a command: how long to prove (default: until an interrupt)." env:"-"`
	Name           string        `help:"What the names of the canary streams begin with, with their project." default:"default/__canary" env:"-"`
	Streams        int           `help:"Canary streams." default:"8" env:"-"`
	PerStream      int           `name:"per-stream" help:"Readers, and writers, of each stream: at least one for each of --nodes." default:"3" env:"-"`
	Rate           float64       `help:"Messages per second of each stream." default:"10" env:"-"`
	Live           dsclient.Live `help:"How readers follow." enum:"sse,long-poll" default:"sse" env:"-"`
	MaxStall       time.Duration `name:"max-stall" help:"It fails if a message takes longer to a reader (default: any time is good)." env:"-"`
	Settle         time.Duration `help:"How long readers may need at the end to receive what was written." default:"30s" env:"-"`
	Out            string        `help:"File for the signed report (JSON)." env:"-"`
	HTML           string        `name:"html" help:"File for the report as a page." env:"-"`
	Key            string        `help:"File with an Ed25519 private key (PEM) to sign with (default: a new key, which the report names)." env:"-"`
	Verify         string        `help:"Prove nothing: check the signature of a report's file, and print it." env:"-"`
	PublicKey      string        `name:"public-key" help:"With --verify: file with the key that has to have signed it." env:"-"`
	JSON           bool          `name:"json" help:"Print the signed report." env:"-"`
	remoteFlags
}

// Run proves, or verifies a report.
func (c *proveCmd) Run(ctx context.Context, s stdio) error {
	if c.Verify != "" {
		return c.verify(s)
	}
	return c.prove(ctx, s, c.rollout(s))
}

func (c *proveCmd) verify(s stdio) error {
	file, err := s.readInput(c.Verify)
	if err != nil {
		return err
	}
	var public ed25519.PublicKey
	if c.PublicKey != "" {
		b, err := s.readInput(c.PublicKey)
		if err == nil {
			public, err = parsePublicKey(b)
		}
		if err != nil {
			return usageError(fmt.Errorf("--public-key: %w", err))
		}
	}
	p, err := verifyProof(file, public)
	if err != nil {
		return &exitError{exitWarnings, fmt.Errorf("%s: %w", c.Verify, err)}
	}
	if err := p.writeText(s.out); err != nil || p.Passed {
		return err
	}
	return &exitError{exitWarnings, errors.New("the proof failed")}
}

// rollout returns what happens during the proof: the command, or some time. It returns when it has ended.
func (c *proveCmd) rollout(s stdio) func(context.Context) error {
	switch {
	case len(c.Command) > 0:
		return func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			cmd.WaitDelay = 10 * time.Second
			cmd.Stdout, cmd.Stderr = s.err, s.err // standard output is the report's
			return cmd.Run()
		}
	case c.For > 0:
		return func(ctx context.Context) error {
			_ = waitFor(ctx, c.For)
			return nil
		}
	}
	return func(ctx context.Context) error {
		<-ctx.Done() // an interrupt is the end that is wanted
		return nil
	}
}

func (c *proveCmd) check() error {
	switch {
	case c.Streams < 1 || c.Streams > 1000 || c.PerStream < 1 || c.PerStream > 1000:
		return errors.New("want 1 to 1000 --streams and --per-stream")
	case c.Rate <= 0 || c.Rate > 10_000:
		return errors.New("--rate: want more than 0, and 10000 at most")
	case !strings.Contains(c.Name, "/"):
		return errors.New("--name: want PROJECT/NAME")
	case c.For > 0 && len(c.Command) > 0:
		return errors.New("--for and a command exclude each other")
	}
	return nil
}

// prove runs the canary during the rollout, and reports.
func (c *proveCmd) prove(ctx context.Context, s stdio, rollout func(context.Context) error) error {
	if err := c.check(); err != nil {
		return usageError(err)
	}
	key, err := c.signingKey(s)
	if err != nil {
		return err
	}
	r, err := c.open(s, true)
	if err != nil {
		return err
	}
	defer r.close()
	can, stopNodes, err := c.newCanary(ctx, r)
	if err != nil {
		return err
	}
	defer stopNodes()
	watch, err := c.newWatch(s)
	if err != nil {
		return err
	}
	report := &proof{
		Began: can.began, By: currentBuild().String(), Server: cmp.Or(strings.Join(c.Nodes, " "), r.Base.String()), Command: c.Command,
		Streams: c.Streams, Writers: c.Streams * can.perNode, Readers: c.Streams * can.perNode,
	}
	if err := c.measure(ctx, s, can, watch, report, rollout); err != nil {
		return err
	}
	return c.report(s, report, key)
}

// newCanary returns the load, and a function that stops following the nodes' names.
func (c *proveCmd) newCanary(ctx context.Context, r *remote) (*canary, func(), error) {
	nodes, stop := &nodeSet{}, func() {}
	if len(c.Nodes) == 0 {
		nodes.set([]*url.URL{r.Base})
	} else {
		all, err := resolveNodes(ctx, c.Nodes)
		if err != nil {
			return nil, stop, usageError(err)
		}
		if len(all) == 0 {
			return nil, stop, usageError(errors.New("--nodes: no address is found"))
		}
		nodes.set(all)
		following, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { followNodes(following, nodes, c.Nodes) })
		stop = func() {
			cancel()
			wg.Wait()
		}
	}
	base := r.HTTP.Transport
	if t, ok := base.(*http.Transport); ok {
		t.MaxIdleConnsPerHost = 2 * c.Streams * c.PerStream
	}
	return &canary{
		flags: c, remote: r, nodes: nodes, base: base, name: c.Name + "/" + strings.ToLower(rand.Text()[:8]), began: time.Now(),
		streams: c.Streams, perNode: max(c.PerStream, nodes.count()),
	}, stop, nil
}

func (c *proveCmd) newWatch(s stdio) (*fleetWatch, error) {
	if len(c.Admins) == 0 {
		return nil, nil //nolint:nilnil // nothing is watched
	}
	admin, err := (&adminFlags{Admin: c.Admins[0], AdminTokenFile: c.AdminTokenFile, Timeout: 3 * time.Second}).open(s)
	if err != nil {
		return nil, err
	}
	return &fleetWatch{admin: admin, names: c.Admins}, nil
}

func (c *proveCmd) signingKey(s stdio) (ed25519.PrivateKey, error) {
	if c.Key == "" {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	b, err := s.readInput(c.Key)
	if err == nil {
		var key ed25519.PrivateKey
		if key, err = parsePrivateKey(b); err == nil {
			return key, nil
		}
	}
	return nil, usageError(fmt.Errorf("--key: %w", err))
}

// measure fills the report. An error means that nothing could be proved.
func (c *proveCmd) measure(ctx context.Context, s stdio, can *canary, watch *fleetWatch, report *proof, rollout func(context.Context) error) error {
	steady := context.WithoutCancel(ctx) // an interrupt ends the rollout, and what was written is still checked
	if err := can.create(ctx); err != nil {
		return err
	}
	defer func() { _ = can.remove(steady) }()
	var background sync.WaitGroup
	watching, stopWatching := context.WithCancel(steady)
	defer func() {
		stopWatching()
		background.Wait()
	}()
	if watch != nil {
		report.Before = versionList(watch.askNodes(ctx, can.began))
		background.Go(func() { watch.watch(watching, can.began) })
	}
	background.Go(func() { can.showProgress(watching, s) })
	writing, stopWriting := context.WithCancel(steady)
	ended := make(chan error, 1)
	go func() {
		defer stopWriting()
		_ = waitFor(ctx, canaryLead) // messages are on their way before anything changes
		ended <- rollout(ctx)
		_ = waitFor(steady, canaryLead)
	}()
	err := can.run(steady, writing)
	stopWriting()
	if rolled := <-ended; rolled != nil {
		report.Exit = rolled.Error()
		report.Failures = append(report.Failures, "the command failed: "+rolled.Error())
	}
	if err != nil {
		report.Failures = append(report.Failures, err.Error())
	}
	if err := can.readAgain(steady); err != nil {
		report.Failures = append(report.Failures, err.Error())
	}
	stopWatching()
	background.Wait()
	if watch != nil {
		report.After = versionList(watch.askNodes(steady, can.began))
		report.Sessions, report.Nodes = new(int(watch.sum.total())), watch.seen
	}
	can.fill(report)
	return nil
}

// canaryLead is the time of writing before and after the rollout.
const canaryLead = time.Second

// fill puts what the canary saw into a report.
func (c *canary) fill(r *proof) {
	r.Ended = time.Now()
	r.proofTally = c.tally()
	r.Messages, r.Received, r.Closed, r.Retries = c.written.Load(), c.received.Load(), c.ended.Load(), c.retries.Load()
	r.LongestStall, r.StallAt, r.LongestAppend = c.worst.delivery.Seconds(), c.worst.deliveryAt, c.worst.append.Seconds()
	if !r.good() {
		r.Failures = append(r.Failures, fmt.Sprintf("%d messages lost, %d doubled, %d reordered, %d that no writer sent", r.Lost, r.Doubled, r.Reordered, r.Unknown))
	}
	if most := c.flags.MaxStall; most > 0 && c.worst.delivery > most {
		r.Failures = append(r.Failures, fmt.Sprintf("a message took %.3f s to a reader, over --max-stall=%v", r.LongestStall, most))
	}
	if r.Messages == 0 {
		r.Failures = append(r.Failures, "nothing was written")
	}
	r.Passed = len(r.Failures) == 0
}

// showProgress shows on a terminal how it goes, until ctx ends.
func (c *canary) showProgress(ctx context.Context, s stdio) {
	if !isTerminal(s.err) {
		return
	}
	for waitFor(ctx, progressEvery) == nil {
		fmt.Fprintf(s.err, "\r\x1b[K%v  %d messages, %d deliveries, %d connections closed", time.Since(c.began).Round(time.Second), c.written.Load(), c.received.Load(), c.ended.Load())
	}
	fmt.Fprint(s.err, "\r\x1b[K")
}

// report writes the report, and returns an error if the proof failed.
func (c *proveCmd) report(s stdio, p *proof, key ed25519.PrivateKey) error {
	signed, err := p.sign(key)
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := os.WriteFile(filepath.Clean(c.Out), signed, 0o644); err != nil { //nolint:gosec // it is to be shown
			return err
		}
	}
	if c.HTML != "" {
		var b bytes.Buffer
		if err := p.writeHTML(&b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Clean(c.HTML), b.Bytes(), 0o644); err != nil { //nolint:gosec // it is to be shown
			return err
		}
	}
	if c.JSON {
		_, err = s.out.Write(signed)
	} else {
		err = p.writeText(s.out)
	}
	if err != nil || p.Passed {
		return err
	}
	return &exitError{exitWarnings, errors.New("the proof failed: " + strings.Join(p.Failures, "; "))}
}
