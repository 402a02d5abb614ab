package s2

import (
	"os"
	"testing"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// TestLite runs the conformance suite against the S2 at TEST_S2_ENDPOINT, which
// .ci/run sets for the real s2-lite.
func TestLite(t *testing.T) {
	endpoint := os.Getenv("TEST_S2_ENDPOINT")
	if endpoint == "" {
		t.Skip("TEST_S2_ENDPOINT names no S2")
	}
	log, err := Open(Config{Endpoint: endpoint, Basin: "fantail-logtest", CreateBasins: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.EnsureBasin(t.Context(), "fantail-logtest"); err != nil {
		t.Fatal(err)
	}
	logtest.Test(t, func(*testing.T) shard.Log { return log })
}
