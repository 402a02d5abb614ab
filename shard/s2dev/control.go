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

// replyProvisioned answers a create (always 201) or an ensure (201 only if it created).
func (c *apiCall) replyProvisioned(how string, ensure bool, info any) *apiError {
	c.w.Header().Set("S2-Provision-Result", how)
	if ensure && how != provisionCreated {
		return c.replyJSON(http.StatusOK, info)
	}
	return c.replyJSON(http.StatusCreated, info)
}

func (c *apiCall) requestToken() (string, *apiError) {
	t := c.r.Header.Get("S2-Request-Token")
	if len(t) > maxRequestToken {
		return "", newError("bad_header", "request token exceeds %d bytes", maxRequestToken)
	}
	return t, nil
}

func (c *apiCall) listParams() (prefix, after string, limit int, err *apiError) {
	q := c.r.URL.Query()
	n, err := queryNumber(q, "limit")
	limit = maxListPage
	if n != nil && *n > 0 && *n < maxListPage {
		limit = int(*n)
	}
	prefix, after = q.Get("prefix"), q.Get("start_after")
	if !utf8.ValidString(prefix) || !utf8.ValidString(after) {
		return "", "", 0, newError("bad_query", "prefix and start_after must be valid UTF-8")
	}
	return prefix, after, limit, err
}

func (c *apiCall) routeBasins() *apiError {
	c.meter.countOp(&c.meter.basinCalls, OpBasin)
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
		return newError("bad_path", "%s", err.message)
	}
	switch c.r.Method {
	case http.MethodGet:
		meta, err := c.catalogue.findBasin(name)
		if err != nil {
			return err
		}
		return c.replyJSON(http.StatusOK, meta.Config)
	case http.MethodPut:
		return c.ensureBasin(name)
	case http.MethodPatch:
		var f patchFields
		if err := c.decodeBody(&f, false); err != nil {
			return err
		}
		config, err := c.catalogue.patchBasin(name, f)
		if err != nil {
			return err
		}
		return c.replyJSON(http.StatusOK, config)
	case http.MethodDelete:
		if err := c.catalogue.deleteBasin(name); err != nil {
			return err
		}
		c.w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return noSuchMethod()
}

func (c *apiCall) listBasins() *apiError {
	prefix, after, limit, err := c.listParams()
	if err != nil {
		return err
	}
	metas, more := c.catalogue.listBasins(prefix, after, limit)
	infos := make([]basinInfo, len(metas))
	for i, m := range metas {
		infos[i] = m.info()
	}
	return c.replyJSON(http.StatusOK, map[string]any{"basins": infos, "has_more": more})
}

func (c *apiCall) createBasin() *apiError {
	var body struct {
		Basin  string      `json:"basin"`
		Config basinConfig `json:"config"`
	}
	if err := c.decodeBody(&body, false); err != nil {
		return err
	}
	token, err := c.requestToken()
	if err != nil {
		return err
	}
	if err := checkBasinName(body.Basin); err != nil {
		return err
	}
	if err := body.Config.validate(); err != nil {
		return err
	}
	meta, how, err := c.catalogue.provisionBasin(body.Basin, body.Config, token, false)
	if err != nil {
		return err
	}
	return c.replyProvisioned(how, false, meta.info())
}

func (c *apiCall) ensureBasin(name string) *apiError {
	var body struct {
		Config basinConfig `json:"config"`
	}
	if err := c.decodeBody(&body, true); err != nil {
		return err
	}
	if err := body.Config.validate(); err != nil {
		return err
	}
	meta, how, err := c.catalogue.provisionBasin(name, body.Config, "", true)
	if err != nil {
		return err
	}
	return c.replyProvisioned(how, true, meta.info())
}

func (c *apiCall) routeStreams() *apiError {
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
		return newError("bad_path", "%s", err.message)
	}
	switch {
	case len(c.path) == 2:
		return c.routeStream(basin, name)
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

func (c *apiCall) listStreams(basin string) *apiError {
	c.meter.countOp(c.catalogue.usageOf(basin, ""), OpListStreams)
	prefix, after, limit, err := c.listParams()
	if err != nil {
		return err
	}
	metas, more, err := c.catalogue.listStreams(basin, prefix, after, limit)
	if err != nil {
		return err
	}
	infos := make([]streamInfo, len(metas))
	for i, m := range metas {
		infos[i] = m.info()
	}
	return c.replyJSON(http.StatusOK, map[string]any{"streams": infos, "has_more": more})
}

// runWithFaults runs an operation of the control plane, with the faults that come before it.
func (c *apiCall) runWithFaults(basin, name string, op Op, do func() *apiError) *apiError {
	// The operation is counted last: only then the stream that it creates exists. The answer is
	// buffered until then.
	defer func() { c.meter.countOp(c.catalogue.usageOf(basin, name), op) }()
	lost, err := c.faults.applyBefore(c.r.Context(), name, op, nil)
	if lost {
		abortConnection()
	}
	if err != nil {
		return err
	}
	return do()
}

// applyFaultsAfter applies the faults that come after an operation, before its answer.
func (c *apiCall) applyFaultsAfter(name string, op Op) {
	if c.faults.applyAfter(c.r.Context(), name, op) {
		abortConnection()
	}
}

func (c *apiCall) createStream(basin string) *apiError {
	var body struct {
		Stream string        `json:"stream"`
		Config *streamConfig `json:"config"`
	}
	if err := c.decodeBody(&body, false); err != nil {
		return err
	}
	token, err := c.requestToken()
	if err != nil {
		return err
	}
	if err := checkStreamName(body.Stream); err != nil {
		return err
	}
	if err := body.Config.validate(); err != nil {
		return err
	}
	return c.runWithFaults(basin, body.Stream, OpCreateStream, func() *apiError {
		meta, how, err := c.catalogue.provisionStream(basin, body.Stream, body.Config, token, false)
		if err != nil {
			return err
		}
		c.applyFaultsAfter(body.Stream, OpCreateStream)
		return c.replyProvisioned(how, false, meta.info())
	})
}

func (c *apiCall) routeStream(basin, name string) *apiError {
	switch c.r.Method {
	case http.MethodGet:
		return c.runWithFaults(basin, name, OpStreamConfig, func() *apiError {
			st, err := c.catalogue.findStream(basin, name)
			if err != nil {
				return err
			}
			st.mu.Lock()
			config := st.meta.Config
			st.mu.Unlock()
			return c.replyJSON(http.StatusOK, config)
		})
	case http.MethodPut:
		return c.ensureStream(basin, name)
	case http.MethodPatch:
		var f patchFields
		if err := c.decodeBody(&f, false); err != nil {
			return err
		}
		return c.runWithFaults(basin, name, OpStreamConfig, func() *apiError {
			config, err := c.catalogue.patchStream(basin, name, f)
			if err != nil {
				return err
			}
			return c.replyJSON(http.StatusOK, config)
		})
	case http.MethodDelete:
		return c.runWithFaults(basin, name, OpDeleteStream, func() *apiError {
			if err := c.catalogue.deleteStream(basin, name); err != nil {
				return err
			}
			c.applyFaultsAfter(name, OpDeleteStream)
			c.w.WriteHeader(http.StatusAccepted)
			return nil
		})
	}
	return noSuchMethod()
}

func (c *apiCall) ensureStream(basin, name string) *apiError {
	var config *streamConfig
	if err := c.decodeBody(&config, true); err != nil {
		return err
	}
	if err := config.validate(); err != nil {
		return err
	}
	return c.runWithFaults(basin, name, OpEnsureStream, func() *apiError {
		meta, how, err := c.catalogue.provisionStream(basin, name, config, "", true)
		if err != nil {
			return err
		}
		c.applyFaultsAfter(name, OpEnsureStream)
		return c.replyProvisioned(how, true, meta.info())
	})
}
