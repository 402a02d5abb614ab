package cluster

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

// What became of the addresses to join. An address where nobody is, and one whose name is not
// known, may be that of a node that does not run. One that takes connections and does not speak
// this node's gossip is of a node of another secret or fleet, or of something else: while there
// is one, and nobody who owns streams was found, a node must not take itself for the first.

// joinAttempt is the last try to reach an address to join.
type joinAttempt struct {
	err        error
	foreign    bool      // it takes connections, and does not speak this node's gossip
	lookupOnly bool      // it was looked up only
	loggedText string    // of it, in the log
	loggedAt   time.Time // when
}

// Pauses between two lines of the log about one address that say the same.
const (
	joinWarnEvery = time.Minute
	joinWarnGrace = 3 * time.Second // how long addresses may be unreachable in a fleet that starts
)

// joinProbeTimeout bounds the look whether somebody takes connections at an address.
const joinProbeTimeout = time.Second

var errNotThisFleet = errors.New("it answers, but its --secret or --cluster differs, or it is no node")

// noteAttempt notes what became of an address; nil: it was joined.
func (m *membership) noteAttempt(ctx context.Context, addr string, err error, alien bool) {
	m.mu.Lock()
	company := len(m.others) > 0
	a := m.joinAttempts[addr]
	if err == nil || ctx.Err() != nil {
		delete(m.joinAttempts, addr)
		m.mu.Unlock()
		return
	}
	if a == nil {
		a = &joinAttempt{}
		m.joinAttempts[addr] = a
	}
	if a.err, a.foreign = err, alien; alien {
		a.err = fmt.Errorf("%w (%w)", errNotThisFleet, err)
	}
	now := time.Now()
	loud := alien || !company && now.Sub(m.joinBegan) >= joinWarnGrace
	say := loud && (a.loggedText != a.err.Error() || now.Sub(a.loggedAt) >= joinWarnEvery)
	if say {
		a.loggedText, a.loggedAt = a.err.Error(), now
	}
	text := a.err.Error()
	m.mu.Unlock()
	if say {
		m.log.Warn("cannot join", "addr", addr, "err", text)
	} else {
		m.log.Debug("cannot join", "addr", addr, "err", text)
	}
}

// forgetAttempts forgets the addresses that a round did not try.
func (m *membership) forgetAttempts(of map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.joinAttempts, func(addr string, _ *joinAttempt) bool { return !of[addr] })
}

// metForeignLocked reports whether an address takes connections and does not speak this node's
// gossip.
func (m *membership) metForeignLocked() bool {
	for _, a := range m.joinAttempts {
		if a.foreign {
			return true
		}
	}
	return false
}

// joinErrors lists the addresses that this node cannot join, with the last error of each.
func (m *membership) joinErrors() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, addr := range slices.Sorted(maps.Keys(m.joinAttempts)) {
		all = append(all, addr+": "+m.joinAttempts[addr].err.Error())
	}
	return strings.Join(all, "; ")
}

// acceptsConns reports whether somebody takes connections at an address.
func (m *membership) acceptsConns(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, joinProbeTimeout)
	defer cancel()
	conn, err := m.cfg.Network.Dial(ctx, addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// joinAt learns what the node at an address knows, itself included.
func (m *membership) joinAt(ctx context.Context, addr string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := m.gossip.Join([]string{addr})
	why := trimJoinError(err)
	m.noteAttempt(ctx, addr, why, why != nil && m.isForeign(ctx, addr, why))
	return err
}

// isForeign reports whether somebody took the connection that failed with an error. Where that
// does not tell, it tries: the other side's log has a line about each connection that is no
// gossip.
func (m *membership) isForeign(ctx context.Context, addr string, why error) bool {
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

// trimJoinError is memberlist's error of one address without what is said of it elsewhere.
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

// lookupAddrs turns host or host:port into addresses, and notes a name that is not known.
func (m *membership) lookupAddrs(ctx context.Context, name string) ([]string, error) {
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
