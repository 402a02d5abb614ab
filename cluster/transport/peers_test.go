package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/internal/testlog"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// A connection that sends nothing does not delay Close.
func TestCloseDoesNotWaitForASilentConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipeNetwork()
		s := p.serve(t, "a", &testStreams{})
		conn, err := p.Dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		s.Close()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if err := errors.Join(conn.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
}

// A member that cannot be reached is logged once, and once more when it can.
func TestUnreachableMemberIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, log := newPipeNetwork(), testlog.Lines{}
		p.serve(t, "b", &testStreams{})
		says := func(out, again int) {
			t.Helper()
			if n, m := len(log.Containing("out of reach")), len(log.Containing("within reach")); n != out || m != again {
				t.Errorf("%d, then %d lines; want %d and %d", n, m, out, again)
			}
		}
		p.setCut(true)
		ps := p.link(t, "a", Config{Logger: log.Logger()})
		pass(warnUnreachableAfter - time.Second)
		says(0, 0)
		pass(time.Minute)
		says(1, 0)
		p.setCut(false)
		pass(5 * time.Second)
		says(1, 1)
		p.setCut(true)
		ps.Link("b").cancel(errPeerSilent)
		pass(warnUnreachableAfter - time.Second)
		p.setCut(false)
		pass(time.Minute) // it was not unreachable for long
		says(1, 1)
	})
}

// A process that has ended is not waited for: its address refuses connections. One that does not
// answer is.
func TestEndedProcessIsNotAwaited(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fail func(p *pipeNetwork)
		wait time.Duration
	}{
		"it refuses connections": {func(p *pipeNetwork) { p.setRefuse(true) }, maxRedialDelay},
		"it does not answer":     {func(p *pipeNetwork) { p.setCut(true) }, downPatience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPipeNetwork()
				p.serve(t, "b", &testStreams{})
				ps := p.link(t, "a", Config{})
				synctest.Wait()
				c.fail(p)
				ps.Link("b").cancel(errPeerSilent)
				synctest.Wait()
				if ps.Link("b") != nil || !ps.IsDownBriefly("b") {
					t.Fatal("the link is still there, or not awaited")
				}
				began := time.Now()
				if _, err := ps.AwaitLink(t.Context(), "b"); !errors.Is(err, placement.ErrUnreachable) {
					t.Error(err)
				}
				if took := time.Since(began); took > c.wait || ps.IsDownBriefly("b") {
					t.Errorf("awaited for %v; and still: %v", took, ps.IsDownBriefly("b"))
				}
				began = time.Now()
				if _, err := ps.AwaitLink(t.Context(), "b"); !errors.Is(err, placement.ErrUnreachable) || time.Since(began) > 0 {
					t.Errorf("%v, after %v more", err, time.Since(began))
				}
			})
		})
	}
}

// A goroutine of a link that panics costs the link, which is opened again.
func TestPanicOfALinkCostsTheLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, reg := newPipeNetwork(), prometheus.NewRegistry()
		p.serve(t, "b", &testStreams{})
		ps := p.link(t, "a", Config{Metrics: reg})
		synctest.Wait()
		l := ps.Link("b")
		l.goGuarded(func() { panic("boom") })
		synctest.Wait()
		if err := context.Cause(l.ctx); !errors.Is(err, shard.ErrPanic) {
			t.Errorf("ended by %v", err)
		}
		pass(maxRedialDelay)
		if again := ps.Link("b"); again == nil || again == l {
			t.Error("the link was not opened again")
		}
		want := "# HELP fantail_panics_total Panics that cost one reader, call or link, by where they were caught.\n" +
			"# TYPE fantail_panics_total counter\n" + `fantail_panics_total{where="relay_link"} 1` + "\n"
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "fantail_panics_total"); err != nil {
			t.Error(err)
		}
	})
}

// Neither one stranger, nor all of them, nor a member can have more than a bounded number of links,
// and they keep no member out.
func TestLinksOfAPeerAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipeNetwork()
		p.serve(t, "b", &testStreams{isMember: func(name string) bool { return !strings.HasPrefix(name, "stranger") }})
		member := p.link(t, "a", Config{})
		synctest.Wait()
		if member.Link("b") == nil {
			t.Fatal("no link")
		}
		client := p.client(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		link := uint64(1000)
		opens := func(name string) error {
			c, err := client.Control(ctx)
			if err != nil {
				return err
			}
			link++
			err = c.Send(&relaypb.ToOwner{Hello: &relaypb.Hello{
				Version: placement.RelayVersionNewest, From: &relaypb.PeerAddress{Name: []byte(name)}, To: []byte("b"), Incarnation: link,
			}})
			if err != nil {
				return err
			}
			_, err = c.Recv()
			return err
		}
		for i := range 2 * maxUnknownLinks {
			err := opens(fmt.Sprintf("stranger-%d", i))
			if want := i < maxUnknownLinks; (err == nil) != want || !want && status.Code(err) != codes.ResourceExhausted {
				t.Fatalf("link %d of strangers: %v", i, err)
			}
		}
		for i := 1; i < 2*maxLinksPerMember; i++ { // the member has one already
			if err := opens("a"); (err == nil) != (i < maxLinksPerMember) {
				t.Fatalf("link %d of a member: %v", i, err)
			}
		}
		late := p.link(t, "late", Config{})
		synctest.Wait()
		if late.Link("b") == nil {
			t.Error("a member is kept out")
		}
	})
}

// An owner of an earlier release, which would write an append whatever its condition, is not sent it.
func TestConditionsNeedALaterRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipeNetwork()
		p.serve(t, "b", &testStreams{tails: newTails(1)})
		ps := p.link(t, "a", Config{})
		synctest.Wait()
		l := ps.Link("b")
		q := &shard.Request{Stream: "s/0", Op: shard.OpAppend, ID: shard.NewAppendID(), Type: "text/plain", Messages: shard.NewMessages([]byte("m"))}
		for _, c := range []struct {
			version   uint32
			condition *shard.TailCondition
			want      error // of testStreams, if it arrives there
		}{
			{placement.RelayVersionIfMatch - 1, &shard.TailCondition{}, shard.ErrConditionUnsupported},
			{placement.RelayVersionIfMatch - 1, nil, shard.ErrNotFound},
			{placement.RelayVersionIfMatch, &shard.TailCondition{}, shard.ErrNotFound},
		} {
			l.peerVersion, q.IfMatch = c.version, c.condition
			if _, delivered, err := l.RequestWrite(t.Context(), q, placement.Route{}); !errors.Is(err, c.want) || delivered != (c.want == shard.ErrNotFound) { //nolint:errorlint // of the table
				t.Errorf("version %d: %v, delivered %v", c.version, err, delivered)
			}
		}
	})
}

// An owner of an earlier release is not asked for times, and its lack of an answer is no failure of its
// link.
func TestTimesNeedALaterRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipeNetwork()
		p.serve(t, "b", &testStreams{tails: newTails(1)})
		ps := p.link(t, "a", Config{})
		synctest.Wait()
		l := ps.Link("b")
		info := shard.Info{Exists: true, Generation: 1, Start: 1, Tail: 5, LogTail: 5}
		for version, want := range map[uint32]error{placement.RelayVersionFindTime - 1: placement.ErrCallFailed, placement.RelayVersionFindTime: shard.ErrNotFound} {
			l.peerVersion = version
			if _, err := l.RequestTime(t.Context(), "s/0", info, 7); !errors.Is(err, want) {
				t.Errorf("version %d: %v, want %v", version, err, want)
			}
		}
	})
}
