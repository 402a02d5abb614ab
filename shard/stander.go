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

// stander asks storage how this node stands with it, again and again, and keeps the fleet's
// record. One goroutine of the Manager's does.
//
// A round costs, for each site, a read of one record, a check of the tail, and two appends that
// are refused; when the tail has moved, one more read; every five minutes one call that makes a
// stream exist which does. By S2's price list refused appends are free, and the rest is
// 1e-6 + 1e-7 of a dollar: a node and site, 0.30 dollars a month, and 0.09 more for the
// right to make streams.
type stander struct {
	log   *breaker
	in    Prober
	role  func() Role
	told  func(Standing)
	now   func() time.Time
	logs  *slog.Logger
	plots []*plot
	look  chan struct{} // cap 1, never closed: look now

	newest atomic.Pointer[Standing]
	raise  raise
	next   int       // in plots: the first of the next round
	said   time.Time // an error was logged
	silent int       // rounds without a good end
}

const (
	standEvery   = 10 * time.Second
	standSoon    = time.Second // while not all is well
	standLate    = 5 * time.Second
	standTimeout = 4 * time.Second
	standAtOnce  = 8
	// standMost sites are asked in a round, in turn; at the start all are.
	standMost   = 8
	createEvery = 5 * time.Minute
	// sayEvery is how often an error that lasts is logged.
	sayEvery = time.Minute
	// recordWithin is how far below the tail the newest record may stand if it is not at
	// position 0: a newcomer reads no more.
	recordWithin = MaxBatchRecords
)

// WatchStanding has the Manager ask storage for as long as it lives, if its Log is a Prober: at once, every
// ten seconds, and every second while something is wrong. role is asked before each round; told
// hears each Standing that differs from the one before, from one goroutine. Call it once.
func (h *Manager) WatchStanding(role func() Role, told func(Standing)) {
	in, ok := h.log.Log.(Prober)
	if !ok || len(in.Sites()) == 0 {
		return
	}
	s := &stander{
		log: h.log, in: in, role: role, told: told, now: h.cfg.Now, logs: h.cfg.Logger,
		look: make(chan struct{}, 1),
	}
	for _, site := range in.Sites() {
		s.plots = append(s.plots, &plot{Site: site})
	}
	s.newest.Store(&Standing{HasSites: true, Since: s.now(), Where: in.Describe(s.plots[0].Site)})
	h.stander.Store(s)
	if s.plots[0].Templated {
		h.cfg.Logger.Warn("no basin is checked: a template names one for each project", "mapping", in.Mapping())
	}
	h.spawn(s.run)
}

// CanProbe reports whether Stand has anything to ask.
func (h *Manager) CanProbe() bool {
	in, ok := h.log.Log.(Prober)
	return ok && len(in.Sites()) > 0
}

// Standing is the newest one.
func (h *Manager) Standing() Standing {
	if s := h.stander.Load(); s != nil {
		return *s.newest.Load()
	}
	return Standing{}
}

// ProbeNow has storage asked now: the node's role has changed.
func (h *Manager) ProbeNow() {
	if s := h.stander.Load(); s != nil {
		select {
		case s.look <- struct{}{}:
		default:
		}
	}
}

// LoneRole is the Role of a node without others.
func LoneRole() Role { return Role{Owns: true, MayCreate: true, SoleOwner: true, Level: FormatLevel} }

func (s *stander) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := standEvery - standEvery/10 + rand.N(standEvery/5)
		if !s.round(ctx) {
			s.silent++
			soon := min(standSoon*time.Duration(1+s.silent/10), standLate)
			wait = soon/2 + rand.N(soon)
		} else {
			s.silent = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.look:
		}
		timer.Stop()
	}
}

// round asks at the sites whose turn it is; well: nothing is wrong.
func (s *stander) round(ctx context.Context) (well bool) {
	role := s.role()
	old := *s.newest.Load()
	all := !old.Passed || old.RecordProblem != "" || old.Refused != ""
	asked := s.turn(all)
	s.ask(ctx, asked, role)
	if ctx.Err() != nil {
		return false
	}
	st := s.judge(old, asked, role)
	s.complain(old, st)
	if st != old {
		s.newest.Store(&st)
		s.told(st)
	}
	return st.Passed && st.Refused == "" && st.Silent == "" && st.RecordProblem == ""
}

// turn is the sites of this round.
func (s *stander) turn(all bool) []*plot {
	if all || len(s.plots) <= standMost {
		return s.plots
	}
	out := make([]*plot, standMost)
	for i := range out {
		out[i] = s.plots[(s.next+i)%len(s.plots)]
	}
	s.next += standMost
	return out
}

func (s *stander) ask(ctx context.Context, plots []*plot, role Role) {
	var wg sync.WaitGroup
	room := make(chan struct{}, standAtOnce)
	for _, p := range plots {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			s.askAt(ctx, p, role)
		})
	}
	wg.Wait()
}

// askAt asks at one site, writes the record there if it is missing and this node may, and
// replaces it if it is to say something else.
func (s *stander) askAt(ctx context.Context, p *plot, role Role) {
	ctx, cancel := context.WithTimeout(ctx, standTimeout)
	defer cancel()
	s.log.asking(p.Log)
	if p.Templated {
		_, err := s.log.Log.Tail(ctx, p.Log)
		s.log.heard(err)
		if errors.Is(err, ErrNoLog) || errors.Is(err, ErrLogDenied) && !errors.Is(err, ErrLogUnauthenticated) {
			err = nil
		}
		p.err = err
		return
	}
	for range 3 { // who loses the first place to another reads what that one wrote
		p.finding = s.read(ctx, p)
		if p.err == nil && p.absent && role.MayCreate {
			p.err = s.found(ctx, p, role)
			if isTail(p.err) {
				continue
			}
		}
		break
	}
	if p.err == nil && !p.absent {
		p.err = s.rights(ctx, p)
	}
	if p.err == nil && p.first != nil {
		s.renew(ctx, p, role)
	}
	s.log.heard(p.err)
}

// read looks at what the site holds. After an error what was known of later records stands.
func (s *stander) read(ctx context.Context, p *plot) finding {
	page, err := s.log.Log.Read(ctx, p.Log, 0, 1)
	if errors.Is(err, ErrNoLog) {
		return finding{absent: true}
	}
	if err != nil {
		return finding{err: err, last: p.last, lastAt: p.lastAt}
	}
	var f finding
	if f.placed(page); f.absent || f.bad != nil {
		return f
	}
	if f.tail, err = s.log.Log.Tail(ctx, p.Log); err != nil {
		return finding{err: err, last: p.last, lastAt: p.lastAt}
	}
	from := max(f.tail, recordWithin) - recordWithin
	if p.last != nil && p.last.id == f.first.id && p.tail <= f.tail {
		f.last, f.lastAt, from = p.last, p.lastAt, max(from, p.tail)
	}
	if from = max(from, 1); from >= f.tail {
		return f
	}
	page, err = s.log.Log.Read(ctx, p.Log, from, recordWithin)
	if f.newest(page.Records); err != nil {
		return finding{err: err, last: p.last, lastAt: p.lastAt}
	}
	return f
}

// rights asks for the rights at a site.
func (s *stander) rights(ctx context.Context, p *plot) error {
	create := s.now().Sub(p.created) >= createEvery
	err := probeRights(ctx, s.log.Log, p.Log, create)
	if create && err == nil {
		p.created = s.now()
	}
	return err
}

// found writes the site's first record.
func (s *stander) found(ctx context.Context, p *plot, role Role) error {
	if err := s.log.Log.Create(ctx, p.Log); err != nil {
		return err
	}
	f := s.record(p, nil)
	if f.level = role.Level; p.had {
		f.id = p.id
	}
	if _, err := s.log.Log.Append(ctx, p.Log, 0, []Entry{f.entry(0)}); err != nil {
		return err
	}
	s.logs.Info("the fleet's record is written", "where", s.in.Describe(p.Site), "fleet", f.id.String())
	p.finding = finding{first: f, last: f, tail: 1}
	return nil
}

// record is one that says what this node's settings say, after another.
func (s *stander) record(p *plot, last *fleetRecord) *fleetRecord {
	f := new(fleetRecord)
	if last != nil {
		*f = *last
	} else {
		f.id = newFleetID()
	}
	f.text = s.in.Mapping()
	f.mapping = sha256.Sum256([]byte(f.text))
	return f
}

// renew writes the record once more, if it is to say something else or is about to be out of
// reach of newcomers. What it says is advice: a failure is for the next round.
func (s *stander) renew(ctx context.Context, p *plot, role Role) {
	f := s.record(p, p.last)
	other := f.mapping != p.last.mapping && role.SoleOwner
	if !other {
		f.text, f.mapping = p.last.text, p.last.mapping
	}
	raised := p == s.plots[0] && s.raise.due(s.now(), role.Level) && role.Owns && role.Level > f.level
	far := role.Owns && p.lastAt > 0 && p.tail-p.lastAt > recordWithin/2
	if !other && !raised && !far {
		return
	}
	if raised {
		f.level = role.Level
	}
	if _, err := s.log.Log.Append(ctx, p.Log, p.tail, []Entry{f.entry(p.tail)}); err != nil {
		return
	}
	if other {
		s.logs.Warn("projects map to basins in another way than the fleet's record says; nobody owns streams, so it is changed",
			"where", s.in.Describe(p.Site), "was", p.last.text, "is", f.text)
	}
	p.last, p.lastAt, p.tail = f, p.tail, p.tail+1
}

// judge makes a Standing of what was found.
func (s *stander) judge(old Standing, asked []*plot, role Role) Standing {
	st := Standing{HasSites: true, Since: old.Since, Passed: old.Passed, Where: old.Where, Fleet: old.Fleet, Level: old.Level}
	var refused, silent []string
	for _, p := range asked {
		switch why := p.err; {
		case why == nil:
		case errors.Is(why, ErrLogDenied):
			refused = append(refused, s.in.Explain(p.Site, why))
		default:
			silent = append(silent, s.in.Explain(p.Site, why))
		}
	}
	// A basin that is gone from under a node that owns streams is one project's loss.
	if role.Owns && old.Passed && len(refused) < len(asked) && old.Refused == "" {
		s.partly(refused)
		refused = nil
	}
	st.Refused, st.Silent = oneLine(refused), oneLine(silent)
	if st.Refused != "" || st.Silent != "" {
		st.RecordProblem = old.RecordProblem
		return st
	}
	st.Passed = true
	s.identify(&st, role)
	return st
}

// partly logs what some of several basins refuse.
func (s *stander) partly(refused []string) {
	if len(refused) > 0 && s.now().Sub(s.said) >= sayEvery {
		s.said = s.now()
		s.logs.Error("storage refuses this node in some basins", "why", oneLine(refused))
	}
}

// identify says whose the sites are.
func (s *stander) identify(st *Standing, role Role) {
	if s.plots[0].Templated { // the settings alone say which fleet it is
		st.RecordProblem, st.Fleet = "", fleetHash(nil, nil, s.in.Mapping())
		return
	}
	var wrong []string
	ids := make([]FleetID, len(s.plots))
	for i, p := range s.plots {
		switch why := p.wrong(s.in, role); {
		case why == "":
		case role.Owns && p.had:
			p.warn(s.logs, why)
		default:
			wrong = append(wrong, why)
		}
		if p.err == nil && (!p.had || !role.Owns) {
			if p.had = p.first != nil; p.had {
				p.id = p.first.id
			}
		}
		ids[i] = p.id
		if i == 0 && p.last != nil {
			st.Level = p.last.level
		}
	}
	st.RecordProblem, st.Fleet = oneLine(wrong), 0
	if !slices.ContainsFunc(s.plots, func(p *plot) bool { return !p.had }) {
		st.Fleet = fleetHash(sitesOf(s.plots), ids, s.in.Mapping())
	}
}

func sitesOf(plots []*plot) []Site {
	out := make([]Site, len(plots))
	for i, p := range plots {
		out[i] = p.Site
	}
	return out
}

// wrong is what is wrong with the record of a site; empty: nothing.
func (p *plot) wrong(in Prober, role Role) string {
	where := in.Describe(p.Site)
	switch {
	case p.err != nil: // it was not its turn, and did not answer when it was
		return ""
	case p.absent:
		return "there is no record of a fleet in " + where
	case p.bad != nil:
		return "the fleet's record in " + where + " cannot be read: " + p.bad.Error() +
			"; delete the stream " + fleetStream + " there, and a node that owns streams writes it again"
	case p.had && p.first.id != p.id && role.Owns:
		return "the record in " + where + " is another fleet's than it was"
	case p.last.mapping != sha256.Sum256([]byte(in.Mapping())) && !role.SoleOwner:
		return "projects map to basins in another way than the fleet's record says: here " + in.Mapping() +
			", there " + p.last.text
	}
	return ""
}

// warn says once what is wrong with a record that this node does not depend on.
func (p *plot) warn(log *slog.Logger, why string) {
	if p.warned != why {
		p.warned = why
		log.Warn("the fleet's record", "why", why)
	}
}

// complain logs what changed, and each minute what stays wrong.
func (s *stander) complain(old, st Standing) {
	now := s.now()
	well := st.Refused == "" && st.Passed
	if well && old.Refused != "" {
		s.logs.Info("S2 accepts this node again")
	}
	if well || st.Refused == "" && st.Silent == "" {
		return
	}
	changed := st.Refused != old.Refused || !st.Passed && old.Silent == "" && st.Silent != ""
	if !changed && now.Sub(s.said) < sayEvery {
		return
	}
	s.said = now
	if st.Refused != "" {
		s.logs.Error("S2 refuses this node", "why", st.Refused)
	} else {
		s.logs.Error("S2 has not answered this node since it started", "why", st.Silent)
	}
}

// fleetStream is the name of the log in its basin.
const fleetStream = "__ds/fleet"
