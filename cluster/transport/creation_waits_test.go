package transport

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// A wait for a creation ends once the owner knows of one, where another node owns the name by then, and
// with its link. Whatever ends it, the owner keeps nothing of it.
func TestAwaitCreation(t *testing.T) {
	t.Parallel()
	owner := &placement.RedirectError{}
	for name, c := range map[string]struct {
		id   shard.StreamID
		end  func(p *pipeNetwork, s *Server, streams *testStreams, cancel func())
		want func(error) bool
	}{
		"exists":  {"s/0", nil, func(err error) bool { return err == nil }},
		"created": {"s/x", func(_ *pipeNetwork, _ *Server, streams *testStreams, _ func()) { (*streams.created.Load()).Wake() }, func(err error) bool { return err == nil }},
		"moved": {"s/x", func(_ *pipeNetwork, s *Server, _ *testStreams, _ func()) {
			if wrong := s.CheckSubscriptions(time.Now(), func(shard.StreamID) (placement.PeerAddr, bool) {
				return placement.PeerAddr{Name: "c"}, false
			}); wrong != 0 {
				t.Errorf("%d subscriptions count as misplaced", wrong)
			}
		}, func(err error) bool { return errors.As(err, &owner) && owner.Owner.Name == "c" }},
		"taken back": {"s/x", func(_ *pipeNetwork, _ *Server, _ *testStreams, cancel func()) { cancel() }, func(err error) bool { return errors.Is(err, context.Canceled) }},
		"link lost":  {"s/x", func(_ *pipeNetwork, s *Server, _ *testStreams, _ func()) { s.Close() }, func(err error) bool { return errors.Is(err, placement.ErrUnreachable) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, streams := newPipeNetwork(), &testStreams{tails: newTails(1)}
				s := p.serve(t, "b", streams)
				ps := p.link(t, "a", Config{})
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				l := ps.Link("b")
				go func() { ended <- l.AwaitCreation(ctx, c.id, placement.Route{}) }()
				synctest.Wait()
				if c.end != nil {
					if n := streams.awaited.Load(); n != 1 || len(ended) > 0 {
						t.Errorf("%d waits, or it has ended", n)
					}
					c.end(p, s, streams, cancel)
				}
				if err := <-ended; !c.want(err) {
					t.Errorf("ended with %v", err)
				}
				synctest.Wait()
				if n := streams.awaited.Load(); n != 0 || streams.follows.Load() != 0 {
					t.Errorf("%d waits are left, %d feeds were asked for", n, streams.follows.Load())
				}
			})
		})
	}
}

// A wait that was taken back while it waited to begin waits for nothing.
func TestWaitTakenBackAwaitsNothing(t *testing.T) {
	t.Parallel()
	streams := &testStreams{busy: make(chan struct{})}
	s := NewServer(Config{Self: placement.PeerAddr{Name: "a"}}, streams)
	defer s.Close()
	ses, err := s.openSession(t.Context(), &relaypb.Hello{Incarnation: 1, From: &relaypb.PeerAddress{Name: []byte("b")}, To: []byte("a"), Version: placement.RelayVersionNewest})
	if err != nil {
		t.Fatal(err)
	}
	_ = ses.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: 1, Stream: []byte("default/s"), AwaitCreation: true}}, Unsubscribe: []uint64{1}})
	close(streams.busy)
	streams.wg.Wait()
	if n := streams.awaited.Load(); n != 0 {
		t.Errorf("%d waits", n)
	}
	s.closeSession(ses)
}

// An owner of an earlier release is asked whether there is a stream, and not to wait.
func TestWaitsNeedALaterRelease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, streams := newPipeNetwork(), &testStreams{tails: newTails(1)}
		p.serve(t, "b", streams)
		ps := p.link(t, "a", Config{})
		synctest.Wait()
		l := ps.Link("b")
		l.peerVersion = placement.RelayVersionAwait - 1
		if err := l.AwaitCreation(t.Context(), "s/x", placement.Route{}); !errors.Is(err, shard.ErrNotFound) {
			t.Errorf("%v", err)
		}
		if n := streams.awaited.Load(); n != 0 {
			t.Errorf("%d waits", n)
		}
	})
}
