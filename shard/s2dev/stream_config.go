package s2dev

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// streamConfig is a stream's configuration. Fields may be nil, but not in a stored stream
// (withDefaults).
type streamConfig struct {
	StorageClass  *string        `json:"storage_class"`
	Retention     *retention     `json:"retention_policy"`
	Timestamping  *timestamping  `json:"timestamping"`
	DeleteOnEmpty *deleteOnEmpty `json:"delete_on_empty"`
}

// retention is {"age": seconds} or {"infinite": {}}. Age 0 is infinite.
type retention struct{ Age uint64 }

type timestamping struct {
	Mode     *string `json:"mode"`
	Uncapped *bool   `json:"uncapped"`
}

type deleteOnEmpty struct {
	MinAgeSecs uint64 `json:"min_age_secs"`
}

type basinConfig struct {
	Defaults       *streamConfig `json:"default_stream_config"`
	Cipher         *string       `json:"stream_cipher"`
	CreateOnAppend bool          `json:"create_stream_on_append"`
	CreateOnRead   bool          `json:"create_stream_on_read"`
}

const (
	modePrefer  = "client-prefer"
	modeRequire = "client-require"
	modeArrival = "arrival"

	defaultRetention = 7 * 24 * time.Hour
)

func (r retention) MarshalJSON() ([]byte, error) {
	if r.Age == 0 {
		return []byte(`{"infinite":{}}`), nil
	}
	return fmt.Appendf(nil, `{"age":%d}`, r.Age), nil
}

func (r *retention) UnmarshalJSON(b []byte) error {
	var one map[string]json.RawMessage
	if err := json.Unmarshal(b, &one); err != nil {
		return err
	}
	if len(one) != 1 {
		return fmt.Errorf("retention_policy must be one of `age` and `infinite`")
	}
	if _, ok := one["infinite"]; ok {
		r.Age = 0
		return nil
	}
	age, ok := one["age"]
	if !ok {
		return fmt.Errorf("retention_policy must be one of `age` and `infinite`")
	}
	if err := json.Unmarshal(age, &r.Age); err != nil {
		return err
	}
	if r.Age == 0 {
		return invalidError("age must be greater than 0 seconds")
	}
	return nil
}

func (c *streamConfig) validate() *apiError {
	if c == nil {
		return nil
	}
	if c.Timestamping != nil && c.Timestamping.Mode != nil {
		switch *c.Timestamping.Mode {
		case modePrefer, modeRequire, modeArrival:
		default:
			return newError("bad_json", "unknown timestamping mode `%s`", *c.Timestamping.Mode)
		}
	}
	return nil
}

func (c *basinConfig) validate() *apiError {
	if c.Cipher != nil && *c.Cipher != "aegis-256" && *c.Cipher != "aes-256-gcm" {
		return newError("bad_json", "unknown stream cipher `%s`", *c.Cipher)
	}
	return c.Defaults.validate()
}

func firstNonNil[T any](vs ...*T) *T {
	for _, v := range vs {
		if v != nil {
			return v
		}
	}
	return nil
}

// withDefaults sets each missing value: from the basin's defaults, or else S2's default.
func (c *streamConfig) withDefaults(defaults *streamConfig) streamConfig {
	own, base := firstNonNil(c, &streamConfig{}), firstNonNil(defaults, &streamConfig{})
	ownT := firstNonNil(own.Timestamping, &timestamping{})
	baseT := firstNonNil(base.Timestamping, &timestamping{})
	week := retention{Age: uint64(defaultRetention / time.Second)}
	return streamConfig{
		StorageClass: firstNonNil(own.StorageClass, base.StorageClass, new("express")),
		Retention:    firstNonNil(own.Retention, base.Retention, &week),
		Timestamping: &timestamping{
			Mode:     firstNonNil(ownT.Mode, baseT.Mode, new(modePrefer)),
			Uncapped: firstNonNil(ownT.Uncapped, baseT.Uncapped, new(false)),
		},
		DeleteOnEmpty: firstNonNil(own.DeleteOnEmpty, base.DeleteOnEmpty, &deleteOnEmpty{}),
	}
}

// normalized returns nil for a configuration without settings, so that equal configurations compare
// equal.
func (c *streamConfig) normalized() *streamConfig {
	if c == nil {
		return nil
	}
	n := *c
	if n.Timestamping != nil && n.Timestamping.Mode == nil && n.Timestamping.Uncapped == nil {
		n.Timestamping = nil
	}
	if n == (streamConfig{}) {
		return nil
	}
	return &n
}

func equalJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
