package transport

import (
	"testing"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
)

// A subscription that was taken back while it waited to be opened opens nothing.
func TestSubscriptionTakenBackOpensNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(*session)
		want int64
	}{
		{"wanted", func(*session) {}, 1},
		{"taken back", func(s *session) { _ = s.handleControl(&relaypb.ToOwner{Unsubscribe: []uint64{1}}) }, 0},
		{"its link has ended", (*session).close, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			streams := &testStreams{busy: make(chan struct{})}
			s := NewServer(Config{Self: placement.PeerAddr{Name: "a"}}, streams)
			ses, err := s.openSession(t.Context(), &relaypb.Hello{Incarnation: 1, From: &relaypb.PeerAddress{Name: []byte("b")}, To: []byte("a"), Version: placement.RelayVersionNewest})
			if err != nil {
				t.Fatal(err)
			}
			_ = ses.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: 1, Stream: []byte("default/s")}}})
			c.end(ses)
			close(streams.busy)
			streams.wg.Wait()
			if n := streams.follows.Load(); n != c.want {
				t.Errorf("followed %d times", n)
			}
			s.closeSession(ses)
			s.Close()
		})
	}
}

// A peer that keeps asking without reading the answers, or takes back what it has asked for, loses
// its link: what waits for the bulk lane is bounded.
func TestPeerThatReadsNoAnswersLosesItsLink(t *testing.T) {
	t.Parallel()
	const most, asks = 16, 200
	for name, say := range map[string]func(h uint64) *relaypb.ToOwner{
		"it asks": func(h uint64) *relaypb.ToOwner {
			return &relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: h, Stream: []byte("no name")}}}
		},
		"it asks and takes back": func(h uint64) *relaypb.ToOwner {
			return &relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: h, Stream: []byte("no name")}}, Unsubscribe: []uint64{h}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			streams := &testStreams{full: true}
			s := NewServer(Config{Self: placement.PeerAddr{Name: "a"}}, streams)
			defer s.Close()
			defer streams.wg.Wait()
			ses, err := s.openSession(t.Context(), &relaypb.Hello{
				Incarnation: 1, To: []byte("a"), Version: placement.RelayVersionNewest, From: &relaypb.PeerAddress{Name: []byte("b")},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.closeSession(ses)
			ses.maxSubs = most
			said := uint64(0)
			for err == nil && said < asks {
				said++
				err = ses.handleControl(say(said))
			}
			if err == nil || len(ses.subs) > 2*most || ses.dirtyCount > 3*most {
				t.Fatalf("after %d: %v, with %d subscriptions of which %d wait", said, err, len(ses.subs), ses.dirtyCount)
			}
		})
	}
}

// A peer that reads the answers may go on asking.
func TestPeerThatReadsAnswersMayAskForever(t *testing.T) {
	t.Parallel()
	rig := newFrameRig(nil, 0)
	rig.s.maxSubs = 16
	for h := range uint64(200) {
		if err := rig.s.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: h, Stream: []byte("no name")}}, Unsubscribe: []uint64{h}}); err != nil {
			t.Fatal(err)
		}
		rig.s.fillFrame(&rig.builder, 0)
	}
	if rig.s.dirtyCount != 0 || len(rig.s.subs) != 0 {
		t.Errorf("%d subscriptions, %d wait", len(rig.s.subs), rig.s.dirtyCount)
	}
}
