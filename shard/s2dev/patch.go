package s2dev

import (
	"bytes"
	"encoding/json"
)

// fields is a PATCH body: a key that is absent keeps its setting, null takes the default back, a
// value replaces it. Go's decoder cannot tell the first two apart in a struct.
type fields map[string]json.RawMessage

func isNull(raw json.RawMessage) bool { return bytes.Equal(bytes.TrimSpace(raw), []byte("null")) }

func parseFields(raw []byte) (fields, *apiError) {
	var f fields
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fail("bad_json", "%s", err)
	}
	return f, nil
}

// set applies key to *to: absent leaves it, null makes it nil.
func set[T any](f fields, key string, to **T) *apiError {
	raw, ok := f[key]
	if !ok {
		return nil
	}
	if isNull(raw) {
		*to = nil
		return nil
	}
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		return jsonError(err)
	}
	*to = v
	return nil
}

func setBool(f fields, key string, to *bool) *apiError {
	v := to
	if err := set(f, key, &v); err != nil {
		return err
	}
	if v == nil {
		v = new(false)
	}
	*to = *v
	return nil
}

// patched returns c changed by a PATCH body; c is left as it was.
func (c *streamConfig) patched(f fields) (*streamConfig, *apiError) {
	n := *or(c, &streamConfig{})
	if err := set(f, "storage_class", &n.StorageClass); err != nil {
		return nil, err
	}
	if err := set(f, "retention_policy", &n.Retention); err != nil {
		return nil, err
	}
	if err := patchNested(f, "timestamping", &n.Timestamping, patchTimestamping); err != nil {
		return nil, err
	}
	if err := patchNested(f, "delete_on_empty", &n.DeleteOnEmpty, patchEmpty); err != nil {
		return nil, err
	}
	return &n, n.check()
}

func patchNested[T any](f fields, key string, to **T, patch func(*T, fields) *apiError) *apiError {
	raw, ok := f[key]
	if !ok {
		return nil
	}
	if isNull(raw) {
		*to = nil
		return nil
	}
	inner, err := parseFields(raw)
	if err != nil {
		return err
	}
	n := *or(*to, new(T))
	if err := patch(&n, inner); err != nil {
		return err
	}
	*to = &n
	return nil
}

func patchTimestamping(t *timestamping, f fields) *apiError {
	if err := set(f, "mode", &t.Mode); err != nil {
		return err
	}
	return set(f, "uncapped", &t.Uncapped)
}

func patchEmpty(d *deleteOnEmpty, f fields) *apiError {
	age := &d.MinAgeSecs
	if err := set(f, "min_age_secs", &age); err != nil {
		return err
	}
	d.MinAgeSecs = *or(age, new(uint64))
	return nil
}

// patched returns c changed by a PATCH body; c is left as it was.
func (c basinConfig) patched(f fields) (basinConfig, *apiError) {
	if raw, ok := f["default_stream_config"]; ok {
		if isNull(raw) {
			c.Defaults = nil
		} else {
			inner, err := parseFields(raw)
			if err != nil {
				return c, err
			}
			if c.Defaults, err = c.Defaults.patched(inner); err != nil {
				return c, err
			}
		}
	}
	if err := set(f, "stream_cipher", &c.Cipher); err != nil {
		return c, err
	}
	if err := setBool(f, "create_stream_on_append", &c.CreateOnAppend); err != nil {
		return c, err
	}
	if err := setBool(f, "create_stream_on_read", &c.CreateOnRead); err != nil {
		return c, err
	}
	return c, c.check()
}
