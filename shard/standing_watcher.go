package shard

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// standingWatcher asks storage how this node stands with it, again and again, and keeps the fleet's
// record. One goroutine of the Manager owns it; newest and askNow are for others.
//
// A round costs, for each site, a read of one record, a check of the tail, and two appends that are
// refused; when the tail has moved, one more read; every five minutes one call that creates a
// stream which exists. By S2's price list refused appends are free, and the rest is 1e-6 + 1e-7 of
// a dollar. A node pays for a site 0.30 dollars a month, and 0.09 more for the right to create
// streams.
type standingWatcher struct {
	log      *breaker
	prober   Prober
	role     func() Role
	onChange func(Standing)
	now      func() time.Time
	logger   *slog.Logger
	sites    []*siteState
	askNow   chan struct{} // cap 1, never closed: start a round now
	passed   chan struct{} // closed after the first round in which all was well

	newest       atomic.Pointer[Standing]
	levelRaise   levelRaise
	nextSite     int       // in sites: the first of the next round
	lastLogged   time.Time // when an error was logged
	failedRounds int       // rounds since the last one without a problem
}

const (
	standingEvery    = 10 * time.Second
	standingRetry    = time.Second // while not all is well
	maxStandingRetry = 5 * time.Second
	standingTimeout  = 4 * time.Second
	maxSitesTogether = 8
	// maxSitesPerRound bounds the sites that are asked in a round, in turn; at the start all are
	// asked.
	maxSitesPerRound = 8
	createProbeEvery = 5 * time.Minute
	// standingLogEvery is the pause between two log lines about an error that lasts.
	standingLogEvery = time.Minute
	// maxRecordDistance bounds how far below the tail the newest record may stand if it is not at
	// position 0: a newcomer reads no more.
	maxRecordDistance = MaxBatchRecords
)

// WatchStanding has the Manager ask storage for as long as it lives, if its Log is a Prober:
// immediately, then every ten seconds, and every second while something is wrong. role is called
// before each round. told is called with each Standing that differs from the one before, from one
// goroutine. Call WatchStanding once.
func (m *Manager) WatchStanding(role func() Role, told func(Standing)) {
	in, ok := m.log.Log.(Prober)
	if !ok || len(in.Sites()) == 0 {
		return
	}
	s := &standingWatcher{
		log: m.log, prober: in, role: role, onChange: told, now: m.cfg.Now, logger: m.cfg.Logger,
		askNow: make(chan struct{}, 1), passed: make(chan struct{}),
	}
	for _, site := range in.Sites() {
		s.sites = append(s.sites, &siteState{Site: site})
	}
	s.newest.Store(&Standing{HasSites: true, Since: s.now(), Where: in.Describe(s.sites[0].Site)})
	m.standingWatcher.Store(s)
	if s.sites[0].Templated {
		m.cfg.Logger.Warn("no basin is checked: a template names one for each project", "mapping", in.Mapping())
	}
	m.spawn(s.runRounds)
	m.startOrderProbe(s.passed)
}

// CanProbe reports whether WatchStanding has sites to ask at.
func (m *Manager) CanProbe() bool {
	in, ok := m.log.Log.(Prober)
	return ok && len(in.Sites()) > 0
}

// Standing returns the newest Standing.
func (m *Manager) Standing() Standing {
	if s := m.standingWatcher.Load(); s != nil {
		return *s.newest.Load()
	}
	return Standing{}
}

// ProbeNow starts a round now: the node's role has changed.
func (m *Manager) ProbeNow() {
	if s := m.standingWatcher.Load(); s != nil {
		select {
		case s.askNow <- struct{}{}:
		default:
		}
	}
}

// LoneRole returns the Role of a node without others.
func LoneRole() Role { return Role{Owns: true, MayCreate: true, SoleOwner: true, Level: FormatLevel} }

// runRounds runs rounds until ctx ends.
func (s *standingWatcher) runRounds(ctx context.Context) {
	for ctx.Err() == nil {
		wait := standingEvery - standingEvery/10 + rand.N(standingEvery/5)
		if !s.runRound(ctx) {
			s.failedRounds++
			retry := min(standingRetry*time.Duration(1+s.failedRounds/10), maxStandingRetry)
			wait = retry/2 + rand.N(retry)
		} else {
			s.failedRounds = 0
			s.notePassed()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.askNow:
		}
		timer.Stop()
	}
}

// notePassed notes that all is well.
func (s *standingWatcher) notePassed() {
	select {
	case <-s.passed:
	default:
		close(s.passed)
	}
}

// runRound asks at the sites of this round; well: nothing is wrong.
func (s *standingWatcher) runRound(ctx context.Context) (well bool) {
	role := s.role()
	old := *s.newest.Load()
	all := !old.Passed || old.RecordProblem != "" || old.Refused != ""
	asked := s.sitesOfRound(all)
	s.askSites(ctx, asked, role)
	if ctx.Err() != nil {
		return false
	}
	st := s.judgeRound(old, asked, role)
	s.logChanges(old, st)
	if st != old {
		s.newest.Store(&st)
		s.onChange(st)
	}
	return st.Passed && st.Refused == "" && st.Silent == "" && st.RecordProblem == ""
}

// sitesOfRound returns the sites of this round.
func (s *standingWatcher) sitesOfRound(all bool) []*siteState {
	if all || len(s.sites) <= maxSitesPerRound {
		return s.sites
	}
	out := make([]*siteState, maxSitesPerRound)
	for i := range out {
		out[i] = s.sites[(s.nextSite+i)%len(s.sites)]
	}
	s.nextSite += maxSitesPerRound
	return out
}

// askSites asks at sites, a few together.
func (s *standingWatcher) askSites(ctx context.Context, sites []*siteState, role Role) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxSitesTogether)
	for _, p := range sites {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			s.askSite(ctx, p, role)
		})
	}
	wg.Wait()
}

// askSite asks at one site. It writes the record there if it is missing and this node may, and
// replaces it if its text must change.
func (s *standingWatcher) askSite(ctx context.Context, p *siteState, role Role) {
	ctx, cancel := context.WithTimeout(ctx, standingTimeout)
	defer cancel()
	s.log.noteAsked(p.Log)
	if p.Templated {
		_, err := s.log.Log.Tail(ctx, p.Log)
		s.log.noteAnswer(err)
		if errors.Is(err, ErrNoLog) || errors.Is(err, ErrLogDenied) && !errors.Is(err, ErrLogUnauthenticated) {
			err = nil
		}
		p.err = err
		return
	}
	for range 3 { // a node that loses position 0 to another reads the record of that node
		p.finding = s.readSite(ctx, p)
		if p.err == nil && p.absent && role.MayCreate {
			p.err = s.writeFirstRecord(ctx, p, role)
			if isTail(p.err) {
				continue
			}
		}
		break
	}
	if p.err == nil && !p.absent {
		p.err = s.askRights(ctx, p)
	}
	if p.err == nil && p.first != nil {
		s.renewRecord(ctx, p, role)
	}
	s.log.noteAnswer(p.err)
}

// readSite reads what the site holds. After an error it keeps what was known of later records.
func (s *standingWatcher) readSite(ctx context.Context, p *siteState) finding {
	page, err := s.log.Log.Read(ctx, p.Log, 0, 1)
	if errors.Is(err, ErrNoLog) {
		return finding{absent: true}
	}
	if err != nil {
		return finding{err: err, last: p.last, lastPos: p.lastPos}
	}
	var f finding
	if f.setFirst(page); f.absent || f.invalid != nil {
		return f
	}
	if f.tail, err = s.log.Log.Tail(ctx, p.Log); err != nil {
		return finding{err: err, last: p.last, lastPos: p.lastPos}
	}
	from := max(f.tail, maxRecordDistance) - maxRecordDistance
	if p.last != nil && p.last.id == f.first.id && p.tail <= f.tail {
		f.last, f.lastPos, from = p.last, p.lastPos, max(from, p.tail)
	}
	if from = max(from, 1); from >= f.tail {
		return f
	}
	page, err = s.log.Log.Read(ctx, p.Log, from, maxRecordDistance)
	if f.setNewest(page.Records); err != nil {
		return finding{err: err, last: p.last, lastPos: p.lastPos}
	}
	return f
}

// askRights asks for the rights at a site.
func (s *standingWatcher) askRights(ctx context.Context, p *siteState) error {
	create := s.now().Sub(p.createProbed) >= createProbeEvery
	err := probeRights(ctx, s.log.Log, p.Log, create)
	if create && err == nil {
		p.createProbed = s.now()
	}
	return err
}

// writeFirstRecord writes the site's first record.
func (s *standingWatcher) writeFirstRecord(ctx context.Context, p *siteState, role Role) error {
	if err := s.log.Log.Create(ctx, p.Log); err != nil {
		return err
	}
	f := s.recordFromSettings(p, nil)
	if f.level = role.Level; p.hasFleet {
		f.id = p.fleetID
	}
	if _, err := s.log.Log.Append(ctx, p.Log, 0, []Entry{f.entry(0)}); err != nil {
		return err
	}
	s.logger.Info("the fleet's record is written", "where", s.prober.Describe(p.Site), "fleet", f.id.String())
	p.finding = finding{first: f, last: f, tail: 1}
	return nil
}

// recordFromSettings returns a record with this node's settings, to follow last; nil: to be the
// first.
func (s *standingWatcher) recordFromSettings(p *siteState, last *fleetRecord) *fleetRecord {
	f := new(fleetRecord)
	if last != nil {
		*f = *last
	} else {
		f.id = newFleetID()
	}
	f.mappingText = s.prober.Mapping()
	f.mapping = sha256.Sum256([]byte(f.mappingText))
	return f
}

// renewRecord writes the record once more, if its text must change or if it is about to be out of
// reach of newcomers. The record is advice: after a failure the next round tries again.
func (s *standingWatcher) renewRecord(ctx context.Context, p *siteState, role Role) {
	f := s.recordFromSettings(p, p.last)
	mappingDiffers := f.mapping != p.last.mapping && role.SoleOwner
	if !mappingDiffers {
		f.mappingText, f.mapping = p.last.mappingText, p.last.mapping
	}
	raised := p == s.sites[0] && s.levelRaise.isDue(s.now(), role.Level) && role.Owns && role.Level > f.level
	outOfReach := role.Owns && p.lastPos > 0 && p.tail-p.lastPos > maxRecordDistance/2
	if !mappingDiffers && !raised && !outOfReach {
		return
	}
	if raised {
		f.level = role.Level
	}
	if _, err := s.log.Log.Append(ctx, p.Log, p.tail, []Entry{f.entry(p.tail)}); err != nil {
		return
	}
	if mappingDiffers {
		s.logger.Warn("projects map to basins in another way than the fleet's record says; no other node owns streams, so the record is replaced",
			"where", s.prober.Describe(p.Site), "was", p.last.mappingText, "is", f.mappingText)
	}
	p.last, p.lastPos, p.tail = f, p.tail, p.tail+1
}

// judgeRound makes a Standing of what was found.
func (s *standingWatcher) judgeRound(old Standing, asked []*siteState, role Role) Standing {
	st := Standing{HasSites: true, Since: old.Since, Passed: old.Passed, Where: old.Where, Fleet: old.Fleet, Level: old.Level}
	var refused, silent []string
	for _, p := range asked {
		switch why := p.err; {
		case why == nil:
		case errors.Is(why, ErrLogDenied):
			refused = append(refused, s.prober.Explain(p.Site, why))
		default:
			silent = append(silent, s.prober.Explain(p.Site, why))
		}
	}
	// If a node owns streams, and some of its basins are gone, only their projects are lost.
	if role.Owns && old.Passed && len(refused) < len(asked) && old.Refused == "" {
		s.logPartialRefusal(refused)
		refused = nil
	}
	st.Refused, st.Silent = oneLine(refused), oneLine(silent)
	if st.Refused != "" || st.Silent != "" {
		st.RecordProblem = old.RecordProblem
		return st
	}
	st.Passed = true
	s.identifyFleet(&st, role)
	return st
}

// logPartialRefusal logs what some of several basins refuse.
func (s *standingWatcher) logPartialRefusal(refused []string) {
	if len(refused) > 0 && s.now().Sub(s.lastLogged) >= standingLogEvery {
		s.lastLogged = s.now()
		s.logger.Error("storage refuses this node in some basins", "why", oneLine(refused))
	}
}

// identifyFleet decides which fleet the sites belong to.
func (s *standingWatcher) identifyFleet(st *Standing, role Role) {
	if s.sites[0].Templated { // the settings alone say which fleet it is
		st.RecordProblem, st.Fleet = "", fleetHash(nil, nil, s.prober.Mapping())
		return
	}
	var wrong []string
	ids := make([]FleetID, len(s.sites))
	for i, p := range s.sites {
		switch why := p.recordProblem(s.prober, role); {
		case why == "":
		case role.Owns && p.hasFleet:
			p.warnOnce(s.logger, why)
		default:
			wrong = append(wrong, why)
		}
		if p.err == nil && (!p.hasFleet || !role.Owns) {
			if p.hasFleet = p.first != nil; p.hasFleet {
				p.fleetID = p.first.id
			}
		}
		ids[i] = p.fleetID
		if i == 0 && p.last != nil {
			st.Level = p.last.level
		}
	}
	st.RecordProblem, st.Fleet = oneLine(wrong), 0
	if !slices.ContainsFunc(s.sites, func(p *siteState) bool { return !p.hasFleet }) {
		st.Fleet = fleetHash(siteList(s.sites), ids, s.prober.Mapping())
	}
}

func siteList(sites []*siteState) []Site {
	out := make([]Site, len(sites))
	for i, p := range sites {
		out[i] = p.Site
	}
	return out
}

// recordProblem returns what is wrong with the record of a site; empty: nothing.
func (p *siteState) recordProblem(in Prober, role Role) string {
	where := in.Describe(p.Site)
	switch {
	case p.err != nil: // it was not asked in this round, and did not answer in an earlier one
		return ""
	case p.absent:
		return "there is no record of a fleet in " + where
	case p.invalid != nil:
		return "the fleet's record in " + where + " cannot be read: " + p.invalid.Error() +
			"; delete the stream " + fleetLogName + " there, and a node that owns streams writes it again"
	case p.hasFleet && p.first.id != p.fleetID && role.Owns:
		return "the record in " + where + " is another fleet's than it was"
	case p.last.mapping != sha256.Sum256([]byte(in.Mapping())) && !role.SoleOwner:
		return "projects map to basins in another way than the fleet's record says: here " + in.Mapping() +
			", there " + p.last.mappingText
	}
	return ""
}

// warnOnce logs what is wrong with a record that this node does not depend on, unless the last line
// said the same.
func (p *siteState) warnOnce(log *slog.Logger, why string) {
	if p.lastWarning != why {
		p.lastWarning = why
		log.Warn("the fleet's record", "why", why)
	}
}

// logChanges logs what changed, and each minute what stays wrong.
func (s *standingWatcher) logChanges(old, st Standing) {
	now := s.now()
	well := st.Refused == "" && st.Passed
	if well && old.Refused != "" {
		s.logger.Info("S2 accepts this node again")
	}
	if well || st.Refused == "" && st.Silent == "" {
		return
	}
	changed := st.Refused != old.Refused || !st.Passed && old.Silent == "" && st.Silent != ""
	if !changed && now.Sub(s.lastLogged) < standingLogEvery {
		return
	}
	s.lastLogged = now
	if st.Refused != "" {
		s.logger.Error("S2 refuses this node", "why", st.Refused)
	} else {
		s.logger.Error("S2 has not answered this node since it started", "why", st.Silent)
	}
}

// fleetLogName is the name of the log in its basin.
const fleetLogName = "__ds/fleet"
