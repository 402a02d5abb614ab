package logtest_test

import (
	"testing"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

func TestMemory(t *testing.T) {
	logtest.Test(t, func(*testing.T) shard.Log { return logtest.NewMemory(1) })
}
