package transport

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
)

// An edge says how many readers it feeds with the subscription, and then once a second at most and only if
// that has changed. The owner answers heartbeats with the sum, to an edge that watches, and forgets what was
// reported when the subscription ends, or its link.
func TestReadersAreReportedWithHeartbeats(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *Server, sub *Subscription){
		"taken back": func(_ *Server, sub *Subscription) { sub.Unsubscribe() },
		"link lost":  func(s *Server, _ *Subscription) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, streams := newPipeNetwork(), &testStreams{tails: newTails(1)}
				s := p.serve(t, "b", streams)
				ps := p.link(t, "a", Config{})
				synctest.Wait()
				sub := ps.Link("b").Subscribe(&recorder{}, "s/0", 0, placement.Route{})
				sub.SetReaders(3, false)
				pass(2 * time.Second)
				if n := streams.readers.Load(); n != 3 {
					t.Errorf("%d readers were reported", n)
				}
				before := streams.reports.Load()
				for i := range 100 {
					sub.SetReaders(i, false)
					pass(100 * time.Millisecond)
				}
				pass(time.Second)
				if n, said := streams.readers.Load(), streams.reports.Load()-before; n != 99 || said > 11 {
					t.Errorf("%d readers, after %d reports in 10 s", n, said)
				}
				before = streams.reports.Load()
				pass(10 * time.Second)
				if streams.reports.Load() != before {
					t.Error("what has not changed is reported again")
				}
				if _, known := sub.Total(); known {
					t.Error("a total is known that was not asked for")
				}
				sub.SetReaders(99, true)
				streams.readers.Add(1000) // of others
				pass(2 * time.Second)
				if n, known := sub.Total(); n != 1099 || !known {
					t.Errorf("the total is %d, %v", n, known)
				}
				sub.SetReaders(100, true) // counts before it is reported
				if n, _ := sub.Total(); n != 1100 {
					t.Errorf("the total is %d", n)
				}
				pass(2 * time.Second)
				if n, _ := sub.Total(); n != 1100 {
					t.Errorf("the total is %d", n)
				}
				sub.SetReaders(100, false)
				if _, known := sub.Total(); known {
					t.Error("a total is known that nobody watches")
				}
				sub.SetReaders(100, true)
				sub.NoteTotal(7) // which the owner has told otherwise
				if n, known := sub.Total(); n != 100 || !known {
					t.Errorf("the total is %d, %v: less than there are here", n, known)
				}
				end(s, sub)
				pass(2 * time.Second)
				if n := streams.readers.Load(); n != 1000 {
					t.Errorf("%d readers are left", n)
				}
			})
		})
	}
}

// What a peer reports is bounded, and what it reports of no subscription is ignored.
func TestReportedReadersAreBounded(t *testing.T) {
	t.Parallel()
	streams := &testStreams{tails: newTails(1)}
	s := NewServer(Config{Self: placement.PeerAddr{Name: "a"}}, streams)
	defer s.Close()
	ses := openTestSession(t, s)
	report(t, ses, 1, 5)
	if n := streams.readers.Load(); n != 0 {
		t.Errorf("%d readers of no subscription", n)
	}
	subscribeTest(t, ses, 1)
	streams.wg.Wait()
	report(t, ses, 1, 1<<63)
	if n := streams.readers.Load(); n != 1<<30 {
		t.Errorf("%d readers", n)
	}
	report(t, ses, 1, 2)
	if n := streams.readers.Load(); n != 2 {
		t.Errorf("%d readers", n)
	}
	s.closeSession(ses)
	if n := streams.readers.Load(); n != 0 {
		t.Errorf("%d readers are left", n)
	}
}

func openTestSession(t *testing.T, s *Server) *session {
	t.Helper()
	ses, err := s.openSession(t.Context(), &relaypb.Hello{Incarnation: 1, From: &relaypb.PeerAddress{Name: []byte("b")}, To: []byte("a"), Version: placement.RelayVersionNewest})
	if err != nil {
		t.Fatal(err)
	}
	return ses
}

func subscribeTest(t *testing.T, ses *session, handle uint64) {
	t.Helper()
	if err := ses.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: handle, Stream: []byte("s/0")}}}); err != nil {
		t.Fatal(err)
	}
}

func report(t *testing.T, ses *session, handle, readers uint64) {
	t.Helper()
	if err := ses.handleControl(&relaypb.ToOwner{Readers: []*relaypb.ReaderReport{{Handle: handle, Readers: readers}}}); err != nil {
		t.Fatal(err)
	}
}
