package s2dev

import (
	"net/http"
	"time"
	"unicode/utf8"
)

type basinInfo struct {
	Name     string     `json:"name"`
	Location *string    `json:"location"`
	Created  time.Time  `json:"created_at"`
	Deleted  *time.Time `json:"deleted_at"`
	State    string     `json:"state"`
}

type streamInfo struct {
	Name    string     `json:"name"`
	Created time.Time  `json:"created_at"`
	Deleted *time.Time `json:"deleted_at"`
	Cipher  *string    `json:"cipher"`
}

func (m basinMeta) info() basinInfo {
	return basinInfo{Name: m.Name, Created: m.Created, State: "active"}
}

func (m streamMeta) info() streamInfo {
	return streamInfo{Name: m.Name, Created: m.Created, Cipher: m.Cipher}
}

// provisioned answers a create (always 201) or an ensure (201 only if it created).
func (c *call) provisioned(how string, ensure bool, info any) *apiError {
	c.w.Header().Set("S2-Provision-Result", how)
	if ensure && how != provisionCreated {
		return c.json(http.StatusOK, info)
	}
	return c.json(http.StatusCreated, info)
}

func (c *call) requestToken() (string, *apiError) {
	t := c.r.Header.Get("S2-Request-Token")
	if len(t) > maxRequestToken {
		return "", fail("bad_header", "request token exceeds %d bytes", maxRequestToken)
	}
	return t, nil
}

func (c *call) listing() (prefix, after string, limit int, err *apiError) {
	q := c.r.URL.Query()
	n, err := number(q, "limit")
	limit = maxListPage
	if n != nil && *n > 0 && *n < maxListPage {
		limit = int(*n)
	}
	prefix, after = q.Get("prefix"), q.Get("start_after")
	if !utf8.ValidString(prefix) || !utf8.ValidString(after) {
		return "", "", 0, fail("bad_query", "prefix and start_after must be valid UTF-8")
	}
	return prefix, after, limit, err
}

func (c *call) basins() *apiError {
	c.meter.op(&c.meter.basins, OpBasin)
	if len(c.path) == 1 {
		switch c.r.Method {
		case http.MethodGet:
			return c.listBasins()
		case http.MethodPost:
			return c.createBasin()
		}
		return noSuchMethod()
	}
	if len(c.path) != 2 {
		return noSuchRoute()
	}
	name := c.path[1]
	if err := checkBasinName(name); err != nil {
		return fail("bad_path", "%s", err.message)
	}
	switch c.r.Method {
	case http.MethodGet:
		meta, err := c.store.basin(name)
		if err != nil {
			return err
		}
		return c.json(http.StatusOK, meta.Config)
	case http.MethodPut:
		return c.ensureBasin(name)
	case http.MethodPatch:
		var f fields
		if err := c.decode(&f, false); err != nil {
			return err
		}
		config, err := c.store.patchBasin(name, f)
		if err != nil {
			return err
		}
		return c.json(http.StatusOK, config)
	case http.MethodDelete:
		if err := c.store.deleteBasin(name); err != nil {
			return err
		}
		c.w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return noSuchMethod()
}

func (c *call) listBasins() *apiError {
	prefix, after, limit, err := c.listing()
	if err != nil {
		return err
	}
	metas, more := c.store.listBasins(prefix, after, limit)
	infos := make([]basinInfo, len(metas))
	for i, m := range metas {
		infos[i] = m.info()
	}
	return c.json(http.StatusOK, map[string]any{"basins": infos, "has_more": more})
}

func (c *call) createBasin() *apiError {
	var body struct {
		Basin  string      `json:"basin"`
		Config basinConfig `json:"config"`
	}
	if err := c.decode(&body, false); err != nil {
		return err
	}
	token, err := c.requestToken()
	if err != nil {
		return err
	}
	if err := checkBasinName(body.Basin); err != nil {
		return err
	}
	if err := body.Config.check(); err != nil {
		return err
	}
	meta, how, err := c.store.provisionBasin(body.Basin, body.Config, token, false)
	if err != nil {
		return err
	}
	return c.provisioned(how, false, meta.info())
}

func (c *call) ensureBasin(name string) *apiError {
	var body struct {
		Config basinConfig `json:"config"`
	}
	if err := c.decode(&body, true); err != nil {
		return err
	}
	if err := body.Config.check(); err != nil {
		return err
	}
	meta, how, err := c.store.provisionBasin(name, body.Config, "", true)
	if err != nil {
		return err
	}
	return c.provisioned(how, true, meta.info())
}

func (c *call) streams() *apiError {
	basin, err := c.basinHeader()
	if err != nil {
		return err
	}
	if len(c.path) == 1 {
		switch c.r.Method {
		case http.MethodGet:
			return c.listStreams(basin)
		case http.MethodPost:
			return c.createStream(basin)
		}
		return noSuchMethod()
	}
	name := c.path[1]
	if err := checkStreamName(name); err != nil {
		return fail("bad_path", "%s", err.message)
	}
	switch {
	case len(c.path) == 2:
		return c.oneStream(basin, name)
	case len(c.path) == 3 && c.path[2] == "records":
		switch c.r.Method {
		case http.MethodGet:
			return c.readRecords(basin, name)
		case http.MethodPost:
			return c.appendRecords(basin, name)
		}
		return noSuchMethod()
	case len(c.path) == 4 && c.path[2] == "records" && c.path[3] == "tail":
		if c.r.Method != http.MethodGet {
			return noSuchMethod()
		}
		return c.checkTail(basin, name)
	}
	return noSuchRoute()
}

func (c *call) listStreams(basin string) *apiError {
	c.meter.op(c.store.tally(basin, ""), OpListStreams)
	prefix, after, limit, err := c.listing()
	if err != nil {
		return err
	}
	metas, more, err := c.store.listStreams(basin, prefix, after, limit)
	if err != nil {
		return err
	}
	infos := make([]streamInfo, len(metas))
	for i, m := range metas {
		infos[i] = m.info()
	}
	return c.json(http.StatusOK, map[string]any{"streams": infos, "has_more": more})
}

// around runs an operation of the control plane between its faults.
func (c *call) around(basin, name string, op Op, do func() *apiError) *apiError {
	// At the end: only then what it makes is there. The answer is buffered until after it.
	defer func() { c.meter.op(c.store.tally(basin, name), op) }()
	lost, err := c.faults.before(c.r.Context(), name, op, nil)
	if lost {
		cut()
	}
	if err != nil {
		return err
	}
	return do()
}

// done applies the faults that come after an operation, before its answer.
func (c *call) done(name string, op Op) {
	if c.faults.after(c.r.Context(), name, op) {
		cut()
	}
}

func (c *call) createStream(basin string) *apiError {
	var body struct {
		Stream string        `json:"stream"`
		Config *streamConfig `json:"config"`
	}
	if err := c.decode(&body, false); err != nil {
		return err
	}
	token, err := c.requestToken()
	if err != nil {
		return err
	}
	if err := checkStreamName(body.Stream); err != nil {
		return err
	}
	if err := body.Config.check(); err != nil {
		return err
	}
	return c.around(basin, body.Stream, OpCreateStream, func() *apiError {
		meta, how, err := c.store.provisionStream(basin, body.Stream, body.Config, token, false)
		if err != nil {
			return err
		}
		c.done(body.Stream, OpCreateStream)
		return c.provisioned(how, false, meta.info())
	})
}

func (c *call) oneStream(basin, name string) *apiError {
	switch c.r.Method {
	case http.MethodGet:
		return c.around(basin, name, OpStreamConfig, func() *apiError {
			st, err := c.store.find(basin, name)
			if err != nil {
				return err
			}
			st.mu.Lock()
			config := st.meta.Config
			st.mu.Unlock()
			return c.json(http.StatusOK, config)
		})
	case http.MethodPut:
		return c.ensureStream(basin, name)
	case http.MethodPatch:
		var f fields
		if err := c.decode(&f, false); err != nil {
			return err
		}
		return c.around(basin, name, OpStreamConfig, func() *apiError {
			config, err := c.store.patchStream(basin, name, f)
			if err != nil {
				return err
			}
			return c.json(http.StatusOK, config)
		})
	case http.MethodDelete:
		return c.around(basin, name, OpDeleteStream, func() *apiError {
			if err := c.store.deleteStream(basin, name); err != nil {
				return err
			}
			c.done(name, OpDeleteStream)
			c.w.WriteHeader(http.StatusAccepted)
			return nil
		})
	}
	return noSuchMethod()
}

func (c *call) ensureStream(basin, name string) *apiError {
	var config *streamConfig
	if err := c.decode(&config, true); err != nil {
		return err
	}
	if err := config.check(); err != nil {
		return err
	}
	return c.around(basin, name, OpEnsureStream, func() *apiError {
		meta, how, err := c.store.provisionStream(basin, name, config, "", true)
		if err != nil {
			return err
		}
		c.done(name, OpEnsureStream)
		return c.provisioned(how, true, meta.info())
	})
}
