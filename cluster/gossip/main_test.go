package gossip

import (
	"testing"

	"go.uber.org/goleak"
)

// memberlist's Shutdown does not wait for the probe in flight.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probe"))
}
