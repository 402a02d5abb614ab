package s2

import (
	"os"
	"testing"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// The conformance suite for logs, on the embedded S2.
func TestEmbedded(t *testing.T) {
	r := newRig(t)
	t.Run("suite", func(t *testing.T) { // its parallel cases end before the rig is closed
		logtest.Test(t, func(*testing.T) shard.Log { return r.log })
	})
}

// TestLite runs it on the S2 at TEST_S2_ENDPOINT, which .ci/run sets for the real
// s2-lite.
func TestLite(t *testing.T) {
	endpoint := os.Getenv("TEST_S2_ENDPOINT")
	if endpoint == "" {
		t.Skip("TEST_S2_ENDPOINT names no S2")
	}
	log, err := Open(Config{Endpoint: endpoint, Basin: "fantail-logtest", CreateBasins: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	if err := log.EnsureBasin(t.Context(), "fantail-logtest"); err != nil {
		t.Fatal(err)
	}
	t.Run("suite", func(t *testing.T) {
		logtest.Test(t, func(*testing.T) shard.Log { return log })
	})
}
