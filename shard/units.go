package shard

import (
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// Pos is tail.Pos, under the name that callers of this package use.
type Pos = tail.Pos

// Generation is tail.Generation, under the name that callers of this package use.
type Generation = tail.Generation

// Millis is tail.Millis, under the name that callers of this package use.
type Millis = tail.Millis

// MillisOf returns t as Millis; every instant before 1970 is 0.
func MillisOf(t time.Time) Millis { return Millis(max(t.UnixMilli(), 0)) }
