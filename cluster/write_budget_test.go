package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// The cost of a peer's write, with that of its messages' records, is charged where the write is
// carried out.
func TestPeersWritesAreCounted(t *testing.T) {
	f := &fleet{T: t, log: newFleet(t, 0).log}
	edge := f.add()
	owner := f.add(func(c *Config) { c.PeerWriteBytes = 64 << 10 })
	f.awaitAgreement()
	id := f.streamOwnedBy(owner)
	f.mustDo(edge, write(id, shard.OpCreate), shard.CodeCreated)
	f.mustDo(edge, write(id, shard.OpAppend, "small"), shard.CodeAppended)
	zeros := make([]string, 300)
	for i := range zeros {
		zeros[i] = "0"
	}
	if _, err := edge.Do(t.Context(), write(id, shard.OpAppend, zeros...)); !errors.Is(err, shard.ErrOverloaded) {
		t.Errorf("300 messages of a byte: %v", err)
	}
	f.mustDo(edge, write(id, shard.OpAppend, "small"), shard.CodeAppended)
}

// A peer that sends the head of a write, or all of its body, and then neither the rest nor the end
// holds its part of the budget until the deadline, and no longer.
func TestBodyThatNeverArrivesGivesItsBudgetBack(t *testing.T) {
	for name, sent := range map[string]int{"no body": 0, "part of the body": 100, "no end": 40000} {
		t.Run(name, func(t *testing.T) {
			f := &fleet{T: t, log: newFleet(t, 0).log}
			edge := f.add()
			owner := f.add(func(c *Config) {
				c.PeerWriteBytes, c.bodyGrace = int64(shard.RequestCost(40000, 1)), 300*time.Millisecond
			})
			f.awaitAgreement()
			id := f.streamOwnedBy(owner)
			f.mustDo(edge, write(id, shard.OpCreate), shard.CodeCreated)
			body := make([]byte, 40000)
			head := wire.EncodeRequest(write(id, shard.OpAppend, string(body)), placement.Route{})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			conn, err := grpc.NewClient("passthrough:///"+owner.relayAddr(), grpc.WithTransportCredentials(asPeer(t, edge.creds)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			call, err := relaypb.NewRelayClient(conn).Do(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := call.Send(&relaypb.WriteChunk{Head: head, Body: body[:sent]}); err != nil {
				t.Fatal(err)
			}
			if err := wire.StatusToError(call.RecvMsg(&relaypb.WriteReply{})); !errors.Is(err, shard.ErrOverloaded) || !strings.Contains(err.Error(), "in time") {
				t.Errorf("the write that never came whole: %v", err)
			}
			f.mustDo(edge, write(id, shard.OpAppend, string(body)), shard.CodeAppended)
		})
	}
}
