package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

const (
	// maxRevokeBody bounds the body of a revocation.
	maxRevokeBody = 64 << 10
	// revokeTimeout bounds how long a revocation waits for S2.
	revokeTimeout = 10 * time.Second
	// revocationRetry is the pause after a failure to read the revocations.
	revocationRetry = 500 * time.Millisecond
	// ignoredInterval is the time between two log lines about messages that are ignored: a program that may
	// write to the stream in S2 could fill the log.
	ignoredInterval = time.Minute
	// revocationPage is about how many bytes of revocations are applied in one step.
	revocationPage = 1 << 20
)

// revocationFeed applies the messages of the fleet's stream of revocations to the Judge: all that
// are there before the node is ready, and each that comes. While it is cut off the node serves on,
// and says how far behind it is.
type revocationFeed struct {
	streams edge.Backend
	list    *access.Revocations
	stream  shard.StreamID
	log     *slog.Logger

	caughtUp  atomic.Bool
	position  atomic.Uint64 // up to which the stream is read
	freshAt   atomic.Int64  // when it last knew the newest, Unix ns
	following atomic.Bool

	again          chan struct{} // has room for one: the stream is to be read from its start
	ignored        atomic.Uint64 // messages that were not made by the fleet, or one too many
	ignoredLimiter rate.Sometimes
}

func newRevocationFeed(streams edge.Backend, list *access.Revocations, project string, log *slog.Logger) *revocationFeed {
	return &revocationFeed{
		streams: streams, list: list, stream: shard.StreamID(project + "/" + shard.RevocationsStream), log: log,
		again: make(chan struct{}, 1), ignoredLimiter: rate.Sometimes{Interval: ignoredInterval},
	}
}

// readAgain has the stream read from its start: messages that were taken for forged may be good now.
func (f *revocationFeed) readAgain() {
	select {
	case f.again <- struct{}{}:
	default:
	}
}

// isCaughtUp reports whether every revocation that was there at the start is known.
func (f *revocationFeed) isCaughtUp() bool { return f.caughtUp.Load() }

// register registers how far the feed is behind.
func (f *revocationFeed) register(reg prometheus.Registerer) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fantail_revocations_behind_seconds", Help: "Time since this node was cut off from the stream of revocations; 0: it follows it.",
	}, func() float64 {
		if f.following.Load() {
			return 0
		}
		return max(time.Since(time.Unix(0, f.freshAt.Load())), 0).Seconds()
	}))
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "fantail_revocations_ignored_total", Help: "Messages in the stream of revocations that this node has ignored: they were not made with a secret of the fleet, or too many hold.",
	}, func() float64 { return float64(f.ignored.Load()) }))
}

// run follows the stream until ctx ends.
func (f *revocationFeed) run(ctx context.Context) {
	f.freshAt.Store(time.Now().UnixNano())
	for warned := false; ctx.Err() == nil; {
		err := f.follow(ctx)
		if f.following.Swap(false) {
			f.freshAt.Store(time.Now().UnixNano())
			warned = false
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errReadAgain) {
			continue
		}
		if !warned {
			f.log.Warn("revocations cannot be read; what is known of them holds", "stream", f.stream, "err", err)
			warned = true
		}
		select {
		case <-time.After(revocationRetry):
		case <-ctx.Done():
		}
	}
}

// errReadAgain ends follow because the fleet's secrets have changed.
var errReadAgain = errors.New("the secrets have changed")

// follow reads the stream from its start and then as it grows. It creates the stream if there is none.
func (f *revocationFeed) follow(ctx context.Context) error {
	info, err := f.create(ctx)
	if err != nil {
		return err
	}
	tail, release, err := f.streams.Follow(ctx, f.stream, info.Start)
	if err != nil {
		return err
	}
	defer release()
	wake := make(sse.WakeSignal, 1)
	defer tail.Unwatch(wake)
	for pos := info.Start; ; {
		batches, status := tail.ReadAt(pos, revocationPage, nil)
		if status == shard.StatusBelow {
			page, err := f.streams.ReadPage(ctx, f.stream, tail.Info(), pos)
			if err != nil {
				return err
			}
			batches = []shard.RecordBatch{page}
		}
		for _, b := range batches {
			pos = f.apply(b, pos)
		}
		switch {
		case status == shard.StatusGone:
			return fmt.Errorf("the stream was deleted: %w", tail.EndError())
		case status == shard.StatusClosed:
			return errors.New("the stream is closed: delete it, and the next revocation creates it again")
		case status != shard.StatusTip:
			continue
		}
		f.caughtUp.Store(true)
		f.following.Store(true)
		if tail.Watch(wake, pos) {
			select {
			case <-wake:
			case <-f.again:
				return errReadAgain
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// apply applies the messages of a batch at and above pos, and returns the position after it.
func (f *revocationFeed) apply(b shard.RecordBatch, pos shard.Pos) shard.Pos {
	for i := b.Search(pos); i < b.Len(); i++ {
		m := b.Message(i)
		if err := f.list.Apply(m.Body, strconv.FormatUint(uint64(m.Next), 10)); err != nil {
			ignored := f.ignored.Add(1)
			f.ignoredLimiter.Do(func() {
				f.log.Warn("revocations are ignored", "ignored", ignored, "position", uint64(m.Pos), "err", err)
			})
		}
	}
	pos = max(pos, b.To())
	f.position.Store(uint64(pos))
	return pos
}

// create creates the stream of revocations, or finds it.
func (f *revocationFeed) create(ctx context.Context) (shard.Info, error) {
	out, err := f.sendRequest(ctx, shard.Request{Op: shard.OpCreate})
	if err != nil {
		return shard.Info{}, err
	}
	return out.Info, nil
}

func (f *revocationFeed) sendRequest(ctx context.Context, q shard.Request) (shard.Outcome, error) {
	q.Stream, q.Type = f.stream, "application/json"
	q.ID, q.MintedAt, q.MintedMillis = shard.NewAppendID(), time.Now(), shard.MillisOf(time.Now())
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	out, err := f.streams.Do(ctx, &q)
	if err == nil && !out.Code.Accepted() {
		err = fmt.Errorf("refused (%d): %s", out.Code, out.Why)
	}
	return out, err
}

// canRevoke answers a request to a node that has no revocations, and returns false.
func (n *node) canRevoke(w http.ResponseWriter) bool {
	if n.revocations == nil {
		http.Error(w, "revocations need --auth with a file that names revocations: {project: …}", http.StatusNotImplemented)
	}
	return n.revocations != nil
}

// handleRevoke appends a revocation to the fleet's stream. It is revoked once S2 has acknowledged
// it; if S2 does not answer, it is not known to be revoked, and the operator asks again.
func (n *node) handleRevoke(w http.ResponseWriter, r *http.Request) {
	if !n.canRevoke(w) {
		return
	}
	if n.isAdminOpen() {
		http.Error(w, "a revocation takes back the rights of clients on every node, and cannot be undone; every client of this network reaches this address: make a token (fantail token admin NAME), list it under admin in the file of rights, and send it as Authorization: Bearer TOKEN", http.StatusForbidden)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRevokeBody))
	var q access.RevokeRequest
	if err == nil {
		q, err = access.ParseRevokeRequest(body)
	}
	var entry []byte
	if err == nil {
		entry, err = n.judge.Revocations().Entry(q)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out, err := n.revocations.sendRequest(r.Context(), shard.Request{Op: shard.OpAppend, Messages: shard.NewMessages(entry)})
	if err != nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "not revoked, or not known to be: send it again: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	n.cfg.log.Warn("revoked", "request", string(body), "position", uint64(out.Info.Tail))
	writeJSON(w, map[string]any{"position": uint64(out.Info.Tail)})
}

// handleRevocations lists what is revoked, and how far this node has read.
func (n *node) handleRevocations(w http.ResponseWriter, _ *http.Request) {
	if !n.canRevoke(w) {
		return
	}
	l := n.judge.Revocations()
	members := map[string]uint64{n.cfg.name: n.revocations.position.Load()}
	if n.relay != nil {
		for name, r := range n.relay.PeerRights() {
			members[name] = r.Revocations
		}
	}
	writeJSON(w, map[string]any{"members": members, "caught_up": n.revocations.isCaughtUp(), "ignored": l.Rejected(), "revocations": l.List()})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v)
}
