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

// attempt is the last try to reach an address to join.
type attempt struct {
	err   error
	alien bool      // it takes connections, and does not speak this node's gossip
	name  bool      // it was looked up only
	said  string    // of it, in the log
	at    time.Time // when
}

// Pauses between two lines of the log about one address that say the same.
const (
	complainAgain = time.Minute
	complainFirst = 3 * time.Second // how long addresses may be unreachable in a fleet that starts
)

// alienTimeout bounds the look whether somebody takes connections at an address.
const alienTimeout = time.Second

var errAlien = errors.New("it answers, but its --secret or --cluster differs, or it is no node")

// tried notes what became of an address; nil: it was joined.
func (m *membership) tried(ctx context.Context, addr string, err error, alien bool) {
	m.mu.Lock()
	company := len(m.known) > 0
	a := m.attempts[addr]
	if err == nil || ctx.Err() != nil {
		delete(m.attempts, addr)
		m.mu.Unlock()
		return
	}
	if a == nil {
		a = &attempt{}
		m.attempts[addr] = a
	}
	if a.err, a.alien = err, alien; alien {
		a.err = fmt.Errorf("%w (%w)", errAlien, err)
	}
	now := time.Now()
	loud := alien || !company && now.Sub(m.began) >= complainFirst
	say := loud && (a.said != a.err.Error() || now.Sub(a.at) >= complainAgain)
	if say {
		a.said, a.at = a.err.Error(), now
	}
	text := a.err.Error()
	m.mu.Unlock()
	if say {
		m.log.Warn("cannot join", "addr", addr, "err", text)
	} else {
		m.log.Debug("cannot join", "addr", addr, "err", text)
	}
}

// forgetTries forgets the addresses that a round did not try.
func (m *membership) forgetTries(of map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.attempts, func(addr string, _ *attempt) bool { return !of[addr] })
}

// aliensLocked reports whether an address takes connections and does not speak this node's
// gossip.
func (m *membership) aliensLocked() bool {
	for _, a := range m.attempts {
		if a.alien {
			return true
		}
	}
	return false
}

// seeks lists the addresses that this node cannot join, with the last error of each.
func (m *membership) seeks() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, addr := range slices.Sorted(maps.Keys(m.attempts)) {
		all = append(all, addr+": "+m.attempts[addr].err.Error())
	}
	return strings.Join(all, "; ")
}

// takes reports whether somebody takes connections at an address.
func (m *membership) takes(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, alienTimeout)
	defer cancel()
	conn, err := m.cfg.Network.Dial(ctx, addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// dial learns what the node at an address knows, itself included.
func (m *membership) dial(ctx context.Context, addr string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := m.ml.Join([]string{addr})
	why := joinError(err)
	m.tried(ctx, addr, why, why != nil && m.isAlien(ctx, addr, why))
	return err
}

// isAlien reports whether somebody took the connection that failed with an error. Where that
// does not tell, it tries: the other side's log has a line about each connection that is no
// gossip.
func (m *membership) isAlien(ctx context.Context, addr string, why error) bool {
	text := why.Error()
	if strings.HasPrefix(text, "dial ") {
		return false
	}
	for _, said := range []string{"no installed keys", "remote error", "unacceptable label", "EOF"} {
		if strings.Contains(text, said) {
			return true
		}
	}
	return m.takes(ctx, addr)
}

// joinError is memberlist's error of one address without what is said of it elsewhere.
func joinError(err error) error {
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

// lookup turns host or host:port into addresses, and notes a name that is not known.
func (m *membership) lookup(ctx context.Context, name string) ([]string, error) {
	addrs, err := m.resolve(ctx, name)
	if err == nil {
		m.mu.Lock()
		if a := m.attempts[name]; a != nil && a.name {
			delete(m.attempts, name)
		}
		m.mu.Unlock()
		return addrs, nil
	}
	var unknown *net.DNSError
	if errors.As(err, &unknown) {
		err = fmt.Errorf("the name is not known: %w", err)
	}
	m.tried(ctx, name, err, false)
	m.mu.Lock()
	if a := m.attempts[name]; a != nil {
		a.name = true
	}
	m.mu.Unlock()
	return nil, err
}
