package s2dev

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"
)

// The values of the s2-provision-result header.
const (
	provisionCreated = "created"
	provisionUpdated = "updated"
	provisionNoop    = "noop"
)

// catalogue holds every basin and stream by name. Its locks cover names and configurations. A
// stream's own lock covers its records.
type catalogue struct {
	storage storage
	now     func() time.Time

	// changeMu is held during a change of the catalogue, until the change is durable. Its holder
	// may read without mu. Nothing is waited for under mu, since every append and read takes mu.
	changeMu sync.Mutex
	mu       sync.RWMutex // after changeMu, before a stream's
	basins   map[string]*basinEntry
}

type basinEntry struct {
	meta    basinMeta
	usage   *StreamUsage // of listings
	streams map[string]*stream
	names   nameIndex // of streams
}

func newBasin(meta basinMeta) *basinEntry {
	return &basinEntry{meta: meta, usage: new(StreamUsage), streams: map[string]*stream{}}
}

func openCatalogue(back storage, now func() time.Time) (*catalogue, error) {
	c := &catalogue{storage: back, now: now, basins: map[string]*basinEntry{}}
	basins, streams, err := back.loadCatalogue()
	if err != nil {
		return nil, err
	}
	for _, b := range basins {
		c.basins[b.Name] = newBasin(b)
	}
	for _, m := range streams {
		log, h, err := back.openLog(m.ID)
		if err != nil {
			return nil, err
		}
		if b := c.basins[m.Basin]; b != nil {
			b.streams[m.Name] = newStream(m, log, h, now())
			b.names.add(m.Name)
		}
	}
	return c, nil
}

func idempotencyKey(token string, config any) string {
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

// provisionBasin creates a basin. With ensure, it creates or reconfigures it.
func (c *catalogue) provisionBasin(
	name string, config basinConfig, token string, ensure bool,
) (basinMeta, string, *apiError) {
	config.Defaults = config.Defaults.normalized()
	key := idempotencyKey(token, config)
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	b := c.basins[name]
	switch {
	case b == nil:
		meta := basinMeta{Name: name, Config: config, Created: c.now().UTC(), Key: key}
		if err := c.storage.putBasin(meta); err != nil {
			return meta, "", newError("storage", "%s", err)
		}
		c.update(func() { c.basins[name] = newBasin(meta) })
		return meta, provisionCreated, nil
	case !ensure && key != "" && key == b.meta.Key, ensure && equalJSON(b.meta.Config, config):
		return b.meta, provisionNoop, nil
	case !ensure:
		return b.meta, "", newError("resource_already_exists", "basin `%s` already exists", name)
	}
	meta := b.meta
	meta.Config = config
	if err := c.storage.putBasin(meta); err != nil {
		return meta, "", newError("storage", "%s", err)
	}
	c.update(func() { b.meta = meta })
	return meta, provisionUpdated, nil
}

// provisionStream creates a stream. With ensure, it creates or reconfigures it.
func (c *catalogue) provisionStream(
	basin, name string, given *streamConfig, token string, ensure bool,
) (streamMeta, string, *apiError) {
	key := idempotencyKey(token, given.normalized())
	if ensure {
		if meta, done := c.alreadyEnsured(basin, name, given); done {
			return meta, provisionNoop, nil
		}
	}
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	b := c.basins[basin]
	if b == nil {
		return streamMeta{}, "", basinNotFound(basin)
	}
	config := given.withDefaults(b.meta.Config.Defaults)
	st := b.streams[name]
	if st == nil {
		meta := streamMeta{
			Basin: basin, Name: name, Config: config, Cipher: b.meta.Config.Cipher,
			Created: c.now().UTC(), Key: key,
		}
		return c.createStream(b, meta)
	}
	switch {
	case st.isDeleted(): // and the storage failed, or the name would be free
		return st.meta, "", streamDeleted()
	case !ensure && key != "" && key == st.meta.Key, ensure && equalJSON(st.meta.Config, config):
		return st.meta, provisionNoop, nil
	case !ensure:
		return st.meta, "", newError("resource_already_exists",
			"stream `%s` in basin `%s` already exists", name, basin)
	}
	meta := st.meta
	meta.Config = config
	if err := c.storage.putStream(meta); err != nil {
		return meta, "", newError("storage", "%s", err)
	}
	st.setMeta(meta)
	return meta, provisionUpdated, nil
}

// alreadyEnsured reports whether an ensure has nothing to change, which is the common case. It does
// not wait for changes under way.
func (c *catalogue) alreadyEnsured(basin, name string, config *streamConfig) (streamMeta, bool) {
	b, _ := c.findBasin(basin)
	st, err := c.findStream(basin, name)
	if err != nil {
		return streamMeta{}, false
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.meta, !st.deleted && equalJSON(st.meta.Config, config.withDefaults(b.Config.Defaults))
}

// update calls change with mu held. The caller holds changeMu.
func (c *catalogue) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *catalogue) createStream(b *basinEntry, meta streamMeta) (streamMeta, string, *apiError) {
	id, err := c.storage.newID()
	if err != nil {
		return meta, "", newError("storage", "%s", err)
	}
	meta.ID = id
	log, h, err := c.storage.openLog(id)
	if err == nil {
		err = c.storage.putStream(meta)
	}
	if err != nil {
		return meta, "", newError("storage", "%s", err)
	}
	st := newStream(meta, log, h, c.now())
	c.update(func() {
		b.streams[meta.Name] = st
		b.names.add(meta.Name)
	})
	return meta, provisionCreated, nil
}

func (c *catalogue) findBasin(name string) (basinMeta, *apiError) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.basins[name]
	if b == nil {
		return basinMeta{}, basinNotFound(name)
	}
	return b.meta, nil
}

func (c *catalogue) patchBasin(name string, f patchFields) (basinConfig, *apiError) {
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	b := c.basins[name]
	if b == nil {
		return basinConfig{}, basinNotFound(name)
	}
	meta := b.meta
	var bad *apiError
	if meta.Config, bad = meta.Config.patched(f); bad != nil {
		return basinConfig{}, bad
	}
	meta.Config.Defaults = meta.Config.Defaults.normalized()
	if err := c.storage.putBasin(meta); err != nil {
		return basinConfig{}, newError("storage", "%s", err)
	}
	c.update(func() { b.meta = meta })
	return meta.Config, nil
}

// deleteBasin removes the basin and its streams immediately.
func (c *catalogue) deleteBasin(name string) *apiError {
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	b := c.basins[name]
	if b == nil {
		return basinNotFound(name)
	}
	for _, st := range b.streams {
		if err := c.dropStream(b, st); err != nil {
			return err
		}
	}
	if err := c.storage.dropBasin(name); err != nil {
		return newError("storage", "%s", err)
	}
	c.update(func() { delete(c.basins, name) })
	return nil
}

func (c *catalogue) findStream(basin, name string) (*stream, *apiError) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.basins[basin]
	if b == nil {
		return nil, basinNotFound(basin)
	}
	st := b.streams[name]
	if st == nil {
		return nil, streamNotFound(basin, name)
	}
	return st, nil
}

// openOrCreate finds a stream. It creates a missing stream if mayCreate allows it for the basin.
func (c *catalogue) openOrCreate(
	basin, name string, mayCreate func(basinConfig) bool,
) (st *stream, created bool, err *apiError) {
	st, err = c.findStream(basin, name)
	if err == nil {
		return st, false, nil
	}
	meta, missing := c.findBasin(basin)
	if missing != nil {
		return nil, false, missing
	}
	if !mayCreate(meta.Config) {
		return nil, false, err
	}
	if err := checkStreamName(name); err != nil {
		return nil, false, err
	}
	_, how, bad := c.provisionStream(basin, name, nil, "", false)
	if bad != nil && bad.code != "resource_already_exists" {
		return nil, false, bad
	}
	st, err = c.findStream(basin, name)
	return st, how == provisionCreated, err
}

func (c *catalogue) patchStream(basin, name string, f patchFields) (streamConfig, *apiError) {
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	b := c.basins[basin]
	if b == nil {
		return streamConfig{}, basinNotFound(basin)
	}
	st := b.streams[name]
	if st == nil {
		return streamConfig{}, streamNotFound(basin, name)
	}
	if st.isDeleted() {
		return streamConfig{}, streamDeleted()
	}
	config, bad := st.meta.Config.patched(f)
	if bad != nil {
		return streamConfig{}, bad
	}
	meta := st.meta
	meta.Config = config.withDefaults(b.meta.Config.Defaults)
	if err := c.storage.putStream(meta); err != nil {
		return streamConfig{}, newError("storage", "%s", err)
	}
	st.setMeta(meta)
	return meta.Config, nil
}

func (c *catalogue) deleteStream(basin, name string) *apiError {
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	b := c.basins[basin]
	if b == nil {
		return basinNotFound(basin)
	}
	st := b.streams[name]
	if st == nil {
		return streamNotFound(basin, name)
	}
	return c.dropStream(b, st)
}

// dropStream deletes a stream. The caller holds changeMu. The row is deleted before the name is
// free, so that a crash cannot bring back a stream after its deletion was acknowledged.
func (c *catalogue) dropStream(b *basinEntry, st *stream) *apiError {
	st.markDeleted()
	if err := c.storage.dropStream(st.meta); err != nil {
		return newError("storage", "%s", err)
	}
	st.log.drop()
	c.update(func() {
		delete(b.streams, st.name)
		b.names.remove()
	})
	return nil
}

// allStreams returns every stream, for the sweeper.
func (c *catalogue) allStreams() (out []*stream) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, b := range c.basins {
		for _, st := range b.streams {
			out = append(out, st)
		}
	}
	return out
}
