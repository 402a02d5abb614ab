package gossip

import (
	"context"
	mrand "math/rand/v2"
	"net"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
)

// Timing and bounds of joining.
const (
	joinRetry    = 500 * time.Millisecond // while no member was found, on average
	joinInterval = 10 * time.Second       // plus up to half of it
	maxJoinDials = 8
)

// joinRoundTimeout bounds the time after which the addresses of a round that have not answered
// count as not reached: they must not keep a fleet from beginning.
const joinRoundTimeout = time.Second

// joinLoop looks for members as long as the node lives: gossip forgets the dead, so a partition of
// more than half a minute would never heal without it.
func (m *Membership) joinLoop(ctx context.Context) {
	if len(m.cfg.Join) == 0 {
		m.warnIfNeverJoined(ctx)
		return
	}
	for {
		late := time.AfterFunc(joinRoundTimeout, func() { m.endJoinRound(false, "") })
		reachedAll, dialled := m.runJoinRound(ctx)
		late.Stop()
		aloneReason := ""
		switch {
		case reachedAll && !dialled:
			aloneReason = "all addresses to join are this node's own"
		case time.Since(m.joinBegan) >= m.cfg.AloneAfter:
			aloneReason = "found no node to join"
		}
		wait := joinInterval + mrand.N(joinInterval/2)
		if !m.endJoinRound(reachedAll, aloneReason) {
			wait = joinRetry/2 + mrand.N(joinRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// warnIfNeverJoined warns if no other node joins a node that has no addresses to join: one may be
// missing in its configuration.
func (m *Membership) warnIfNeverJoined(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(m.cfg.AloneAfter):
	}
	m.mu.Lock()
	company := len(m.others) > 0
	m.mu.Unlock()
	if !company {
		m.warnAlone("no addresses to join, and no node has joined")
	}
}

// runJoinRound looks up the addresses to join and dials those that are not members. reachedAll: every
// name was found, and every address that was dialled answered. dialled: there was at least one such
// address.
func (m *Membership) runJoinRound(ctx context.Context) (reachedAll, dialled bool) {
	known := map[string]bool{m.gossipAddr: true}
	m.mu.Lock()
	for _, a := range m.gossipAddrs {
		known[a] = true
	}
	m.mu.Unlock()
	reachedAll = true
	var dials errgroup.Group
	dials.SetLimit(maxJoinDials)
	attempted := map[string]bool{}
	for _, name := range m.cfg.Join {
		attempted[name] = true
		addrs, err := m.lookupAddrs(ctx, name)
		if err != nil {
			reachedAll = false
			continue
		}
		for _, a := range addrs {
			if known[a] {
				continue
			}
			known[a], attempted[a], dialled = true, true, true
			dials.Go(func() error { return m.joinAt(ctx, a) })
		}
	}
	err := dials.Wait()
	m.forgetAttempts(attempted)
	return err == nil && reachedAll, dialled
}

// resolveAddrs looks up host or host:port and returns the addresses.
func (m *Membership) resolveAddrs(ctx context.Context, name string) ([]string, error) {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		host, port = name, strconv.Itoa(DefaultPort)
	}
	ctx, cancel := context.WithTimeout(ctx, gossipTimeout)
	defer cancel()
	ips, err := m.cfg.Network.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		ips[i] = net.JoinHostPort(ip, port)
	}
	return slices.Compact(slices.Sorted(slices.Values(ips))), nil
}

// endJoinRound ends a round of joining, or is called when a round takes longer than
// joinRoundTimeout. A node that owns nothing and knows only nodes that own nothing may become the
// first owner, but only once the round is over: an owner may be among the peers still being
// dialled.
//
// reachedAll says that every address was reached. Otherwise an owner may be among the members that
// were not reached, so this node announces a date, by which it may hear of them. aloneReason, if
// not empty, allows a node without company to begin. While an address answers that does not speak
// this node's gossip (join_results.go) the node does not begin.
func (m *Membership) endJoinRound(reachedAll bool, aloneReason string) (company bool) {
	m.mu.Lock()
	now := m.cfg.Now()
	company = len(m.others) > 0
	ripe := (company || aloneReason != "") && !m.metForeignLocked()
	first := ripe && m.noteJoinRoundLocked(reachedAll, aloneReason)
	begins := ripe && m.self.OwnsFrom == placement.Never && !m.othersOwnLocked(now) && m.mayOwnLocked(now)
	switch {
	case !begins:
	case reachedAll || !company:
		m.setStartLocked(0)
	default:
		m.setStartLocked(m.nextChangeAt(now))
	}
	m.mu.Unlock()
	if first {
		m.observer.OnJoinRound()
	}
	if begins {
		notify.Send(m.viewStale)
	}
	if begins && !company {
		if tried := m.JoinErrors(); tried != "" {
			aloneReason += ": " + tried
		}
		m.warnAlone(aloneReason)
	}
	return company
}

func (m *Membership) warnAlone(why string) { m.log.Warn("this node is alone", "why", why) }
