package logtest_test

import (
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

func TestMemoryPassesTheConformanceSuite(t *testing.T) {
	logtest.Test(t, func(*testing.T) shard.Log { return logtest.NewMemory(1) })
}

func TestClientPassesTheConformanceSuite(t *testing.T) {
	m := logtest.NewMemory(1)
	logtest.Test(t, func(*testing.T) shard.Log { return m.NewClient(1, time.Millisecond) })
}
