package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// panickingHost is a stream manager that panics when it is asked for one stream.
type panickingHost struct {
	streamManager
	id  shard.StreamID
	off atomic.Bool
}

func (h *panickingHost) panicIfAsked(id shard.StreamID) {
	if id == h.id && !h.off.Load() {
		panic("boom")
	}
}

func (h *panickingHost) Info(ctx context.Context, id shard.StreamID, a shard.InfoOptions) (shard.Info, error) {
	h.panicIfAsked(id)
	return h.streamManager.Info(ctx, id, a)
}

func (h *panickingHost) Do(ctx context.Context, q *shard.Request) (shard.Outcome, error) {
	h.panicIfAsked(q.Stream)
	return h.streamManager.Do(ctx, q)
}

func (h *panickingHost) Follow(ctx context.Context, id shard.StreamID, from shard.Pos) (*shard.TailBuffer, func(), error) {
	h.panicIfAsked(id)
	return h.streamManager.Follow(ctx, id, from)
}

// checkPanics checks what a node's registry has counted, by place.
func checkPanics(t *testing.T, reg prometheus.Gatherer, want string) {
	t.Helper()
	want = "# HELP fantail_panics_total Panics that cost one reader, call or link, by where they were caught.\n" +
		"# TYPE fantail_panics_total counter\n" + want
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "fantail_panics_total"); err != nil {
		t.Error(err)
	}
}

// A handler that panics costs the call: no other call fails, no link breaks, no other node takes
// the stream, and a write's caller learns that its outcome is unknown.
func TestPanicOfAHandlerCostsOneCall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	reg := prometheus.NewRegistry()
	owner := f.add(func(c *Config) { c.Metrics = reg })
	other := f.nodes[0]
	f.awaitAgreement()
	id, innocent := f.streamOwnedBy(owner), shard.StreamID("")
	for i := 0; innocent == "" || innocent == id; i++ {
		innocent = shard.StreamID("other/" + strings.Repeat("x", i))
		if owner.currentTable().Owner(innocent).Name != owner.self {
			innocent = ""
		}
	}
	f.mustDo(other, write(id, shard.OpCreate), shard.CodeCreated)
	f.mustDo(other, write(innocent, shard.OpCreate), shard.CodeCreated)
	h := &panickingHost{streamManager: owner.local.manager, id: id}
	owner.local.manager = h
	links := f.links()
	if _, err := other.Info(t.Context(), id, 0); !errors.Is(err, shard.ErrUnavailable) || errors.Is(err, placement.ErrUnreachable) {
		t.Errorf("state: %v", err)
	}
	checkPanics(t, reg, `fantail_panics_total{where="relay_call"} 1`+"\n")
	if _, err := other.Do(t.Context(), write(id, shard.OpAppend, "x")); !errors.Is(err, shard.ErrOutcomeUnknown) {
		t.Errorf("append: %v", err)
	}
	checkPanics(t, reg, `fantail_panics_total{where="relay_call"} 3`+"\n") // it was tried twice
	if _, _, err := other.Follow(t.Context(), id, 0); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("follow: %v", err)
	}
	checkPanics(t, reg, `fantail_panics_total{where="relay_call"} 3`+"\n"+`fantail_panics_total{where="relay_subscription"} 1`+"\n")
	f.mustDo(other, write(innocent, shard.OpAppend, "x"), shard.CodeAppended)
	if !slices.Equal(links, f.links()) {
		t.Error("links broke")
	}
	if n := f.forcedRequests(); n != 0 {
		t.Errorf("%v requests insisted on being served", n)
	}
	h.off.Store(true)
	f.mustDo(other, write(id, shard.OpAppend, "x"), shard.CodeAppended)
}

// A peer that asks for a page above the tail is refused.
func TestPageAboveTheTailIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner := f.nodes[0]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
	l := f.nodes[1].peers.Link(owner.self)
	for _, from := range []uint64{0, 1, 1 << 40} {
		t.Run(fmt.Sprint("from ", from), func(t *testing.T) {
			if _, err := l.RequestPage(t.Context(), id, shard.Info{Exists: true, Generation: 2}, shard.Pos(from)); !errors.Is(err, placement.ErrCallFailed) {
				t.Error(err)
			}
		})
	}
	f.mustDo(f.nodes[1], write(id, shard.OpAppend, "x"), shard.CodeAppended)
}
