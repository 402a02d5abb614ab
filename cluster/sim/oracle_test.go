package sim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// message is a message as the log holds it.
type message struct {
	token
	pos, end shard.Pos // of its first record, and behind its last
	at       time.Time
}

// producerTuple holds what an idempotent producer claims.
type producerTuple struct {
	id         string
	epoch, seq uint64
}

// header holds what the oracle decodes of a record's header (shard/header.go has its layout).
type header struct {
	kind, flags byte
	id          string
	tuple       *producerTuple
	life        shard.Generation
}

const (
	kindMessage = 1
	kindCreate  = 2

	flagContinues = 1 << 0
	flagFirst     = 1 << 1
	flagLast      = 1 << 2
	flagPart      = 1 << 3
	flagCommit    = 1 << 4
)

func parseHeader(pos shard.Pos, b []byte) (h header, err error) {
	n := len(b) - 4
	if n < 4 || b[0] != 0xFA {
		return h, fmt.Errorf("record %d is not ours", pos)
	}
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(pos))
	table := crc32.MakeTable(crc32.Castagnoli)
	if crc32.Update(crc32.Checksum(at[:], table), table, b[:n]) != binary.BigEndian.Uint32(b[n:]) {
		return h, fmt.Errorf("record %d does not belong there", pos)
	}
	h.kind, h.flags = b[2], b[3]
	for f := b[4:n]; len(f) > 0; {
		tag := f[0]
		size, k := binary.Uvarint(f[1:])
		v := f[1+k : 1+k+int(size)]
		f = f[1+k+int(size):]
		switch tag {
		case 1:
			h.id = string(v)
		case 2:
			epoch, k := binary.Uvarint(v)
			seq, k2 := binary.Uvarint(v[k:])
			h.tuple = &producerTuple{string(v[k+k2:]), epoch, seq}
		case 6:
			life, _ := binary.Uvarint(v)
			h.life = shard.Generation(life)
		}
	}
	return h, nil
}

// streamLog is a stream's log as the oracle reads it.
type streamLog struct {
	life     shard.Generation
	messages []message
	tuples   []producerTuple
	index    map[string]int // by a message's name
}

// readStreamLog is the oracle's own fold: messages in order, and those of an append in parts only
// if it is whole.
func readStreamLog(recs []shard.Record) (*streamLog, []error) {
	b := &streamLog{index: map[string]int{}}
	var errs []error
	var parts []message // of an append in parts, or of a message in pieces
	var run string
	var body []byte
	var next shard.Pos
	ids := map[string]uint64{}
	for _, rec := range recs {
		if rec.Pos != next {
			errs = append(errs, fmt.Errorf("record %d after %d", rec.Pos, next))
		}
		next = rec.Pos + 1
		if rec.Command {
			continue
		}
		h, err := parseHeader(rec.Pos, rec.Header)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if h.kind == kindCreate {
			b.life = h.life
		}
		if h.kind != kindMessage {
			if h.kind != kindCreate || len(rec.Body) == 0 {
				parts, run, body = nil, "", nil
			}
			continue
		}
		if h.flags&flagFirst != 0 {
			parts, body, run = nil, nil, h.id
			if h.flags&flagPart == 0 {
				if was, ok := ids[h.id]; ok {
					errs = append(errs, fmt.Errorf("I2: an append is at %d and at %d", was, rec.Pos))
				}
				ids[h.id] = uint64(rec.Pos)
			}
		} else if run == "" || h.id != "" && h.id != run {
			parts, body, run = nil, nil, ""
			continue
		}
		if h.flags&flagContinues == 0 {
			parts = append(parts, message{pos: rec.Pos})
			body = nil
		}
		if len(parts) == 0 {
			continue
		}
		body = append(body, rec.Body...)
		last := &parts[len(parts)-1]
		last.end, last.at = rec.Pos+1, time.UnixMilli(int64(rec.Time))
		last.token = tokenOf(body)
		whole := h.flags&flagPart == 0 && h.flags&flagLast != 0 || h.flags&flagCommit != 0
		if !whole {
			continue
		}
		for _, m := range parts {
			if was, ok := b.index[m.key]; ok {
				errs = append(errs, fmt.Errorf("I2: %s is at %d and at %d", m.key, b.messages[was].pos, m.pos))
			}
			m.at = last.at
			b.index[m.key] = len(b.messages)
			b.messages = append(b.messages, m)
		}
		if h.tuple != nil {
			b.tuples = append(b.tuples, *h.tuple)
		}
		parts, body = nil, nil
	}
	return b, errs
}

func tokenOf(body []byte) token {
	body = bytes.Trim(body, `"`)
	body = bytes.TrimSuffix(body, []byte(";"))
	key, _, _ := bytes.Cut(body, []byte(":"))
	return token{string(key), len(body)}
}

// parseOffset returns the generation and the position in an offset.
func parseOffset(offset string) (life shard.Generation, pos shard.Pos, ok bool) {
	l, p, found := strings.Cut(offset, "_")
	lifeNumber, err := strconv.ParseUint(l, 10, 64)
	place, err2 := strconv.ParseUint(p, 10, 64)
	return shard.Generation(lifeNumber), shard.Pos(place / 1000), found && err == nil && err2 == nil && place%1000 == 0
}

// checkAll compares what all clients saw with the log.
func (s *sim) checkAll() {
	books := map[*stream]*streamLog{}
	for _, st := range s.streams {
		b, errs := readStreamLog(s.mem.Records(shard.StreamID(st.name)))
		for _, err := range errs {
			s.failf("%s: %v", st.name, err)
		}
		books[st] = b
		s.messages += len(b.messages)
		s.checkProducers(st, b)
	}
	for _, w := range s.writers {
		s.checkWriter(w, books[w.st])
	}
	for _, r := range s.readers {
		s.checkReader(r, books[r.st])
	}
	s.checkHistory(books)
}

// checkProducers checks I3.
func (s *sim) checkProducers(st *stream, b *streamLog) {
	next := map[string]uint64{}
	for _, t := range b.tuples {
		if t.seq != next[t.id] {
			s.failf("I3: %s: producer %s has seq %d, %d is due", st.name, t.id, t.seq, next[t.id])
		}
		next[t.id] = t.seq + 1
	}
}

// checkWriter checks I2, and that what was refused never appears.
func (s *sim) checkWriter(w *writer, b *streamLog) {
	last := -1
	for _, m := range w.all {
		i, ok := b.index[m.key]
		if ok && b.messages[i].size != m.size {
			s.failf("I2: %s is %d bytes long, not %d", m.key, b.messages[i].size, m.size)
		}
		switch {
		case m.outcome == acked && !ok:
			s.failf("I2: %s was acknowledged at %s and is not in the log", m.key, m.offset)
		case m.outcome == refused && ok:
			s.failf("I2: %s was refused and is in the log at %d", m.key, b.messages[i].pos)
		}
		if !ok {
			continue
		}
		if m.outcome == acked {
			s.acked++
			life, pos, good := parseOffset(m.offset)
			if !good || life != b.life || pos < b.messages[i].end || !w.producer && pos != b.messages[i].end {
				s.failf("I2: %s is at %d of life %d, acknowledged at %s", m.key, b.messages[i].pos, b.life, m.offset)
			}
			if i <= last {
				s.failf("I2: %s stands before what was acknowledged before it", m.key)
			}
			last = i
			s.addLatency(m.first, m.done, func(l *latencies) { l.write = append(l.write, m.done.Sub(m.first)) })
		}
	}
}

// checkReader checks I1.
func (s *sim) checkReader(r *reader, b *streamLog) {
	at := 0
	if r.from != "-1" {
		at = -1
		if life, pos, ok := parseOffset(r.firstOffset); ok && life == b.life {
			at, _ = slices.BinarySearchFunc(b.messages, pos, func(m message, pos shard.Pos) int {
				return cmp.Compare(m.pos, pos)
			})
		} else if len(r.got) > 0 {
			at = b.index[r.got[0].key]
		}
	}
	for _, d := range r.got {
		if at < 0 || at >= len(b.messages) || b.messages[at].token != d.token {
			want := "nothing more"
			if at >= 0 && at < len(b.messages) {
				want = fmt.Sprintf("%v", b.messages[at].token)
			}
			s.failf("I1: %s got %v at %v, due was %s", r.name, d.token, s.since(d.receivedAt), want)
			return
		}
		m := b.messages[at]
		if life, pos, ok := parseOffset(d.after); d.after != "" && (!ok || life != b.life || pos != m.end && !r.poll || pos < m.end) {
			s.failf("I1: %s got %v with offset %s; it ends at %d of life %d", r.name, d.token, d.after, m.end, b.life)
		}
		if !r.poll {
			s.noteLatency(d, m)
		}
		at++
	}
	if at >= 0 && at < len(b.messages) {
		s.failf("I1: %s got %d messages, and of %d not %v (written %v)", r.name, len(r.got), len(b.messages),
			b.messages[at].token, s.since(b.messages[at].at))
	}
}

// checkHistory reads each stream once more, from the start.
func (s *sim) checkHistory(books map[*stream]*streamLog) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, st := range s.streams {
		c := s.client("history", st, false)
		all, err := c.readHistory(ctx)
		if err != nil {
			s.failf("history of %s: %v", st.name, err)
			continue
		}
		b := books[st]
		if len(all) != len(b.messages) {
			s.failf("history of %s: %d messages of %d", st.name, len(all), len(b.messages))
			continue
		}
		for i, k := range all {
			if k != b.messages[i].token {
				s.failf("history of %s: %v instead of %v", st.name, k, b.messages[i].token)
				break
			}
		}
	}
}

// latencies holds the latencies of a run.
type latencies struct {
	read        []time.Duration // from the log to a reader that was connected
	reconnected []time.Duration // to one that had to come back
	write       []time.Duration // of an append, from the client's first try
}

func (l *latencies) add(b *latencies) {
	l.read = append(l.read, b.read...)
	l.reconnected = append(l.reconnected, b.reconnected...)
	l.write = append(l.write, b.write...)
}

// blameFor is the time after its end for which a fault is blamed for a latency.
const blameFor = 10 * time.Second

// faultDuring returns what was done to the fleet in a stretch of time; false: more than one thing.
func (s *sim) faultDuring(from, to time.Time) (k kind, alone bool) {
	k = calmFault
	for _, f := range s.faults {
		if f.noVictim || to.Before(f.began) || from.After(f.ended.Add(blameFor)) {
			continue
		}
		if k != calmFault && k != f.kind {
			return k, false
		}
		k = f.kind
	}
	return k, true
}

func (s *sim) addLatency(from, to time.Time, note func(*latencies)) {
	note(&s.stalls)
	k, alone := s.faultDuring(from, to)
	if !alone {
		return
	}
	if s.byKind[k] == nil {
		s.byKind[k] = &latencies{}
	}
	note(s.byKind[k])
}

// maxPlannedStall bounds the time that any message may take to a connected reader where only
// planned changes happen: feeds continue until the next ones answer.
const maxPlannedStall = 250 * time.Millisecond

// maxUnseen bounds the time after which a node without a read session finds what another owner wrote:
// there is one for as long as clocks differ.
const maxUnseen = 30 * time.Second

// noteLatency records the time that a message took to a reader (I9).
func (s *sim) noteLatency(d delivery, m message) {
	took := d.receivedAt.Sub(m.at)
	most := maxPlannedStall
	if s.plan.auto && s.clockSpread() > 0 {
		most = maxUnseen
	}
	if s.plan.mix == mixPlanned && d.opened.Before(m.at) && took > most {
		s.failf("I9: %v was %v on its way to a reader", m.key, took)
	}
	s.addLatency(m.at, d.receivedAt, func(l *latencies) {
		if d.opened.Before(m.at) {
			l.read = append(l.read, took)
		} else if r := d.opened.Sub(m.at); r < 30*time.Second {
			l.reconnected = append(l.reconnected, took)
		}
	})
}

// noteClosed records an event stream that ended, but not by its reader (I4).
func (s *sim) noteClosed(r *reader, p *process, err error) {
	s.mu.Lock()
	p.drainedReaders = append(p.drainedReaders, time.Now())
	s.mu.Unlock()
	switch end := p.drainBegan.Load(); {
	case s.plan.mix != mixPlanned:
	case end == 0 || end > time.Now().UnixNano():
		s.failf("I4: %s was cut off %s, which does not end its readers: %v", r.name, p.n.name, err)
	}
}

// failIfPlanned reports a failure only in runs of planned changes.
func (s *sim) failIfPlanned(format string, a ...any) {
	if s.plan.mix == mixPlanned {
		s.failf(format, a...)
	} else {
		s.logEvent("not in order", "what", fmt.Sprintf(format, a...))
	}
}

// checkWhole returns what is missing of I7 and I13: all nodes see the same fleet, each stream has
// one owner, and every node reaches every other.
func (s *sim) checkWhole() error {
	ps := s.running()
	var names []string
	for _, p := range ps {
		names = append(names, p.clusterNode.Name())
	}
	slices.Sort(names)
	now := time.Now()
	var first []placement.Member
	for i, p := range ps {
		v := p.clusterNode.View()
		var seen []string
		for _, m := range v.Members() {
			seen = append(seen, m.Name)
		}
		if !slices.Equal(seen, names) {
			return fmt.Errorf("%s sees %v of %v", p.n.name, seen, names)
		}
		if i == 0 {
			first = v.Members()
		}
		if !slices.Equal(first, v.Members()) {
			return fmt.Errorf("%s sees %+v, %s sees %+v", p.n.name, v.Members(), ps[0].n.name, first)
		}
		if n := v.TableAt(now).Len(); n != len(ps) {
			return fmt.Errorf("%s sees %d owners of %d", p.n.name, n, len(ps))
		}
		if up := p.gauge("fantail_links_up"); int(up) != len(ps)-1 {
			return fmt.Errorf("%s has %v links of %d", p.n.name, up, len(ps)-1)
		}
	}
	for _, st := range s.streams {
		id := shard.StreamID(st.name)
		for _, p := range ps {
			a, b := p.clusterNode.View().TableAt(now).Owner(id), ps[0].clusterNode.View().TableAt(now).Owner(id)
			if a.Name != b.Name {
				return fmt.Errorf("%s has two owners: %s and %s", id, a.Name, b.Name)
			}
		}
	}
	return nil
}

// openSessions returns the number of open read sessions.
func (s *sim) openSessions() (n int) {
	for _, p := range s.running() {
		n += p.store.OpenSessions()
	}
	return n
}

// followedStreams returns the number of streams with a connected reader.
func (s *sim) followedStreams() int {
	on := map[*stream]bool{}
	for _, r := range s.readers {
		r.mu.Lock()
		if r.process != nil {
			on[r.st] = true
		}
		r.mu.Unlock()
	}
	return len(on)
}

// storeCosts holds what a run of planned changes costs storage so far.
type storeCosts struct {
	excessSessions time.Duration // integral of the sessions beyond one for each stream
	moved          int           // streams that changed their owner
	owners         map[*stream]string

	takeoverReads int // records that had been read for takeovers before
}

const sampleEvery = 50 * time.Millisecond

// sampleCosts checks I5 at one moment.
func (s *sim) sampleCosts(w *storeCosts) {
	ps := s.running()
	open, moving := s.openSessions(), 0
	for _, p := range ps {
		if p.draining.Load() || time.Since(p.startedAt) < 15*time.Second {
			moving++
		}
	}
	more := open - len(s.streams)
	w.excessSessions += time.Duration(max(more, 0)) * sampleEvery
	if more > 64*moving {
		s.failf("I5: %d sessions for %d streams, and %d nodes come or go", open, len(s.streams), moving)
	}
	if len(ps) == 0 {
		return
	}
	t := ps[0].clusterNode.View().TableAt(time.Now())
	for _, st := range s.streams {
		if m := t.Owner(shard.StreamID(st.name)); m != nil && w.owners[st] != m.Name {
			if w.owners[st] != "" {
				w.moved++
			}
			w.owners[st] = m.Name
		}
	}
}

// maxExcessPerMove bounds the time of sessions that a move may cost where clocks agree. Where they
// differ, a node serves without having received the stream for as long as they differ.
const maxExcessPerMove = 200 * time.Millisecond

// clockSpread returns how far the clocks of the run differ.
func (s *sim) clockSpread() time.Duration {
	first, last := time.Duration(0), time.Duration(0)
	for _, p := range s.procs {
		first, last = min(first, p.skew), max(last, p.skew)
	}
	return last - first
}

// takeoverReads returns the number of records read to take streams over that are in use. A resting
// stream is not handed over, and costs a read where it is next asked for.
func (s *sim) takeoverReads(n logtest.Counts) (sum int) {
	for _, st := range s.streams {
		sum += n.TakeoverRecords[shard.StreamID(st.name)]
	}
	return sum
}

// checkCosts checks I5, I6 and I8 of a run of planned changes, and I12 of any run.
func (s *sim) checkCosts(w *storeCosts) {
	var all logtest.Counts
	again := 0
	for _, p := range s.procs {
		n := p.store.Counts()
		all.SessionRecords += n.SessionRecords
		all.ReadRecords += n.ReadRecords
		again += s.takeoverReads(n)
		from := 0
		for i, at := range n.SessionOpens {
			for at.Sub(n.SessionOpens[from]) >= time.Second {
				from++
			}
			if n := i - from + 1; n > opensBurst+opensPerSecond {
				s.failf("I12: %d sessions opened in a second", n)
			}
		}
	}
	records := 0
	for _, st := range s.streams {
		records += len(s.mem.Records(shard.StreamID(st.name)))
	}
	if gaps := s.metricOfAll("fantail_relay_gaps_total"); gaps > 0 {
		s.failf("I1: %v times what was relayed did not join", gaps)
	}
	if broken := s.metricOfAll("fantail_log_broken_total"); broken > 0 {
		s.failf("I2: %v batches were found on others than they were decided on", broken)
	}
	musts, elsewhere := s.metricOfAll("fantail_owner_overrides_total"), s.metricOfAll("fantail_not_owner_total")
	again -= w.takeoverReads
	twice := all.SessionRecords - records
	s.logEvent("costs", "moved", w.moved, "excess", w.excessSessions, "records", records, "read", all.ReadRecords,
		"taken over", again, "followed twice", twice, "musts", musts, "elsewhere", elsewhere)
	if s.plan.mix != mixPlanned {
		return
	}
	if w.excessSessions > time.Duration(w.moved+1)*(maxExcessPerMove+s.clockSpread()) {
		s.failf("I5: sessions beyond need for %v in all, and %d streams moved", w.excessSessions, w.moved)
	}
	if s.plan.skewed { // a node that is ahead takes streams that are not available yet
		return
	}
	if again > 0 || twice > w.moved {
		s.failf("I6: %d records read again and %d followed twice, of %d, where %d streams moved",
			again, twice, records, w.moved)
	}
	if musts > 0 || elsewhere > float64(w.moved) {
		s.failf("I8: %v requests to the wrong owner, %v that insisted, where %d streams moved",
			elsewhere, musts, w.moved)
	}
}

// metricOfAll returns the sum of a metric over all processes that ever ran.
func (s *sim) metricOfAll(name string) (v float64) {
	for _, p := range s.procs {
		v += p.gauge(name)
	}
	return v
}

// Of drainGroup readers or more of a stopping node the last ends at least minDrainSpread after the
// first: each has its own turn.
const (
	drainGroup     = 4
	minDrainSpread = 100 * time.Millisecond
)

// checkDrains checks I4: the readers of a stopping node are ended one by one.
func (s *sim) checkDrains() {
	for _, p := range s.procs {
		if len(p.drainedReaders) < drainGroup || p.dead.Load() || s.plan.mix != mixPlanned {
			continue
		}
		slices.SortFunc(p.drainedReaders, time.Time.Compare)
		if apart := p.drainedReaders[len(p.drainedReaders)-1].Sub(p.drainedReaders[0]); apart < minDrainSpread {
			s.failf("I4: %s ended %d readers within %v", p.n.name, len(p.drainedReaders), apart)
		}
	}
}

// The token bucket of session opens (package shard).
const (
	opensPerSecond = 200
	opensBurst     = 200
)
