package gossip

import (
	"bytes"
	"context"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// nextChangeAt returns the instant of a change that this node announces now. It is a whole second,
// so that changes of several nodes coincide, and so far ahead that every node knows of it by then.
// All nodes switch by their own clocks, not when gossip arrives.
func (m *Membership) nextChangeAt(now time.Time) shard.Millis {
	at := now.Add(m.cfg.ChangeNotice)
	if m.cfg.ChangeNotice >= time.Second {
		at = at.Add(time.Second - 1).Truncate(time.Second)
	}
	return max(shard.MillisOf(at), 1)
}

func (m *Membership) setStartLocked(at shard.Millis) {
	m.self.OwnsFrom = at
	m.self.Revision++
	notify.Send(m.selfChanged)
}

// CancelLeave withdraws AnnounceLeave.
func (m *Membership) CancelLeave() {
	m.mu.Lock()
	if m.self.Flags&placement.FlagLeaving != 0 {
		m.self.Flags &^= placement.FlagLeaving
		m.self.OwnsFrom, m.self.OwnsUntil = m.nextChangeAt(m.cfg.Now()), placement.Never
		if !m.mayOwnLocked(m.cfg.Now()) {
			m.self.OwnsFrom = placement.Never
		}
		m.self.Revision++
	}
	m.mu.Unlock()
	m.announceChange()
}

// announceChange rebuilds the View and spreads self by gossip.
func (m *Membership) announceChange() {
	notify.Send(m.viewStale)
	notify.Send(m.selfChanged)
}

// SetStoreLost announces whether S2 answers this node.
func (m *Membership) SetStoreLost(lost bool) {
	m.mu.Lock()
	m.self.Flags &^= placement.FlagStoreDown
	if lost {
		m.self.Flags |= placement.FlagStoreDown
	}
	m.self.Revision++
	m.mu.Unlock()
	m.announceChange()
}

// RejoinAfterPause announces a new start date after this process stood still for so long that
// others have taken its streams. Otherwise each of those would have two owners.
func (m *Membership) RejoinAfterPause(late time.Duration) {
	now := m.cfg.Now()
	m.mu.Lock()
	again := len(m.others) > 0 && m.self.OwnsAt(shard.MillisOf(now))
	if again {
		m.self.OwnsFrom = m.nextChangeAt(now)
		m.self.Revision++
	}
	m.mu.Unlock()
	m.log.Warn("this process stood still", "for", late)
	if again {
		m.announceChange()
	}
}

// AnnounceLeave announces the instant from which this node owns nothing, and returns it. Without
// other members that is now.
func (m *Membership) AnnounceLeave() (at time.Time) {
	m.mu.Lock()
	if m.self.Flags&placement.FlagLeaving == 0 {
		now := m.cfg.Now()
		m.self.Flags |= placement.FlagLeaving
		m.self.OwnsUntil = m.nextChangeAt(now)
		if len(m.others) == 0 {
			m.self.OwnsUntil = max(shard.MillisOf(now), 1)
		}
		m.self.Revision++
	}
	at = time.UnixMilli(int64(m.self.OwnsUntil))
	m.mu.Unlock()
	m.announceChange()
	return at
}

// gossipSelf spreads self whenever it changed, and again if gossip holds an older version.
func (m *Membership) gossipSelf(ctx context.Context) {
	check := time.NewTicker(pushPullInterval)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.selfChanged:
		case <-check.C:
			m.mu.Lock()
			now := m.self.Encode()
			m.mu.Unlock()
			if bytes.Equal(now, m.gossip.LocalNode().Meta) {
				continue
			}
		}
		if err := m.gossip.UpdateNode(announceTimeout); err != nil {
			m.log.Debug("gossip", "err", err)
		}
	}
}
