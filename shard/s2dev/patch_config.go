package s2dev

import (
	"bytes"
	"encoding/json"
)

// patchFields is the body of a PATCH. An absent key keeps its setting, null restores the default, a
// value replaces it. In a struct, Go's decoder cannot tell the first two apart.
type patchFields map[string]json.RawMessage

func isNull(raw json.RawMessage) bool { return bytes.Equal(bytes.TrimSpace(raw), []byte("null")) }

func parseFields(raw []byte) (patchFields, *apiError) {
	var f patchFields
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, newError("bad_json", "%s", err)
	}
	return f, nil
}

// applyField applies a key to *to: an absent key leaves it, null makes it nil.
func applyField[T any](f patchFields, key string, to **T) *apiError {
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

func applyBool(f patchFields, key string, to *bool) *apiError {
	v := to
	if err := applyField(f, key, &v); err != nil {
		return err
	}
	if v == nil {
		v = new(false)
	}
	*to = *v
	return nil
}

// patched returns c changed by the body of a PATCH. It does not modify c.
func (c *streamConfig) patched(f patchFields) (*streamConfig, *apiError) {
	n := *firstNonNil(c, &streamConfig{})
	if err := applyField(f, "storage_class", &n.StorageClass); err != nil {
		return nil, err
	}
	if err := applyField(f, "retention_policy", &n.Retention); err != nil {
		return nil, err
	}
	if err := patchNested(f, "timestamping", &n.Timestamping, patchTimestamping); err != nil {
		return nil, err
	}
	if err := patchNested(f, "delete_on_empty", &n.DeleteOnEmpty, patchDeleteOnEmpty); err != nil {
		return nil, err
	}
	return &n, n.validate()
}

func patchNested[T any](f patchFields, key string, to **T, patch func(*T, patchFields) *apiError) *apiError {
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
	n := *firstNonNil(*to, new(T))
	if err := patch(&n, inner); err != nil {
		return err
	}
	*to = &n
	return nil
}

func patchTimestamping(t *timestamping, f patchFields) *apiError {
	if err := applyField(f, "mode", &t.Mode); err != nil {
		return err
	}
	return applyField(f, "uncapped", &t.Uncapped)
}

func patchDeleteOnEmpty(d *deleteOnEmpty, f patchFields) *apiError {
	age := &d.MinAgeSecs
	if err := applyField(f, "min_age_secs", &age); err != nil {
		return err
	}
	d.MinAgeSecs = *firstNonNil(age, new(uint64))
	return nil
}

// patched returns c changed by the body of a PATCH. It does not modify c.
func (c basinConfig) patched(f patchFields) (basinConfig, *apiError) {
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
	if err := applyField(f, "stream_cipher", &c.Cipher); err != nil {
		return c, err
	}
	if err := applyBool(f, "create_stream_on_append", &c.CreateOnAppend); err != nil {
		return c, err
	}
	if err := applyBool(f, "create_stream_on_read", &c.CreateOnRead); err != nil {
		return c, err
	}
	return c, c.validate()
}
