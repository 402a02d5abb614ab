package s2dev

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"
)

// The answers of the s2-provision-result header.
const (
	provisionCreated = "created"
	provisionUpdated = "updated"
	provisionNoop    = "noop"
)

// store is the catalogue: every basin and stream by name. Its lock covers names and
// configurations; a stream's own lock covers its records.
type store struct {
	back backing
	now  func() time.Time

	// changing is held by whoever changes the catalogue, until that is durable; who holds it may
	// read without mu. Every append and read takes mu, so nothing is waited for under that.
	changing sync.Mutex
	mu       sync.RWMutex // after changing, before a stream's
	basins   map[string]*basinEntry
}

type basinEntry struct {
	meta    basinMeta
	used    *StreamUsage // listings
	streams map[string]*stream
}

func newBasin(meta basinMeta) *basinEntry {
	return &basinEntry{meta: meta, used: new(StreamUsage), streams: map[string]*stream{}}
}

func openStore(back backing, now func() time.Time) (*store, error) {
	s := &store{back: back, now: now, basins: map[string]*basinEntry{}}
	basins, streams, err := back.load()
	if err != nil {
		return nil, err
	}
	for _, b := range basins {
		s.basins[b.Name] = newBasin(b)
	}
	for _, m := range streams {
		log, h, err := back.log(m.ID)
		if err != nil {
			return nil, err
		}
		if b := s.basins[m.Basin]; b != nil {
			b.streams[m.Name] = newStream(m, log, h, now())
		}
	}
	return s, nil
}

func creationKey(token string, config any) string {
	if token == "" {
		return ""
	}
	b, err := json.Marshal(config)
	if err != nil {
		panic("s2dev: configuration: " + err.Error())
	}
	sum := sha256.Sum256(append([]byte(token+"\x00"), b...))
	return hex.EncodeToString(sum[:])
}

// provisionBasin creates a basin, or with ensure makes it have the configuration.
func (s *store) provisionBasin(
	name string, c basinConfig, token string, ensure bool,
) (basinMeta, string, *apiError) {
	c.Defaults = c.Defaults.normal()
	key := creationKey(token, c)
	s.changing.Lock()
	defer s.changing.Unlock()
	b := s.basins[name]
	switch {
	case b == nil:
		meta := basinMeta{Name: name, Config: c, Created: s.now().UTC(), Key: key}
		if err := s.back.putBasin(meta); err != nil {
			return meta, "", fail("storage", "%s", err)
		}
		s.set(func() { s.basins[name] = newBasin(meta) })
		return meta, provisionCreated, nil
	case !ensure && key != "" && key == b.meta.Key, ensure && sameJSON(b.meta.Config, c):
		return b.meta, provisionNoop, nil
	case !ensure:
		return b.meta, "", fail("resource_already_exists", "basin `%s` already exists", name)
	}
	meta := b.meta
	meta.Config = c
	if err := s.back.putBasin(meta); err != nil {
		return meta, "", fail("storage", "%s", err)
	}
	s.set(func() { b.meta = meta })
	return meta, provisionUpdated, nil
}

// provisionStream creates a stream, or with ensure makes it have the configuration.
func (s *store) provisionStream(
	basin, name string, c *streamConfig, token string, ensure bool,
) (streamMeta, string, *apiError) {
	key := creationKey(token, c.normal())
	if ensure {
		if meta, done := s.settled(basin, name, c); done {
			return meta, provisionNoop, nil
		}
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	b := s.basins[basin]
	if b == nil {
		return streamMeta{}, "", basinMissing(basin)
	}
	config := c.resolve(b.meta.Config.Defaults)
	st := b.streams[name]
	if st == nil {
		meta := streamMeta{
			Basin: basin, Name: name, Config: config, Cipher: b.meta.Config.Cipher,
			Created: s.now().UTC(), Key: key,
		}
		return s.create(b, meta)
	}
	switch {
	case st.isGone(): // and storage failed, or its name would be free
		return st.meta, "", streamDeleted()
	case !ensure && key != "" && key == st.meta.Key, ensure && sameJSON(st.meta.Config, config):
		return st.meta, provisionNoop, nil
	case !ensure:
		return st.meta, "", fail("resource_already_exists",
			"stream `%s` in basin `%s` already exists", name, basin)
	}
	meta := st.meta
	meta.Config = config
	if err := s.back.putStream(meta); err != nil {
		return meta, "", fail("storage", "%s", err)
	}
	st.set(meta)
	return meta, provisionUpdated, nil
}

// settled reports whether an ensure has nothing to change: the common one, and it waits for
// nobody's change.
func (s *store) settled(basin, name string, c *streamConfig) (streamMeta, bool) {
	b, _ := s.basin(basin)
	st, err := s.find(basin, name)
	if err != nil {
		return streamMeta{}, false
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.meta, !st.gone && sameJSON(st.meta.Config, c.resolve(b.Config.Defaults))
}

// set changes what mu guards; changing is held.
func (s *store) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *store) create(b *basinEntry, meta streamMeta) (streamMeta, string, *apiError) {
	id, err := s.back.newID()
	if err != nil {
		return meta, "", fail("storage", "%s", err)
	}
	meta.ID = id
	log, h, err := s.back.log(id)
	if err == nil {
		err = s.back.putStream(meta)
	}
	if err != nil {
		return meta, "", fail("storage", "%s", err)
	}
	st := newStream(meta, log, h, s.now())
	s.set(func() { b.streams[meta.Name] = st })
	return meta, provisionCreated, nil
}

func (s *store) basin(name string) (basinMeta, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.basins[name]
	if b == nil {
		return basinMeta{}, basinMissing(name)
	}
	return b.meta, nil
}

func (s *store) patchBasin(name string, f fields) (basinConfig, *apiError) {
	s.changing.Lock()
	defer s.changing.Unlock()
	b := s.basins[name]
	if b == nil {
		return basinConfig{}, basinMissing(name)
	}
	meta := b.meta
	var bad *apiError
	if meta.Config, bad = meta.Config.patched(f); bad != nil {
		return basinConfig{}, bad
	}
	meta.Config.Defaults = meta.Config.Defaults.normal()
	if err := s.back.putBasin(meta); err != nil {
		return basinConfig{}, fail("storage", "%s", err)
	}
	s.set(func() { b.meta = meta })
	return meta.Config, nil
}

// deleteBasin takes the basin and its streams away at once.
func (s *store) deleteBasin(name string) *apiError {
	s.changing.Lock()
	defer s.changing.Unlock()
	b := s.basins[name]
	if b == nil {
		return basinMissing(name)
	}
	for _, st := range b.streams {
		if err := s.drop(b, st); err != nil {
			return err
		}
	}
	if err := s.back.dropBasin(name); err != nil {
		return fail("storage", "%s", err)
	}
	s.set(func() { delete(s.basins, name) })
	return nil
}

func (s *store) find(basin, name string) (*stream, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.basins[basin]
	if b == nil {
		return nil, basinMissing(basin)
	}
	st := b.streams[name]
	if st == nil {
		return nil, streamMissing(basin, name)
	}
	return st, nil
}

// open finds a stream, or creates it if its basin says so.
func (s *store) open(
	basin, name string, auto func(basinConfig) bool,
) (st *stream, created bool, err *apiError) {
	st, err = s.find(basin, name)
	if err == nil {
		return st, false, nil
	}
	meta, missing := s.basin(basin)
	if missing != nil {
		return nil, false, missing
	}
	if !auto(meta.Config) {
		return nil, false, err
	}
	if err := checkStreamName(name); err != nil {
		return nil, false, err
	}
	_, how, bad := s.provisionStream(basin, name, nil, "", false)
	if bad != nil && bad.code != "resource_already_exists" {
		return nil, false, bad
	}
	st, err = s.find(basin, name)
	return st, how == provisionCreated, err
}

func (s *store) patchStream(basin, name string, f fields) (streamConfig, *apiError) {
	s.changing.Lock()
	defer s.changing.Unlock()
	b := s.basins[basin]
	if b == nil {
		return streamConfig{}, basinMissing(basin)
	}
	st := b.streams[name]
	if st == nil {
		return streamConfig{}, streamMissing(basin, name)
	}
	if st.isGone() {
		return streamConfig{}, streamDeleted()
	}
	c, bad := st.meta.Config.patched(f)
	if bad != nil {
		return streamConfig{}, bad
	}
	meta := st.meta
	meta.Config = c.resolve(b.meta.Config.Defaults)
	if err := s.back.putStream(meta); err != nil {
		return streamConfig{}, fail("storage", "%s", err)
	}
	st.set(meta)
	return meta.Config, nil
}

func (s *store) deleteStream(basin, name string) *apiError {
	s.changing.Lock()
	defer s.changing.Unlock()
	b := s.basins[basin]
	if b == nil {
		return basinMissing(basin)
	}
	st := b.streams[name]
	if st == nil {
		return streamMissing(basin, name)
	}
	return s.drop(b, st)
}

// drop must be called with changing held. The row goes before the name is free, so that a crash
// cannot bring back a stream whose deletion was acknowledged.
func (s *store) drop(b *basinEntry, st *stream) *apiError {
	st.end()
	if err := s.back.dropStream(st.meta); err != nil {
		return fail("storage", "%s", err)
	}
	st.log.drop()
	s.set(func() { delete(b.streams, st.name) })
	return nil
}
