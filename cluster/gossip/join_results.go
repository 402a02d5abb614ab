package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
)

// This file records what became of the addresses to join. An address that refuses connections, and
// a name that is not found, may belong to a node that is not running. An address that accepts
// connections and does not speak this node's gossip belongs to a node with another secret or fleet,
// or to something else. While there is such an address, and no member that owns streams was found,
// this node must not take itself for the first of its fleet.

// joinAttempt holds the last attempt to reach an address to join.
type joinAttempt struct {
	err        error
	foreign    bool      // it accepts connections, and does not speak this node's gossip
	lookupOnly bool      // only its lookup failed
	loggedText string    // the last log line about it
	loggedAt   time.Time // when that was logged
}

// Pauses of the log, for each address.
const (
	joinWarnEvery = time.Minute
	joinWarnGrace = 3 * time.Second // in a starting fleet addresses may be unreachable for so long
)

// joinProbeTimeout bounds the check whether an address accepts connections.
const joinProbeTimeout = time.Second

var errNotThisFleet = errors.New("it answers, but its --secret or --cluster differs, or it is no node")

// noteAttempt records the result for an address; nil: it was joined.
func (m *Membership) noteAttempt(ctx context.Context, addr string, err error, foreign bool) {
	m.mu.Lock()
	company := len(m.others) > 0
	attempt := m.joinAttempts[addr]
	if err == nil || ctx.Err() != nil {
		delete(m.joinAttempts, addr)
		m.mu.Unlock()
		return
	}
	if attempt == nil {
		attempt = &joinAttempt{}
		m.joinAttempts[addr] = attempt
	}
	if attempt.err, attempt.foreign = err, foreign; foreign {
		attempt.err = fmt.Errorf("%w (%w)", errNotThisFleet, err)
	}
	now := time.Now()
	loud := foreign || !company && now.Sub(m.joinBegan) >= joinWarnGrace
	say := loud && (attempt.loggedText != attempt.err.Error() || now.Sub(attempt.loggedAt) >= joinWarnEvery)
	if say {
		attempt.loggedText, attempt.loggedAt = attempt.err.Error(), now
	}
	text := attempt.err.Error()
	m.mu.Unlock()
	if say {
		m.log.Warn("cannot join", "addr", addr, "err", text)
	} else {
		m.log.Debug("cannot join", "addr", addr, "err", text)
	}
}

// forgetAttempts forgets the addresses that the last round did not try.
func (m *Membership) forgetAttempts(of map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.joinAttempts, func(addr string, _ *joinAttempt) bool { return !of[addr] })
}

// metForeignLocked reports whether an address accepts connections and does not speak this node's
// gossip.
func (m *Membership) metForeignLocked() bool {
	for _, a := range m.joinAttempts {
		if a.foreign {
			return true
		}
	}
	return false
}

// JoinErrors returns the addresses that this node cannot join, with the last error of each.
func (m *Membership) JoinErrors() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, addr := range slices.Sorted(maps.Keys(m.joinAttempts)) {
		all = append(all, addr+": "+m.joinAttempts[addr].err.Error())
	}
	return strings.Join(all, "; ")
}

// acceptsConns reports whether an address accepts connections.
func (m *Membership) acceptsConns(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, joinProbeTimeout)
	defer cancel()
	conn, err := m.cfg.Network.Dial(ctx, addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// joinAt exchanges members with the node at an address.
func (m *Membership) joinAt(ctx context.Context, addr string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := m.gossip.Join([]string{addr})
	why := trimJoinError(err)
	m.noteAttempt(ctx, addr, why, why != nil && m.isForeign(ctx, addr, why))
	return err
}

// isForeign reports whether the address accepted the connection that failed with an error. If the
// error does not tell, it connects: the other side logs a line about each connection that is not
// gossip.
func (m *Membership) isForeign(ctx context.Context, addr string, why error) bool {
	text := why.Error()
	if strings.HasPrefix(text, "dial ") {
		return false
	}
	for _, said := range []string{"no installed keys", "remote error", "unacceptable label", "EOF"} {
		if strings.Contains(text, said) {
			return true
		}
	}
	return m.acceptsConns(ctx, addr)
}

// trimJoinError returns memberlist's error about one address, without what other log lines say.
func trimJoinError(err error) error {
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(err.Error())
	if _, rest, ok := strings.Cut(text, "failed to join "); ok {
		if _, why, ok := strings.Cut(rest, ": "); ok {
			text = why
		}
	}
	text, _, _ = strings.Cut(text, "\n")
	return errors.New(strings.TrimSpace(text))
}

// lookupAddrs resolves host or host:port, and records a name that is not found.
func (m *Membership) lookupAddrs(ctx context.Context, name string) ([]string, error) {
	addrs, err := m.resolveAddrs(ctx, name)
	if err == nil {
		m.mu.Lock()
		if a := m.joinAttempts[name]; a != nil && a.lookupOnly {
			delete(m.joinAttempts, name)
		}
		m.mu.Unlock()
		return addrs, nil
	}
	var unknown *net.DNSError
	if errors.As(err, &unknown) {
		err = fmt.Errorf("the name is not known: %w", err)
	}
	m.noteAttempt(ctx, name, err, false)
	m.mu.Lock()
	if a := m.joinAttempts[name]; a != nil {
		a.lookupOnly = true
	}
	m.mu.Unlock()
	return nil, err
}
